"""In front of the channel: who may open one, and how many are open.

An open channel holds a thread of the server, whether its page ever says a word or not. So both
are decided at the handshake, before anything is held; and the requests of all channels together
may take no more threads than the server has for them.
"""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
from collections.abc import Iterable
from typing import Any

import simple_websocket  # type: ignore[import-untyped]
from engineio.async_drivers._websocket_wsgi import SimpleWebSocketWSGI
from flask import Request, Response

from viz.access import Access
from viz.problem import problem

DEFAULT_LIMIT = 64
RETRY_AFTER_S = 5


class _Slot:
    """The place of one viewer."""

    def __init__(self) -> None:
        self.sid: str | None = None
        self.in_handshake = True
        """By websocket that lasts as long as the channel."""


class Channel(SimpleWebSocketWSGI):
    """A websocket whose end is no news: engine.io closes it on a thread of its own, where nobody
    waits for an error, and its client may just have been dropped."""

    def close(self) -> None:
        with contextlib.suppress(OSError, simple_websocket.ConnectionClosed):
            super().close()


def lacks_for_websocket(environ: dict[str, Any]) -> str | None:
    """The header that is missing or wrong in a request for a websocket (RFC 6455, 4.2.1)."""
    wanted = {
        "Upgrade": lambda value: value.lower() == "websocket",
        "Connection": lambda value: "upgrade" in value.lower(),
        "Sec-WebSocket-Version": lambda value: value == "13",
        "Sec-WebSocket-Key": lambda value: len(value) == 24,
    }
    for name, is_right in wanted.items():
        if not is_right(environ.get("HTTP_" + name.upper().replace("-", "_"), "").strip()):
            return name
    return None


class ViewerGate:
    """Stands before an engine.io server's ``handle_request``, whatever path leads there."""

    def __init__(self, eio: Any, access: Access, limit: int = DEFAULT_LIMIT) -> None:
        self._eio, self._access, self._limit = eio, access, limit
        self._handle, self._generate_id = eio.handle_request, eio.generate_id
        self._slots: set[_Slot] = set()
        self._calls = threading.Semaphore(2 * limit)
        self._lock = threading.Lock()
        self._handshake = threading.local()
        self.closed = False
        """The server ends: nobody new."""
        eio.handle_request, eio.generate_id = self.handle_request, self._name
        eio._async["websocket"] = Channel

    def handle_request(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
        is_new = "sid" not in query
        if is_new and not self._access.may_look(Request(environ)):
            refusal = problem(403, "this dashboard needs its join code: open /?code=CODE")
            return refusal(environ, start_response)
        missing = lacks_for_websocket(environ) if query.get("transport") == ["websocket"] else None
        if missing is not None:
            refusal = problem(400, f"this is no request for a websocket: {missing}")
            return refusal(environ, start_response)
        slot = self._enter() if is_new else None
        if (is_new and slot is None) or not self._calls.acquire(blocking=False):
            if slot is not None:
                slot.in_handshake = False
            return self._full()(environ, start_response)
        # The library would deflate each batch anew for each page; a batch is deflated once.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        self._handshake.slot = slot
        try:
            answer: Iterable[bytes] = self._handle(environ, start_response)
            return answer
        finally:
            self._calls.release()
            if slot is not None:
                slot.in_handshake = False

    def _enter(self) -> _Slot | None:
        with self._lock:
            self._slots = {slot for slot in self._slots if slot.in_handshake or self._is_open(slot)}
            if self.closed or len(self._slots) >= self._limit:
                return None
            slot = _Slot()
            self._slots.add(slot)
            return slot

    def _is_open(self, slot: _Slot) -> bool:
        """engine.io forgets closed channels only now and then."""
        channel = self._eio.sockets.get(slot.sid)
        return channel is not None and not channel.closed

    def _name(self) -> str:
        """engine.io's ``generate_id``, on the thread of the handshake."""
        sid: str = self._generate_id()
        slot = getattr(self._handshake, "slot", None)
        if slot is not None:
            slot.sid = sid
        return sid

    def _full(self) -> Response:
        response = problem(503, f"{self._limit} pages watch already; try again later")
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response
