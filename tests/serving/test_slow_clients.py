"""Clients that are slow, silent or too many hold nobody up: neither a thread nor the listener."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.serving.conftest import RunningServer, StartServer, answer_of, until

NUM_SLOW = 400
"""As many as the default server has threads."""


@pytest.fixture(scope="module")
def server(serve_module: StartServer) -> RunningServer:
    return serve_module(max_streams=4, max_viewers=1, log_level="debug")


@contextlib.contextmanager
def many(server: RunningServer, number: int, words: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(stack.enter_context(server.connect()))
            opened[-1].sendall(words)
        yield opened


SLOW = {
    "half a head": b"GET /hea",
    "no end of lines": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n",
    "empty lines": b"\r\n\r\n",
    "half a head behind a request": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
    "a body that nobody wants": b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 9\r\n\r\n",
    "a body for a generation": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    "a body for the tokenizer": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
}


@pytest.mark.parametrize("words", SLOW.values(), ids=SLOW)
def test_400_slow_clients_do_not_stop_health(server: RunningServer, words: bytes) -> None:
    with many(server, NUM_SLOW, words):
        begun = time.monotonic()
        assert server.get("/health")[0] == 200
        assert time.monotonic() - begun < 1.0  # the promise itself
    until(lambda: server.get("/tokenize", "POST", {"prompt": "a"})[0] == 200, "room again")


def test_a_head_may_come_piece_by_piece_and_two_at_once(server: RunningServer) -> None:
    request = f"GET /version HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode()
    with server.connect() as connection:
        for byte in b"\r\n" + request:
            connection.sendall(bytes([byte]))
        first = answer_of(connection)
        assert first.status == 200 and first.read()
        connection.sendall(request + request[:20])  # on the same connection, and half of a third
        first = answer_of(connection)
        assert first.status == 200 and first.read()
        connection.sendall(request[20:])
        assert answer_of(connection).status == 200


def test_a_head_without_end_is_refused(server: RunningServer) -> None:
    with server.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: 1\r\n" * 20_000)
        answer = answer_of(connection)
        assert answer.status == 431
        assert json.loads(answer.read())["error"]["message"] == "This request cannot be read."


def files_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def test_when_all_connections_are_taken_the_oldest_idle_one_makes_room(
    server: RunningServer, many_files: None
) -> None:
    # PITFALLS: a thousand idle connections, and accept() raises for want of files
    with many(server, 1200, b"") as idle:
        begun = time.monotonic()
        assert server.get("/health")[0] == 200
        assert time.monotonic() - begun < 1.0  # the promise itself
        assert idle[0].recv(1) == b""
    assert server.get("/health")[0] == 200
    assert "cannot be accepted" not in server.log


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process has the other end of each connection."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_with_no_file_left_idle_connections_are_closed_and_then_accepting_rests(
    serve: StartServer,
) -> None:
    server = serve(max_streams=4, max_viewers=1)
    assert server.get("/version")[0] == 200  # whatever is loaded late is loaded
    (worker,) = server.children()
    room = files_of(worker) + 8
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (room, room))
    with many(server, 40, b""):
        assert server.get("/version")[0] == 200
    with many(server, 40, b"GET /hea"):
        assert server.get("/version")[0] == 200
    assert sum("cannot be accepted" in line for line in server.lines) == 1
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (files_of(worker), room))
    waits = server.connect()  # there is no idle one to close
    time.sleep(0.1)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (room, room))
    waits.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer_of(waits).status == 200
    waits.close()
    assert "Traceback" not in server.log


def test_the_limit_of_files_is_raised_as_far_as_needed_and_bounds_the_connections() -> None:
    script = """
import resource
from minivllm.serving.open_files import OTHER_FILES, allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1000))
got = [allow_connections(20, 500), resource.getrlimit(resource.RLIMIT_NOFILE)]
got += [allow_connections(20, 5000), resource.getrlimit(resource.RLIMIT_NOFILE)]
assert got == [500, (500 + OTHER_FILES, 1000), 1000 - OTHER_FILES, (1000, 1000)], got
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
