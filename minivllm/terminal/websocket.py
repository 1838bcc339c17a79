"""A websocket from the client's side, small: one thread reads, others may send.

On wsproto, which keeps the protocol and touches no socket. It comes with simple-websocket, whose
own client leaves a message unread that comes in one packet with the server's consent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)


class Refused(ConnectionError):
    """The server takes no websocket; ``status``: what it answered."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"status {status}")


class WebSocket:
    """Raises OSError where there is no connection any more."""

    def __init__(
        self, host: str, port: int, path: str, headers: dict[str, str], tls: bool, timeout: float
    ) -> None:
        """Raises OSError, and Refused."""
        self._socket = socket.create_connection((host, port), timeout)
        if tls:
            self._socket = ssl.create_default_context().wrap_socket(
                self._socket, server_hostname=host
            )
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._lock = threading.Lock()
        self._came: deque[str | bytes] = deque()
        self._parts: list[str] | list[bytes] = []
        self._consent = False
        name = f"[{host}]" if ":" in host else host
        extra = [(key.encode(), value.encode()) for key, value in headers.items()]
        self._put(Request(host=f"{name}:{port}", target=path, extra_headers=extra))
        deadline = time.monotonic() + timeout
        while not self._consent:
            self._read(max(deadline - time.monotonic(), 0.001))

    def send(self, text: str) -> None:
        self._put(TextMessage(data=text))

    def receive(self, timeout: float) -> str | bytes | None:
        """The next message, or None if there was none for so many seconds."""
        deadline = time.monotonic() + timeout
        while not self._came:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                self._read(left)
        return self._came.popleft()

    def close(self) -> None:
        """Also from another thread: whoever reads is woken by it."""
        with contextlib.suppress(OSError, Exception):
            self._put(CloseConnection(code=1000))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _put(self, event: Event) -> None:
        with self._lock:
            self._socket.sendall(self._protocol.send(event))

    def _read(self, timeout: float) -> None:
        self._socket.settimeout(timeout)
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        with self._lock:
            self._protocol.receive_data(data)
            events = list(self._protocol.events())
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            self._consent = True
        elif isinstance(event, RejectConnection):
            raise Refused(event.status_code)
        elif isinstance(event, (TextMessage, BytesMessage)):
            self._parts.append(event.data)  # type: ignore[arg-type]
            if event.message_finished:
                whole = "".join if isinstance(event, TextMessage) else b"".join
                self._came.append(whole(self._parts))  # type: ignore[arg-type]
                self._parts = []
        elif isinstance(event, Ping):
            self._put(event.response())
        elif isinstance(event, CloseConnection):
            raise ConnectionResetError("the server has closed the channel")
