"""A ``minivllm serve`` in a process of its own: started, asked, looked into, ended by its pid."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

SCRIPTED = "tests.load.scripted"
REAL = "minivllm"

START_S = 120.0
END_S = 30.0


class ServerProcess:
    """A context manager. ``module``: SCRIPTED says letters and needs no model, REAL runs one.
    ``root``: the checkout that runs."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        module: str = SCRIPTED,
        root: Path = ROOT,
        **environment: str,
    ) -> None:
        self.log_path = directory / "server.log"
        self.temporary = directory / "t"  # where it makes its sockets, for all we know
        self.temporary.mkdir(exist_ok=True)
        self._command = [sys.executable, "-m", module, "serve", "--port", "0", *flags]
        self._root, self._environment = root, environment
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> ServerProcess:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self._root),
            "TMPDIR": str(self.temporary),
            **self._environment,
        }
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._root, env=environment
            )
        poll(lambda: self._address() is not None, START_S, "the server's address in its log", self)
        self.port = self._address() or 0
        poll(lambda: self.status("/health") == 200, START_S, "/health 200", self)
        return self

    def __exit__(self, *_: object) -> None:
        process = self.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                pass
        for pid in [*self.children(), *([process.pid] if process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        process.wait(END_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _address(self) -> int | None:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server has ended with {self.process.returncode}:\n{self.log}")
        found = re.search(r"API http://[^/]*:(\d+)/v1", self.log)
        return int(found[1]) if found else None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    # --- asked -----------------------------------------------------------------------------------

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self, path: str) -> int | None:
        """None if there is no answer."""
        try:
            return self.get(path)[0]
        except OSError:
            return None

    def load(self) -> dict[str, Any]:
        status, body = self.get("/load")
        assert status == 200, body
        return json.loads(body)

    def metric(self, name: str) -> float:
        """The sum over all label sets, such as engines."""
        status, body = self.get("/metrics")
        assert status == 200, body
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", body.decode(), re.M)
        assert found, f"no metric {name}"
        return sum(map(float, found))

    def is_idle(self) -> bool:
        """Does nothing run or wait, and is every block free (cached ones count as free)?"""
        names = "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"
        return self.load()["server_load"] == 0 and not any(
            self.metric(f"vllm:{name}") for name in names
        )

    # --- looked into -----------------------------------------------------------------------------

    def children(self) -> list[int]:
        """Pids of all processes below it, zombies included."""
        return descendants(self.process.pid)

    def zombies(self) -> list[int]:
        return [pid for pid in self.children() if state_of(pid) == "Z"]

    def engine_pids(self) -> list[int]:
        """Processes that run an engine core, in order of their start."""
        found = [pid for pid in self.children() if "core_proc" in command_of(pid)]
        return sorted(found)

    def sockets(self) -> list[str]:
        """Names of socket files below its temporary directory."""
        return sorted(str(path) for path in self.temporary.rglob("*") if path.is_socket())

    def open_files(self) -> int:
        return sum(len(entries) for entries in self._each("fd"))

    def memory_mb(self) -> float:
        """Resident, of it and its children together."""
        pages = 0
        for pid in [self.process.pid, *self.children()]:
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                pass
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def threads(self) -> int:
        return sum(len(entries) for entries in self._each("task"))

    def _each(self, directory: str) -> Iterator[list[str]]:
        """What /proc has there, for it and its children."""
        for pid in [self.process.pid, *self.children()]:
            try:
                yield os.listdir(f"/proc/{pid}/{directory}")
            except OSError:
                pass

    # --- ended -----------------------------------------------------------------------------------

    def end(self, sign: signal.Signals = signal.SIGTERM, timeout: float = END_S) -> int:
        """Ask it to end, and wait; its exit status."""
        self.process.send_signal(sign)
        return self.process.wait(timeout)


def poll(
    holds: Callable[[], bool], seconds: float, what: str, server: ServerProcess | None = None
) -> None:
    """Wait until something holds; else TimeoutError with the server's log."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            log = "" if server is None else f"; the server's log ends:\n{server.log[-4000:]}"
            raise TimeoutError(f"not within {seconds:g} s: {what}{log}")
        time.sleep(0.05)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, parent, …; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def state_of(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[0] if fields else None


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    stats = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    parents = {child: int(fields[1]) for child, fields in stats.items() if fields}
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found
