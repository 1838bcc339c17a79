"""Servers in processes of their own, and what a test wants to know of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

PATIENCE_S = 30.0


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Poll until ``condition()`` is true; fail if that takes longer."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


@dataclass
class RunningServer:
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What it has said on stderr so far."""
    port: int = 0
    ready_line: str = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def get(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        with contextlib.closing(connection):
            connection.request(method, path, data, named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def raw(self, request: bytes) -> bytes:
        """Exactly these bytes; the whole answer, up to the end of the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            with contextlib.suppress(OSError):  # the server may be through with it already
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(PATIENCE_S)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def post(
        self, body: dict[str, Any], name: str = "", receive_buffer: int | None = None
    ) -> socket.socket:
        """Ask for a completion and keep the connection. ``name``: its x-request-id."""
        connection = self.connect(receive_buffer)
        data = json.dumps({"prompt": "ab", "ignore_eos": True} | body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.address}\r\n"
        head += f"X-Request-Id: {name}\r\n" if name else ""
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection

    def children(self) -> list[int]:
        """Processes that it has started, and theirs."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            for file in Path("/proc").glob(f"{pid}/task/*/children"):  # of each of its threads
                with contextlib.suppress(OSError):
                    children = [int(child) for child in file.read_text().split()]
                    todo += children
                    found += children
        return found

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE_S)


def answer_of(connection: socket.socket) -> http.client.HTTPResponse:
    """The head of the answer; the body can be read from it."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


StartServer = Callable[..., RunningServer]


def _start(*command: str, env: dict[str, str] | None = None) -> RunningServer:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    server = RunningServer(process)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.lines.append(line)

    threading.Thread(target=read, daemon=True).start()
    return server


def _await_ready(server: RunningServer) -> RunningServer:
    def ready() -> str | None:
        assert server.process.poll() is None, server.log
        return next((line for line in server.lines if "API http://" in line), None)

    server.ready_line = until(ready, "the server is ready")
    found = re.search(r":(\d+)/v1", server.ready_line)
    assert found
    server.port = int(found[1])
    return server


def _kill(server: RunningServer) -> None:
    if server.process.poll() is not None:  # its number may be another's by now
        print(f"a server had ended by itself, with {server.process.returncode}:\n{server.log}")
        return
    pids = server.children()
    server.process.kill()
    server.process.wait()
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def serve_module() -> Iterator[StartServer]:
    """Servers that the tests of one file share."""
    yield from _servers()


@pytest.fixture
def serve() -> Iterator[StartServer]:
    """Start scripted servers: ``serve(engine={…}, **settings)``; names in capitals go to the
    environment."""
    yield from _servers()


def _servers() -> Iterator[StartServer]:
    running: list[RunningServer] = []

    def start(engine: dict[str, Any] | None = None, **settings: Any) -> RunningServer:
        env = {name: settings.pop(name) for name in list(settings) if name.isupper()}
        texts = json.dumps(engine or {}), json.dumps(settings)
        running.append(_start("tests.serving.scripted_server", *texts, env=env))
        return _await_ready(running[-1])

    yield start
    for server in running:
        _kill(server)


@pytest.fixture
def command() -> Iterator[Callable[..., RunningServer]]:
    """Start ``minivllm serve`` itself; it need not become ready."""
    running: list[RunningServer] = []

    def start(*arguments: str, **env: str) -> RunningServer:
        running.append(_start("minivllm", "serve", *arguments, env=env))
        return running[-1]

    yield start
    for server in running:
        _kill(server)
