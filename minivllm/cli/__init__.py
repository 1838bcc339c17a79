"""The command line: ``minivllm demo | serve | chat | generate | step | replay | trace``.

One file for each command; ``flags.py`` and ``options.py`` hold the engine's flags, which they
share. Command modules import what they run inside the command, so that ``--help`` is quick and
needs no torch. Counterpart in vLLM: ``vllm/entrypoints/cli/``.
"""
