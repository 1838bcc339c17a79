#!/bin/sh
# Runs this project's set-up with the first Python that is new enough: `find_python.sh ARGUMENTS`.
# PYTHON=/path/to/python, if set, is the only candidate. Needs nothing but a POSIX shell, so that
# an old Python gets a sentence and not a syntax error.

good='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'

try() {
    python=$1
    shift
    if "$python" -c "$good" >/dev/null 2>&1; then
        exec "$python" -m minivllm.setup.bootstrap "$@"
    fi
}

if [ -n "$PYTHON" ]; then
    try "$PYTHON" "$@"
else
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        try "$name" "$@"
    done
fi

found=$("${PYTHON:-python3}" --version 2>&1 | head -n 1)
echo "set-up failed: no Python 3.10 to 3.14 was found (${PYTHON:-python3} answers: $found)" >&2
echo "what to do: install one (python.org, or your system's packages), or name it:" >&2
echo "            make setup PYTHON=/path/to/python3.12" >&2
exit 1
