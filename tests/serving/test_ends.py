"""How a server begins and ends: named errors at once, an orderly end, nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from simple_websocket import Client, ConnectionClosed

from minivllm.trace.file import read_trace
from tests.serving.conftest import RunningServer, StartServer, answer_of, is_alive, until

SLOW = {"rate": 5.0}
"""Steps a second: a request of a thousand tokens is then never finished."""
LONG = {"max_tokens": 1000, "stream": True}


def first_data(connection: socket.socket):
    response = answer_of(connection)
    assert response.readline().startswith(b"data: ")
    return response


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_with_status_0_and_leaves_no_process_and_no_socket(
    serve: StartServer, sign: signal.Signals, tmp_path: Path
) -> None:
    server = serve({"engine_processes": True}, TMPDIR=str(tmp_path))
    answer = server.get("/v1/completions", "POST", {"prompt": "a", "max_tokens": 3})
    assert answer[0] == 200
    children = server.children()
    assert len(children) == 2  # the worker, and its engine
    assert list(tmp_path.glob("minivllm-*"))
    assert server.end(sign) == 0
    until(lambda: not any(map(is_alive, children)), "every child has ended")
    assert not list(tmp_path.glob("minivllm-*"))
    assert "Traceback" not in server.log


@pytest.mark.parametrize("http_server", ["gunicorn", "werkzeug"])
def test_who_is_under_way_finishes_and_nobody_new_is_taken(
    serve: StartServer, http_server: str
) -> None:
    server = serve(http_server=http_server, rate=10.0)
    stream = first_data(server.post({"max_tokens": 20, "stream": True}))
    plain = server.post({"max_tokens": 20})
    page = Client(f"ws://{server.address}/socket.io/?EIO=4&transport=websocket")
    server.process.send_signal(signal.SIGTERM)
    if http_server == "gunicorn":  # werkzeug's listener answers, too, until the end
        until(lambda: server.get("/ready")[0] == 503, "readiness is gone")
        status, _, body = server.get("/health")
        assert (status, json.loads(body)["ready"]) == (200, False)
        assert json.loads(server.get("/load")[2])["ready_engines"] == 0
        status, headers, body = server.get("/v1/completions", "POST", {"prompt": "a"})
        assert (status, headers["Retry-After"]) == (503, "1")
        assert json.loads(body)["error"]["code"] == "ending"
    with pytest.raises(ConnectionClosed):
        while page.receive(timeout=30):
            pass
    assert json.loads(answer_of(plain).read())["usage"]["completion_tokens"] == 20
    assert stream.read().rstrip().endswith(b"data: [DONE]")
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("http_server", ["gunicorn", "werkzeug"])
def test_with_no_time_left_requests_are_cancelled_with_their_last_frames(
    serve: StartServer, tmp_path: Path, http_server: str
) -> None:
    trace = str(tmp_path / "t.jsonl")
    server = serve({"path": trace}, http_server=http_server, shutdown_timeout_s=0, **SLOW)
    stream = first_data(server.post(LONG))
    plain = server.post(LONG | {"stream": False})
    assert server.end() == 0
    frames = stream.read().decode().strip().split("\n\n")
    assert frames[-1] == "data: [DONE]"
    assert "ended this request" in frames[-2]
    assert answer_of(plain).status == 503
    events = read_trace(Path(trace)).engine_events
    assert {e.data.why.value for e in events if e.kind == "req.abort"} == {"shutdown"}


def test_a_second_signal_ends_at_once(serve: StartServer) -> None:
    server = serve(shutdown_timeout_s=3600, **SLOW)
    first_data(server.post(LONG))
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "ending" in server.log, "it has begun to end")
    children = server.children()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 1
    until(lambda: not any(map(is_alive, children)), "every child has ended")


def test_signals_that_mean_nothing_here_end_nobody(serve: StartServer) -> None:
    server = serve()
    (worker,) = server.children()
    for name in ("USR1", "USR2", "TTIN", "TTOU", "WINCH", "PIPE"):
        for pid in (server.process.pid, worker):
            os.kill(pid, getattr(signal, f"SIG{name}"))
            assert server.get("/health")[0] == 200
    for name in ("INT", "QUIT", "HUP"):  # the arbiter's business
        os.kill(worker, getattr(signal, f"SIG{name}"))
        assert server.get("/health")[0] == 200
    assert server.end() == 0


def test_without_its_arbiter_the_front_end_ends_and_waits_for_nobody(serve: StartServer) -> None:
    server = serve({"engine_processes": True}, shutdown_timeout_s=3600, **SLOW)
    first_data(server.post(LONG))
    children = server.children()
    server.process.kill()
    until(lambda: not any(map(is_alive, children)), "worker and engine have ended")


def test_a_front_end_that_dies_ends_the_server(serve: StartServer) -> None:
    server = serve()
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    assert server.process.wait(30) == 1
    assert "the front end was killed by SIGKILL" in server.log


def test_a_model_that_is_not_there_is_told_in_one_line(
    command: Callable[..., RunningServer],
) -> None:
    server = command("--model", "/no/such/model", "--port", "0")
    assert server.process.wait(30) == 1
    until(lambda: "minivllm: " in server.log, "the error is told")
    assert "Traceback" not in server.log and "Worker" not in server.log
    assert sum(line.startswith("minivllm: ") for line in server.lines) == 1


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    command: Callable[..., RunningServer],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        server = command("--port", str(taken.getsockname()[1]))
        assert server.process.wait(30) == 2
    until(lambda: "a free one: try --port" in server.log, "the error is told")
    assert "loading" not in server.log
