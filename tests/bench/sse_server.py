"""An HTTP server that says exactly what a test tells it to, cut where the test wants it cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Behaviour = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
"""Given the request's body, write an answer; the connection is closed afterwards."""

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def frame(data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def text(said: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": said, "finish_reason": None}]}


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [], "usage": counts | {"prompt_tokens_details": details}}


def streams(*pieces: Any, pause_s: float = 0.0, end: bool = True) -> Behaviour:
    """Each piece is a frame (bytes are sent as they are). ``end``: end the body properly."""

    async def behave(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for piece in pieces:
            data = piece if isinstance(piece, bytes) else frame(piece)
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
            await asyncio.sleep(pause_s)
        if end:
            writer.write(b"0\r\n\r\n")

    return behave


def answers(status: int, body: Any, **headers: str) -> Behaviour:
    """A plain answer."""

    async def behave(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        data = json.dumps(body).encode()
        more = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        head = f"HTTP/1.1 {status} Told\r\nContent-Length: {len(data)}\r\n{more}"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)

    return behave


async def hangs_up(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """No answer at all."""


async def says_nothing(_: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


class Scripted:
    """The server. Requests take the behaviours in turn, the last one again and again."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours)
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scripted]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        data = await reader.readexactly(int(lines.get("content-length", 0)))
        self.heads.append(head)
        self.bodies.append(json.loads(data or b"{}"))
        last = len(self._behaviours) == 1
        behave = self._behaviours[0] if last else self._behaviours.pop(0)
        with contextlib.suppress(ConnectionError):
            await behave(self.bodies[-1], writer)
            writer.close()
            await writer.wait_closed()
