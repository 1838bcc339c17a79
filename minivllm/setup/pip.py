"""pip as a child process: its lines as progress, its failures as one sentence and a remedy.

pip is run in a session of its own, so that Ctrl-C reaches this process alone, which then ends the
child: no installation is left running behind a program that has gone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minivllm.errors import SetupError

TICK_S = 0.25

_PACKAGE_LINE = re.compile(
    r"\s*(?:Downloading|Processing) (?:\S*/)?([A-Za-z0-9_.]+)-\d[^\s(]*(?: \((.+)\))?"
)

_running: set[subprocess.Popen[str]] = set()

# The first pattern that is found in pip's output gives the sentence and the remedy. Order matters:
# a full disk or a refused connection also ends in "could not install" and the like.
_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        "the disk is full",
        "free some space (the engine needs about 2 GB, with CUDA 7 GB), then run it again",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index's certificate could not be verified",
        "behind a proxy of your organisation, point PIP_CERT at its certificate; then run it again",
    ),
    (
        r"NewConnectionError|NameResolutionError|Temporary failure in name resolution"
        r"|Connection refused|ConnectTimeout|Network is unreachable|ReadTimeout"
        r"|Cannot connect to proxy|Connection broken|Max retries exceeded",
        "the package index cannot be reached",
        "check the network (or the proxy in HTTPS_PROXY), then run it again: "
        "what is done already is kept",
    ),
    (
        r"Permission denied|Errno 13",
        "a file may not be written",
        "check who owns this directory and your cache directory, then run it again",
    ),
    (
        r"No matching distribution found|requires a different Python|ResolutionImpossible",
        "a package has no version for this Python and platform",
        "use another Python: make setup PYTHON=/path/to/python3.12",
    ),
    (
        r"No module named pip",
        "this Python has no pip",
        "install pip into it (python -m ensurepip), or delete .venv and run it again",
    ),
)


class PipError(SetupError):
    """pip failed; ``output`` holds its last lines."""

    def __init__(self, what: str, remedy: str, output: str) -> None:
        super().__init__(what, remedy)
        self.output = output


def run_pip(
    arguments: Sequence[str],
    *,
    python: str = sys.executable,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Run ``pip ARGUMENTS`` to its end; ``on_tick`` is called a few times a second meanwhile.

    Raises PipError, a SetupError, when it fails; whatever interrupts this call ends the child.
    """
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    lines: list[str] = []
    # Ctrl-C waits until the child is known here, or nobody would end it. The child inherits that:
    # it is ended by SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _running.add(child)
    except BaseException:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        raise

    def read() -> None:
        assert child.stdout is not None  # PIPE was asked for
        for line in child.stdout:
            lines.append(line.rstrip())
            on_line(lines[-1])

    reader = threading.Thread(target=read, name="pip-output", daemon=True)
    try:
        reader.start()  # while SIGINT is blocked, so the thread does not take it either
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            try:
                child.wait(TICK_S)
                break
            except subprocess.TimeoutExpired:
                on_tick()
        reader.join(5)
    finally:
        _end(child)
        _running.discard(child)
    if child.returncode != 0:
        what, remedy = explain("\n".join(lines))
        raise PipError(what, remedy, "\n".join(lines[-15:]))


def explain(output: str) -> tuple[str, str]:
    """What happened and what to do, from pip's output."""
    for pattern, what, remedy in _FAILURES:
        if re.search(pattern, output):
            return what, remedy
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    last = (errors or output.strip().splitlines() or ["it printed nothing"])[-1]
    return f"pip failed: {last.removeprefix('ERROR: ')}", "see pip's words above, then run it again"


def downloaded_package(line: str) -> str | None:
    """``torch (192 MB)`` from the line in which pip says that it fetches a large package."""
    if line.startswith("Installing collected packages:"):
        return f"{line.count(',') + 1} packages"  # all are here; unpacking takes a while, too
    match = _PACKAGE_LINE.match(line)
    if not match:
        return None
    name, size = match.groups()
    if size and "MB" in size:
        return f"{name} ({size})"
    return name if name == "torch" else None  # from a directory: pip does not tell the size


def stop_running() -> None:
    """End every pip that still runs: for a program that ends while set-up is under way."""
    for child in list(_running):
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is not None:
        return
    for sign, patience_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        try:
            os.killpg(child.pid, sign)  # start_new_session made it the leader of its group
            child.wait(patience_s)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
