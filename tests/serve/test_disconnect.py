"""Who goes away is not worked for; who waits on a dead engine is told."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time

import openai
import pytest

from minivllm.api import generation
from minivllm.api.disconnect import POLL_S
from minivllm.trace.events import Reason
from tests.serve.conftest import MODEL, Server
from tests.serve.fakes import FakeClient

TEXT = {"model": MODEL, "prompt": "a"}
LONG = TEXT | {"max_tokens": 60, "ignore_eos": True}


def post_and_hold(server: Server, body: dict, receive_buffer: int | None = None) -> socket.socket:
    """Send a request and keep the connection."""
    data = json.dumps(body).encode()
    connection = socket.socket()
    connection.settimeout(30)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", server.port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    return connection


def done_events(server: Server) -> list:
    return [e for e in server.tracer.events if e.KIND == "http.done"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_queued_is_aborted(serve, stream):
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, LONG | {"stream": stream})
    assert core.wait_for(lambda: len(core.requests) == 1)
    connection.close()
    assert core.wait_for(lambda: bool(core.aborted))
    assert core.aborted == [(core.requests[0].request_id, Reason.CLIENT)]
    assert server.llm.num_open == 0


def responses(server: Server) -> dict[str, int]:
    """``minivllm:http_responses`` of the routes that generate, by status."""
    shown = server.raw("GET", "/metrics")[2].decode()
    found = re.findall(r'http_responses_total\{.*status="(\d+)"\} (\S+)', shown)
    return {status: int(float(count)) for status, count in found}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_left_counts_as_one_and_not_as_wrong(serve, stream):
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, LONG | {"stream": stream})
    core.allow(1 if stream else 0)
    assert core.wait_for(lambda: len(core.requests) == 1)
    if stream:
        connection.recv(1)
    connection.close()
    assert core.wait_for(lambda: bool(core.aborted))
    deadline = time.monotonic() + 10
    while "499" not in (counted := responses(server)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counted["499"] == 1 and "400" not in counted


def test_a_stream_that_ends_by_an_error_counts_as_that(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    with post_and_hold(server, LONG | {"stream": True}) as connection:
        core.allow(1)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        core.die("by an error")
        while piece := connection.recv(65536):
            answer += piece
            if b"[DONE]" in answer:
                break
    assert b"server_error" in answer
    counted = responses(server)
    assert counted == {"500": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_in_the_middle_is_aborted(serve, stream):
    # PITFALLS: client disconnects during a stream: the engine goes on generating
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, LONG | {"stream": stream, "n": 2})
    core.allow(5)
    assert core.wait_for(lambda: core._step == 5)
    connection.close()
    assert core.wait_for(lambda: len(core.aborted) == 2)
    assert server.llm.num_open == 0


def test_closing_the_official_clients_stream_aborts(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    core.allow(3)
    stream = server.openai().completions.create(
        model=MODEL, prompt="a", max_tokens=60, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    assert core.wait_for(lambda: bool(core.aborted))


def test_a_client_that_stays_is_not_aborted(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, TEXT)
    assert core.wait_for(lambda: len(core.requests) == 1)
    assert not core.wait_for(lambda: bool(core.aborted), seconds=3 * POLL_S)
    core.allow()
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert json.loads(response.read())["choices"][0]["text"] == "Hello world"


def test_an_idle_stream_sends_keep_alives(serve, monkeypatch):
    monkeypatch.setattr(generation, "KEEP_ALIVE_S", 0.0)
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, TEXT | {"stream": True})
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.fp.readline() and response.fp.readline() == b": keep-alive\n"
    core.allow()
    connection.close()


def test_many_idle_streams_leave_health_answering(serve):
    # PITFALLS: a stream holds a server thread: `/health` times out
    core = FakeClient(paused=True)
    server = serve(core)
    held = [post_and_hold(server, TEXT | {"stream": True}) for _ in range(30)]
    assert core.wait_for(lambda: len(core.requests) == 30)
    assert server.raw("GET", "/health")[0] == 200
    for connection in held:
        connection.close()
    assert core.wait_for(lambda: len(core.aborted) == 30)


def begun(core: FakeClient, server: Server) -> http.client.HTTPResponse:
    """A stream that has had its first tokens, and waits for more."""
    response = http.client.HTTPResponse(post_and_hold(server, LONG | {"stream": True}))
    assert core.wait_for(lambda: bool(core.requests))
    core.allow(2)
    response.begin()
    assert response.readline().startswith(b"data: {")
    return response


def last_frames(response: http.client.HTTPResponse) -> tuple[dict, str]:
    *_, frame, done, nothing = response.read().decode().split("\n\n")
    assert nothing == ""
    return json.loads(frame.strip().removeprefix("data: ")), done


def test_engine_death_ends_what_has_not_begun_with_500_and_a_stream_with_a_frame(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    stream = begun(core, server)
    waiting = [post_and_hold(server, TEXT | {"stream": stream}) for stream in (False, True)]
    assert core.wait_for(lambda: len(core.requests) == 3)
    core.die("secret inside")

    for connection in waiting:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 500
        error = json.loads(response.read())["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_dead")
        assert "secret" not in error["message"]

    frame, done = last_frames(stream)
    assert (frame["error"]["code"], done) == ("engine_dead", "data: [DONE]")

    assert server.raw("GET", "/health")[0] == 503
    with pytest.raises(openai.InternalServerError):
        server.openai().completions.create(model=MODEL, prompt="a")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_before_the_first_byte_is_a_400(serve, stream):
    """A grammar that is fine to read and cannot be compiled: only the engine can tell."""
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, TEXT | {"stream": stream})
    assert core.wait_for(lambda: len(core.requests) == 1)
    core.fail(core.requests[0].request_id, "regex: too many states", refused=True)
    response = http.client.HTTPResponse(connection)
    response.begin()
    error = json.loads(response.read())["error"]
    assert (response.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"] == "regex: too many states"
    assert [event.status for event in done_events(server)] == [400]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_fails_alone_gets_an_error_and_the_server_lives(serve, stream):
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, TEXT | {"stream": stream})
    assert core.wait_for(lambda: len(core.requests) == 1)
    core.fail(core.requests[0].request_id, "the logits were not numbers")
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 500
    assert "the logits were not numbers" in response.read().decode()
    assert server.raw("GET", "/health")[0] == 200


def test_a_request_that_fails_in_the_middle_of_its_stream_gets_a_frame(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    stream = begun(core, server)
    core.fail(core.requests[0].request_id, "the logits were not numbers")
    frame, done = last_frames(stream)
    assert "the logits were not numbers" in frame["error"]["message"]
    assert done == "data: [DONE]"


def test_shutdown_ends_open_streams(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    stream = begun(core, server)
    waiting = http.client.HTTPResponse(post_and_hold(server, TEXT | {"stream": True}))
    assert core.wait_for(lambda: len(core.requests) == 2)
    threading.Thread(target=server.llm.close).start()
    frame, done = last_frames(stream)
    assert (frame["error"]["type"], done) == ("server_error", "data: [DONE]")
    waiting.begin()
    assert waiting.status == 503
    assert {why for _, why in core.aborted} == {Reason.SHUTDOWN}


def test_a_reader_that_is_stuck_is_dropped(serve, monkeypatch):
    # PITFALLS: one slow reader blocks a send for ever
    monkeypatch.setattr("minivllm.api.server.RequestHandler.timeout", 0.3)
    core = FakeClient([97] * 50_000, max_model_len=100_000, num_kv_blocks=100_000, paused=True)
    server = serve(core)
    server.http.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = TEXT | {"stream": True, "max_tokens": 90_000, "logprobs": 2}
    connection = post_and_hold(server, body, receive_buffer=4096)  # and never reads
    core.allow()
    assert core.wait_for(lambda: bool(core.aborted), seconds=60)
    connection.close()


def test_the_end_of_a_request_is_told_with_what_became_of_it(serve):
    core = FakeClient(paused=True)
    server = serve(core)
    connection = post_and_hold(server, TEXT | {"stream": True})
    assert core.wait_for(lambda: len(core.requests) == 1)
    connection.close()
    assert core.wait_for(lambda: bool(core.aborted))
    while not done_events(server):
        threading.Event().wait(0.01)
    assert [e.status for e in done_events(server)] == [499]
