"""The set-up: ``python -m minivllm.setup.bootstrap setup|demo|test|lint|format`` (see Makefile).

Stage 1, ``base``: ``.venv`` and the base package (seconds). Stage 2, ``engine``: torch and what it
takes to run a model; ``dev`` adds what the tests need. Stage 3: the model. A stage that is done
leaves a stamp, made of what it was installed from, so that a second run does nothing and needs no
network. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from minivllm.errors import MiniVLLMError, SetupError
from minivllm.setup.environment import Environment
from minivllm.setup.pip import PipError
from minivllm.setup.progress import EngineStatus, StatusBoard, TerminalReporter

if TYPE_CHECKING:
    from minivllm.models.source import ModelSource

DEFAULT_MODEL = "smollm2-135m"
COMMANDS = {
    "setup": "make the environment, install both stages, fetch the model",
    "demo": "install stage 1, then open the dashboard; the rest follows in the background",
    "test": "install everything, then run pytest",
    "lint": "ruff and mypy",
    "format": "let ruff rewrite the files",
}


def engine_is_installed(environment: Environment) -> bool:
    """Has the Python at hand what it takes to run a model?

    In the checkout's own environment the stamp tells: a set-up that was interrupted may have left
    packages that can be imported but are not whole. Elsewhere somebody else installed them.
    """
    if environment.is_ours():
        return environment.has("engine")
    return all(importlib.util.find_spec(name) for name in ("torch", "tokenizers", "gguf"))


def prepare_engine(board: StatusBoard, environment: Environment | None = None) -> ModelSource:
    """Stages 2 and 3, told on ``board``; at their end torch can be imported by this process.

    Raises a named error when one fails; ``board`` then says ``failed`` with the remedy.
    """
    environment = environment or Environment()
    try:
        if not engine_is_installed(environment):
            board.set(EngineStatus.installing())
            if not environment.is_ours():
                raise SetupError(
                    f"the engine's part is not installed in {sys.prefix}",
                    "pip install 'minivllm[engine]' there, or start it with `make demo`",
                )
            environment.install("engine", lambda what: board.set(EngineStatus.installing(what)))
            importlib.invalidate_caches()  # or this process would not see what is new on the disk
        return fetch_model(board)
    except MiniVLLMError as error:
        what, _, remedy = str(error).partition("\nwhat to do: ")
        board.set(EngineStatus.failed(what, remedy or "run `make setup` to see it in full"))
        raise


def fetch_model(board: StatusBoard, model: str = DEFAULT_MODEL) -> ModelSource:
    """Stage 3."""
    from minivllm.models.source import resolve

    return resolve(model, lambda done, total: board.set(EngineStatus.model(done, total)))


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status, and explains a failure in one or two lines."""
    if not arguments or arguments[0] not in COMMANDS:
        for name, does in COMMANDS.items():
            print(f"  {name:8} {does}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    try:
        _run(arguments[0], list(arguments[1:]))
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on from here", file=sys.stderr)
        return 130
    except PipError as error:
        print(f"{error.output}\n\nset-up failed: {error}", file=sys.stderr)
        return 1
    except MiniVLLMError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        remedy = "check the disk's space and who owns this directory, then run it again"
        print(f"set-up failed: {error}\nwhat to do: {remedy}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, rest: list[str]) -> None:
    environment = Environment()
    environment.ensure()
    _install(environment, "base", "the base package")
    if not environment.is_ours():
        # Go on as the environment's Python: it is the one that the model is fetched with.
        _become([str(environment.python), "-m", "minivllm.setup.bootstrap", command, *rest])
    python = sys.executable
    if command == "demo":
        _become([python, "-m", "minivllm", "demo", *rest])
    if command == "setup":
        _install(environment, "engine", "the engine (torch and more: this may take minutes)")
        _fetch()
        print("set-up is complete: try `make demo`, or .venv/bin/minivllm --help")
        return
    _install(environment, "dev", "the engine and the test tools (this may take minutes)")
    if command == "test":
        _fetch()
        # Two at a time, each file in one process: its fixtures (a model, a browser) are made once.
        _become([python, "-m", "pytest", "-n", "2", "--dist", "loadfile", *rest])
    elif command == "format":
        _call(["ruff", "check", "--fix", "."], ["ruff", "format", "."])
    else:
        _call(["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])


def _install(environment: Environment, stage: str, title: str) -> None:
    if environment.has(stage):
        return
    began = time.monotonic()
    print(f"installing {title}", flush=True)
    environment.install(stage, lambda what: print(f"  {what}", flush=True))
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)


def _fetch() -> None:
    board = StatusBoard(EngineStatus("model", "model"))
    reporter = TerminalReporter(sys.stdout)
    board.subscribe(lambda status: reporter(status) if status.total else None)
    try:
        fetch_model(board)
    finally:
        reporter.close()  # a failure is told on a line of its own


def _call(*modules: list[str]) -> None:
    """Run each as ``python -m``, all of them even if one fails."""
    failed = [m for m in modules if subprocess.run([sys.executable, "-m", *m]).returncode != 0]
    if failed:
        names = ", ".join(" ".join(module) for module in failed)
        raise SetupError(f"{names} found something", "see above; `make format` may help")


def _become(command: list[str]) -> NoReturn:
    """Replace this process, so that no wrapper stands between the terminal and the program."""
    sys.stdout.flush()
    os.execv(command[0], command)


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
