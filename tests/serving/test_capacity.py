"""64 streams, 30 pages, stuck ones among them: nobody else is held up. Limits answer 503."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest
import simple_websocket
import socketio

from minivllm.serving.patient_socket import PatientSocket
from tests.serving.conftest import RunningServer, StartServer, answer_of, until
from viz.viewers import Channel

LONG = {"max_tokens": 1900, "stream": True}


@pytest.fixture(scope="module")
def server(serve_module: StartServer) -> Iterator[RunningServer]:
    """Slow, so that streams stay open; a stuck reader is given up after a second."""
    yield serve_module(
        {"num_kv_blocks": 40_001, "max_num_seqs": 128},
        max_streams=66,
        max_viewers=30,
        send_timeout_s=1.0,
        rate=20.0,
        log_level="debug",
    )


def page(server: RunningServer) -> simple_websocket.Client:
    return simple_websocket.Client(f"ws://{server.address}/socket.io/?EIO=4&transport=websocket")


def test_64_streams_and_30_pages_leave_health_answering(server: RunningServer) -> None:
    # PITFALLS: a stream holds a server thread: six viewers on six threads and /health times out
    pages = [page(server) for _ in range(30)]
    streams = [server.post(LONG) for _ in range(64)]
    assert all(answer_of(stream).status == 200 for stream in streams)
    idle = [server.connect() for _ in range(100)]  # a browser opens such in advance
    begun = time.monotonic()
    assert server.get("/health")[0] == 200
    assert server.get("/ready")[0] == 200
    assert time.monotonic() - begun < 1.0  # the promise itself

    # One page too many, by either way, and two streams too many.
    with pytest.raises(simple_websocket.ConnectionError, match="503"):
        page(server)
    status, headers, _ = server.get("/socket.io/?EIO=4&transport=polling")
    assert status == 503 and int(headers["Retry-After"]) >= 1
    more = [server.post(LONG) for _ in range(2)]
    assert all(answer_of(stream).status == 200 for stream in more)
    refused = answer_of(server.post(LONG))
    assert refused.status == 503 and refused.headers["Retry-After"]
    assert json.loads(refused.read())["error"]["code"] == "too_many_requests_open"

    # Who leaves makes room.
    for each in [*streams, *more, *idle]:
        each.close()
    for each in pages:
        each.close()
    until(
        lambda: server.get("/v1/completions", "POST", {"prompt": "a", "max_tokens": 1})[0] == 200,
        "room",
    )
    until(lambda: server.get("/socket.io/?EIO=4&transport=polling")[0] == 200, "room")


def lines_of(server: RunningServer, path: str) -> int:
    """How many answers on this path have come to their end."""
    return sum(f"'{path}'" in line for line in server.lines)


def test_a_reader_that_is_stuck_is_dropped_and_holds_up_nobody(server: RunningServer) -> None:
    # PITFALLS: one slow reader blocks a send for ever
    stuck = server.post(LONG | {"n": 20}, "stuck", receive_buffer=2048)  # and never reads
    status, _, _ = server.get("/v1/completions", "POST", {"prompt": "a", "max_tokens": 20})
    assert status == 200
    until(lambda: "request_id=stuck" in server.log, "it was dropped")
    assert "Traceback" not in server.log
    assert b'minivllm:slow_readers_total{model_name="scripted"} 1.0' in server.get("/metrics")[2]
    stuck.close()


def text_frame(text: str) -> bytes:
    """One masked frame of a websocket, as a client sends it."""
    data = text.encode()
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


def test_a_page_that_is_stuck_is_dropped_and_holds_up_nobody(server: RunningServer) -> None:
    before = lines_of(server, "/socket.io/")
    stuck = server.connect(receive_buffer=2048)
    head = f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {server.address}\r\n"
    head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    stuck.sendall(head.encode() + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert stuck.recv(12) == b"HTTP/1.1 101"
    lives = json.loads(server.get("/api/runs/live")[2])["lives"]
    at = {each["stream"]: {"life": each["life"], "seq": each["head"]} for each in lives}
    seen = {"run": "live", "streams": at}
    hello = "42" + json.dumps(["hello", seen], separators=(",", ":"))
    stuck.sendall(text_frame("40") + text_frame(hello))  # and reads no more
    other, batches = socketio.Client(reconnection=False), []
    other.on("batch", lambda about, data: batches.append(about))
    other.connect(f"http://{server.address}", transports=["websocket"])
    other.emit("hello", seen)
    server.get("/v1/completions", "POST", {"prompt": "a", "max_tokens": 20, "n": 8})
    until(lambda: batches, "the other page is told")
    until(lambda: lines_of(server, "/socket.io/") > before, "the stuck page was dropped")
    with contextlib.suppress(ConnectionResetError):
        while stuck.recv(65536):
            pass  # what lay in the buffers; then the end, since nobody writes any more
    assert "Traceback" not in server.log
    other.disconnect()


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]])
def test_the_pages_channel_works_by_websocket_and_by_polling(
    server: RunningServer, transports: list[str]
) -> None:
    heard: list[str] = []
    client = socketio.Client(reconnection=False)
    for event in ("role", "gate", "welcome"):
        client.on(event, lambda message, event=event: heard.append(event))
    client.connect(f"http://{server.address}", transports=transports)
    try:
        assert client.transport() == transports[0]
        client.emit("hello", {"run": "live", "streams": {}})
        until(lambda: {"role", "gate", "welcome"} <= set(heard), f"told; heard {heard}")
    finally:
        client.disconnect()


def test_a_pages_websocket_that_is_gone_already_closes_without_an_error() -> None:
    # engine.io closes it on a thread of its own, where an error would be a traceback in the log
    class Gone:
        connected = True

        def close(self) -> None:
            raise OSError(9, "Bad file descriptor")

    channel = Channel(lambda: None, None)
    channel.ws = Gone()
    channel.close()


def test_a_websocket_that_closes_its_socket_leaves_the_descriptor_to_the_poller() -> None:
    """Its number would be the next client's, and the poller know two of that number."""
    ours, theirs = socket.socketpair()
    patient = PatientSocket(fileno=ours.detach())
    patient.close()
    assert patient.fileno() >= 0 and theirs.recv(1) == b""
    patient.release()
    assert patient.fileno() == -1
    theirs.close()
