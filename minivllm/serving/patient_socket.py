"""A socket whose blocking calls give up some time, and then for good.

The kernel's own limits are used, since Python's would make the socket non-blocking under gunicorn
and the websockets, which set and expect it blocking. No counterpart in vLLM.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from typing import Any

SILENCE_S = 60.0
"""How long a client may send nothing while it is waited for; a page's channel pings each 25 s."""


class PatientSocket(socket.socket):
    is_stuck = False
    """Its client has not taken what was sent to it."""
    _deadline: float | None = None

    def close(self) -> None:
        """Ends the talk, and keeps the descriptor: a websocket's thread calls this when it likes,
        and the number would be the next client's while the poller still knows it as this one's."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """The real end. Only for who polls it, once it is on the poller no more."""
        super().close()

    def limit(self, send_s: float) -> None:
        self._set(socket.SO_SNDTIMEO, send_s)
        self._set(socket.SO_RCVTIMEO, SILENCE_S)

    def receive_until(self, deadline: float | None) -> None:
        """All that is read until then (``time.monotonic``) has come, or the client is given up."""
        self._deadline = deadline

    def recv_now(self, size: int) -> bytes:
        """Of a socket that does not block. Raises BlockingIOError."""
        return super().recv(size)

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self._deadline is None or flags:
            return self._recv(size, flags)
        left = self._deadline - time.monotonic()
        if left <= 0:
            return self._recv(size, socket.MSG_DONTWAIT)  # what is there is still taken
        self._set(socket.SO_RCVTIMEO, min(left, SILENCE_S))
        try:
            return self._recv(size, flags)
        finally:
            with contextlib.suppress(OSError):
                self._set(socket.SO_RCVTIMEO, SILENCE_S)

    def _recv(self, size: int, flags: int) -> bytes:
        try:
            return super().recv(size, flags)
        except BlockingIOError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client sends nothing") from error

    def send(self, data: Any, *args: Any) -> int:
        """All of ``data``: half a websocket's frame would make nonsense of the next one."""
        self.sendall(data, *args)
        return len(data)

    def sendall(self, data: Any, *args: Any) -> None:
        try:
            super().sendall(data, *args)
        except BlockingIOError as error:
            self.is_stuck = True
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)  # what waits to read from it ends, too
            raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from error

    def _set(self, option: int, seconds: float) -> None:
        whole = int(seconds)
        micros = max(int((seconds - whole) * 1e6), 1)  # 0 would mean: for ever
        self.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", whole, micros))
