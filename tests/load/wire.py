"""One HTTP exchange over a plain socket, so that a client can behave as badly as it likes.

It may leave half-way through its own request, before the first byte of the answer, or in the middle
of a frame; and it may read as slowly as it wants, with a receive buffer so small that the server
notices.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minivllm.bench.serve_client import EventStream

SMALL_BUFFER = 2048  # bytes


@dataclass(slots=True)
class Answer:
    """What came back; ``fault`` says what did not: ``refused``, ``lost``, ``cut``, ``hung``."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: list[str] = field(default_factory=list)
    fault: str = ""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Leave:
    """When a client goes away."""

    after: str
    """``half_request`` | ``request`` (with the answer not begun) | ``bytes`` of the answer."""
    amount: float = 0.0
    """Seconds after the request, or bytes of the answer."""
    reset: bool = False
    """Say nothing to the server in parting (RST) rather than close in good order (FIN)."""


async def exchange(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    leave: Leave | None = None,
    pause_s: float = 0.0,
    on_event: Callable[[str], None] = lambda event: None,
    timeout_s: float = 120.0,
) -> Answer:
    """``pause_s``: a slow reader sleeps as long before each 256 bytes."""
    answer = Answer()
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.wait_for(_connect(port, pause_s > 0), timeout_s)
        request = _request(method, path, body, headers)
        talk = _talk(reader, writer, request, answer, leave, pause_s, on_event)
        await asyncio.wait_for(talk, timeout_s)
    except asyncio.TimeoutError:  # before OSError, whose kind it is
        answer.fault = "hung"
    except asyncio.IncompleteReadError:
        answer.fault = "lost" if answer.status is None else "cut"
    except OSError:
        answer.fault = "refused" if writer is None else "lost" if answer.status is None else "cut"
    finally:
        if writer is not None:
            if leave is not None and leave.reset:
                writer.transport.abort()
            writer.close()
    return answer


async def _connect(port: int, small: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    if small:  # before the connection: its window is agreed upon there
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection, limit=4096 if small else 2**16)


def _request(method: str, path: str, body: bytes, headers: dict[str, str] | None) -> bytes:
    given = {"Host": "localhost", "Content-Type": "application/json", "Connection": "close"}
    given |= {"Content-Length": str(len(body))} | (headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: bytes,
    answer: Answer,
    leave: Leave | None,
    pause_s: float,
    on_event: Callable[[str], None],
) -> None:
    half = leave is not None and leave.after == "half_request"
    writer.write(request[: len(request) * 2 // 3] if half else request)
    await writer.drain()
    if leave is not None and leave.after != "bytes":
        await asyncio.sleep(leave.amount)
        return
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    answer.status = int(status.split()[1])
    answer.headers = dict(line.lower().split(": ", 1) for line in lines if line)
    if leave is not None:
        seen = 0
        while seen < leave.amount and (data := await reader.read(int(leave.amount - seen))):
            seen += len(data)
        return
    events = EventStream()
    chunked = answer.headers.get("transfer-encoding") == "chunked"
    length = answer.headers.get("content-length")
    if chunked:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            left = size + 2  # and its line's end
            data = b""
            while left:
                if pause_s:
                    await asyncio.sleep(pause_s)
                data += (piece := await reader.read(min(left, 256 if pause_s else left)))
                left -= len(piece)
                if not piece:
                    raise asyncio.IncompleteReadError(data, size)
            answer.body += data[:-2]
            for event in events.feed(data[:-2]):
                answer.events.append(event)
                on_event(event)
        await reader.readuntil(b"\r\n")
    else:
        answer.body = await (reader.readexactly(int(length)) if length else reader.read())
        if "event-stream" in answer.headers.get("content-type", ""):
            answer.events = events.feed(answer.body)
