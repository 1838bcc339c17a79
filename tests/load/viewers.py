"""Pages that look on: they read every batch of events and acknowledge it, or fall asleep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import socketio

from tests.load.clients import Tally
from tests.load.wire import SMALL_BUFFER

Life = tuple[str, int]
"""A stream, and which life of its engine."""


class Viewer:
    """As the page does: says how far it has come, and notices a gap."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.seen: Counter[Life] = Counter()
        """The last event's number."""
        self.lags = 0
        self.client = socketio.AsyncClient(reconnection=False)
        self._gone = asyncio.Event()
        for name, take in (
            ("welcome", self._welcome),
            ("batch", self._batch),
            ("lag", self._lag),
            ("gone", self._is_gone),
        ):
            self.client.on(name, self._checked(take))

    def _checked(self, take: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """What a page cannot read is a complaint, too; the client would only print it."""

        async def checked(*message: Any) -> None:
            try:
                await take(*message)
            except (KeyError, TypeError, ValueError) as error:
                self.tally.complain(f"a viewer cannot read {message[0]}: {error!r}")

        return checked

    async def open(self, port: int) -> None:
        await self.client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
        await self.client.emit("hello", {"run": "live", "streams": {}})

    async def close(self) -> None:
        """Turn to a run that there is not, so that no batch is half-way in, and go."""
        if self.client.connected:
            await self.client.emit("hello", {"run": "none", "streams": {}})
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._gone.wait(), 5)
        await self.client.disconnect()

    async def _is_gone(self, message: dict[str, Any]) -> None:
        self._gone.set()

    async def _welcome(self, message: dict[str, Any]) -> None:
        """A page would fetch what has been so far; this one begins here."""
        for life in message["lives"]:
            await self._stand(life, life["head"])

    async def _batch(self, about: dict[str, Any], events: bytes) -> None:
        known = self.seen[about["stream"], about["life"]]
        # What was sent before the answer to the welcome begins earlier: known already.
        if about["from"] > known + 1:
            self.tally.complain(f"a viewer that had {known} was sent {about}")
        self.tally.counts["batches to viewers"] += 1
        await self._stand(about, max(known, about["to"]))

    async def _lag(self, message: dict[str, Any]) -> None:
        """A page would take a snapshot or a range, and say so."""
        self.lags += 1
        await self._stand(message, message["head"])

    async def _stand(self, about: dict[str, Any], at: int) -> None:
        """Be there, and say so."""
        stream, life = about["stream"], about["life"]
        self.seen[stream, life] = at
        await self.client.emit("ack", {"stream": stream, "life": life, "to": at})


@contextlib.asynccontextmanager
async def watching(port: int, n: int, tally: Tally) -> AsyncIterator[list[Viewer]]:
    """``n`` open pages."""
    viewers = [Viewer(tally) for _ in range(n)]
    try:
        for viewer in viewers:  # one after another: a class that opens the page
            await viewer.open(port)
        yield viewers
    finally:
        await asyncio.gather(*(viewer.close() for viewer in viewers))


def _open(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    return connection


def stuck_viewer(port: int) -> socket.socket:
    """A page that says hello over its websocket and never reads again."""
    connection = _open(port)
    connection.sendall(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = connection.recv(512)
    assert b" 101 " in answer.partition(b"\r\n")[0], answer
    for text in (b"40", b'42["hello",{"run":"live","streams":{}}]'):
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(text))
        connection.sendall(bytes([0x81, 0x80 | len(text)]) + mask + masked)
    return connection


def stuck_reader(port: int, tokens: int = 380) -> socket.socket:
    """Asks for a megabyte and never reads a byte of it."""
    prompts = ",".join(['"a"'] * 16)
    body = f'{{"prompt":[{prompts}],"max_tokens":{tokens},"ignore_eos":true,"stream":true}}'
    connection = _open(port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall((head + "Content-Type: application/json\r\n\r\n" + body).encode())
    return connection
