"""The virtual environment of one checkout: made, filled stage by stage, and stamped.

Standard library only: it is used before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from minivllm.errors import SetupError
from minivllm.setup.pip import downloaded_package, run_pip

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"base": ".", "engine": ".[engine]", "dev": ".[engine,structured,dev]"}
"""Each stage with what pip is asked for; a later one contains the earlier ones."""
VENV_BYTES = 50 * 2**20
"""An empty virtual environment with pip takes half of this."""


class Environment:
    """``.venv`` in the checkout's directory, and the stamps of what is installed in it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self._stamp_file = self.path / "minivllm-setup.json"

    def is_ours(self) -> bool:
        """Is this process run by the environment's own Python?"""
        return Path(sys.prefix).resolve() == self.path.resolve()

    def recipe(self) -> str:
        """Hash of all that an installation depends on; the place, because it is editable."""
        digest = hashlib.sha256(str(self.root).encode())
        for name in ("pyproject.toml", "constraints.txt"):
            digest.update(self._source(name).read_bytes())
        return digest.hexdigest()

    def has(self, stage: str) -> bool:
        """Was ``stage`` installed from just the recipe of now?"""
        return self._stamps().get(stage) == self.recipe()

    def ensure(self) -> None:
        """Make the virtual environment, unless a working one is there.

        Raises SetupError, for instance where Debian's Python comes without ``ensurepip``.
        """
        if self._works():
            return
        print(f"making {self.path}", flush=True)
        command = [sys.executable, "-m", "venv", "--clear", str(self.path)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode == 0 and self._works():
            return
        free_bytes = shutil.disk_usage(self.root).free  # before what was made is removed again
        shutil.rmtree(self.path, ignore_errors=True)  # a half-made one would look like a whole one
        raise venv_error(made.stdout + made.stderr, free_bytes)

    def install(self, stage: str, on_package: Callable[[str], None] = lambda what: None) -> None:
        """Install a stage with pip, pinned by ``constraints.txt``, and stamp it.

        ``on_package`` hears of each package that is fetched, ``torch (192 MB)``. Raises PipError.
        """

        def on_line(line: str) -> None:
            if package := downloaded_package(line):
                on_package(package)

        recipe = self.recipe()  # of before: what changes meanwhile is not what was installed
        constraints = str(self._source("constraints.txt"))
        with self._lock():
            if self.has(stage):
                return  # by another set-up, for which this one waited
            run_pip(
                ["install", "--retries", "2", "-c", constraints, "-e", STAGES[stage]],
                python=str(self.python),
                cwd=self.root,
                on_line=on_line,
            )
            self._stamp(stage, recipe)

    def _source(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise SetupError(
                f"{path} is missing, so the engine's part cannot be installed from here",
                "run it in a clone of the repository, or: pip install 'minivllm[engine]'",
            )
        return path

    def _works(self) -> bool:
        """Does it hold a Python that is new enough, with pip?"""
        check = (
            "import sys, importlib.util as u; "
            "sys.exit(sys.version_info < (3, 10) or u.find_spec('pip') is None)"
        )
        try:
            return subprocess.run([self.python, "-c", check], capture_output=True).returncode == 0
        except OSError:
            return False

    def _stamps(self) -> dict[str, str]:
        try:
            found = json.loads(self._stamp_file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _stamp(self, stage: str, recipe: str) -> None:
        names = list(STAGES)
        done = dict.fromkeys(names[: names.index(stage) + 1], recipe)
        partial = self._stamp_file.with_suffix(".partial")
        partial.write_text(json.dumps({**self._stamps(), **done}, indent=1))
        partial.replace(self._stamp_file)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One installation at a time; freed by the system if its holder dies."""
        with (self.path / "minivllm-setup.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another set-up is at work here; waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def venv_error(output: str, free_bytes: int) -> SetupError:
    """Why ``python -m venv`` failed, and what to do."""
    if "ensurepip is not available" in output or "No module named" in output:
        return SetupError(
            f"{sys.executable} cannot make virtual environments: its ensurepip is missing",
            "apt-get install python3-venv (Debian, Ubuntu), "
            "or name another Python: make setup PYTHON=/path/to/python3.12",
        )
    if free_bytes < VENV_BYTES:  # its own message does not say so
        return SetupError("the disk is full", "free about 2 GB (with CUDA 7 GB), then run it again")
    last = (output.strip().splitlines() or ["it printed nothing"])[-1]
    return SetupError(
        f"the virtual environment could not be made: {last}",
        "name another Python: make setup PYTHON=/path/to/python3.12",
    )
