"""EngineProcess: one engine's process and its private directory, from the first to the last.

    settings ──stdin──►  python -m minivllm.engine.core_proc  ──stdout, stderr──► this process's log
                                      │
                                  waitpid, on a thread: its death is noticed at once

Started by ``subprocess``, never by a fork of this process, which has threads. Counterpart in vLLM:
``CoreEngineProcManager`` in ``vllm/v1/engine/utils.py``, on ``multiprocessing`` with pickled
settings.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

import msgspec
import zmq

from minivllm.engine.wire import CoreSettings
from minivllm.errors import ConfigError, EngineStartError

logger = logging.getLogger(__name__)

KILLED_S = 5.0
"""How long the system may take to end a process that was killed."""
LONGEST_NAME = "trace.replay"
_LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


def private_directory() -> str:
    """A new directory for this user alone; Unix sockets are made in it. Raises ConfigError where
    its path leaves no room for their names."""
    directory = tempfile.mkdtemp(prefix="minivllm-")  # mode 0700, whatever the umask
    if len(os.fsencode(os.path.join(directory, LONGEST_NAME))) > zmq.IPC_PATH_MAX_LEN:
        os.rmdir(directory)
        most = zmq.IPC_PATH_MAX_LEN - len("/minivllm-01234567/" + LONGEST_NAME)
        allowed = f"a directory with a path of at most {most} bytes, as sockets are made in it"
        raise ConfigError("TMPDIR", tempfile.gettempdir(), allowed)
    return directory


class EngineProcess:
    """Runs from the constructor on. ``on_exit`` is called once, on a thread, after its end."""

    def __init__(
        self, settings: CoreSettings, on_exit: Callable[[], None], num_threads: int | None = None
    ) -> None:
        """``num_threads``: of torch and its libraries; None: as many as they like. Raises
        EngineStartError."""
        self._index = settings.index
        self._exited = threading.Event()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "minivllm.engine.core_proc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(num_threads),
            )
        except OSError as error:
            raise EngineStartError(f"no process can be started: {error.strerror}") from error
        self.pid = self._process.pid
        self._write(msgspec.json.encode(settings) + b"\n")
        self._log_thread = threading.Thread(
            target=self._copy_log, name=f"engine{self._index}-log", daemon=True
        )
        self._log_thread.start()
        threading.Thread(
            target=self._wait, args=(on_exit,), name=f"engine{self._index}-wait", daemon=True
        ).start()

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None while it runs."""
        return self._process.returncode if self._exited.is_set() else None

    def how_it_ended(self) -> str:
        code = self._process.returncode
        if code is None:
            return "runs"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"was ended by {name}"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        self._process.kill()

    def end(self, patience_s: float) -> None:
        """It was told to end: wait so long, then tell it by SIGTERM, then by SIGKILL. Reaps it."""
        if not self._exited.wait(patience_s):
            if patience_s:
                logger.warning("engine %d does not end within %g s", self._index, patience_s)
            self._process.terminate()
            if not self._exited.wait(1.0):
                self._process.kill()
                self._exited.wait(KILLED_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log_thread.join(timeout=1.0)  # somebody it has started may hold the pipe open

    def _write(self, settings: bytes) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(settings)
                stdin.flush()  # and stays open: its end is the word that this process is gone
        except BrokenPipeError:
            pass  # it has ended already, which the waiting thread tells

    def _wait(self, on_exit: Callable[[], None]) -> None:
        self._process.wait()
        self._exited.set()
        on_exit()

    def _copy_log(self) -> None:
        """Its lines, into this process's log; a line without a level goes on with the one
        before."""
        level = logging.WARNING
        if self._process.stdout is None:
            return
        with self._process.stdout as lines:
            while line := lines.readline(65536):
                text = line.decode(errors="replace").rstrip("\n")
                if found := _LOG_LINE.match(text):
                    level, text = getattr(logging, found[1]), text[found.end() :]
                logger.log(level, "engine %d: %s", self._index, text)


def remove(directory: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _environment(num_threads: int | None) -> dict[str, str]:
    """The child finds the modules that this process finds, and no others."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    if num_threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(num_threads)
    return environment
