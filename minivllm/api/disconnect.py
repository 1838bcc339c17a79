"""Has the client gone? WSGI has no signal for it, so the socket is looked at.

A stream learns of it when a write fails, but a request that waits in the queue writes nothing,
and a plain one writes only at its end: without this the engine would go on for nobody.
Where something unread lies before the end (the next request, sent in advance), only Linux shows it,
by POLLRDHUP; elsewhere such a client is noticed at the next write.
Counterpart in vLLM: ``with_cancellation`` in ``vllm/entrypoints/utils.py``, where ASGI says it.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Any

_END = getattr(select, "POLLRDHUP", 0)  # the client has closed its side

POLL_S = 0.25
"""How often a waiting request looks, in seconds: a dropped client costs at most the tokens that
the engine makes in this time."""


class ClientWatch:
    """Looks at the socket of one request; where the server does not show it, nobody ever left."""

    def __init__(self, environ: dict[str, Any]) -> None:
        found = environ.get("werkzeug.socket") or environ.get("gunicorn.socket")
        # An SSL socket cannot be peeked at; a dropped one is noticed at the next write.
        usable = isinstance(found, socket.socket) and not isinstance(found, ssl.SSLSocket)
        self._socket: socket.socket | None = found if usable else None

    def gone(self) -> bool:
        """True once the client has closed its side. Never blocks, never takes a byte away."""
        if self._socket is None:
            return False
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN | _END)
            events = poller.poll(0)
            if any(event & (_END | select.POLLHUP | select.POLLERR) for _, event in events):
                return True
            # Ready without a byte to read is the end of the stream.
            return bool(events) and self._socket.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):  # reset, or closed on this side
            return True
