"""gthread, so that no client can hold a thread, a connection or the listener by being slow.

    no byte yet, or half a head   on the poller, which keeps what has come: no thread
    a whole head                  a thread: body, routes, answer; the body has a deadline
    answered, to be closed        on the poller again, until the client has closed its side, too

Each of these ends by a deadline. Connections are bounded by the files this process may open; when
all are taken, the one that has waited longest without a request makes room for the next. Where the
system has no more of something, accepting rests for a moment, and the server goes on.

gunicorn's own worker gives a thread to every connection that has sent one byte. Counterpart in
vLLM: none; uvicorn reads heads on its event loop, and bounds neither their time nor their number.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from minivllm.api.errors import ApiError
from minivllm.serving.bad_http import BodyReader, UnreadableBody, status_of
from minivllm.serving.patient_socket import PatientSocket

logger = logging.getLogger(__name__)

HEAD_S = 10.0
"""From a head's first byte to its last."""
MAX_HEAD_BYTES = 64 * 1024
"""More than any browser or library sends; gunicorn's limits per line hold beside it."""
BODY_S = 30.0
BODY_BYTES_PER_S = 256 * 1024
"""A body may take so long, and so much longer by its length."""
LINGER_S = 2.0
"""How long a client may take to close its side after the answer."""
REST_S = 0.5
"""How long accepting rests when the system has no more files or buffers."""

_NOBODY_THERE = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)


class Connection(TConn):
    """One client. ``head``: what has come of its next request."""

    sock: PatientSocket

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head = bytearray()
        self.closed = False

    @property
    def has_whole_head(self) -> bool:
        """Too long a one counts as whole: a thread refuses it."""
        return b"\r\n\r\n" in self.head or len(self.head) > MAX_HEAD_BYTES

    def add(self, data: bytes) -> None:
        self.head += data
        if self.head[:1] in b"\r\n":  # empty lines before a request are nothing (RFC 9112, 2.2)
            self.head = self.head.lstrip(b"\r\n")

    def close(self, graceful: bool = False) -> None:
        """Closed by whoever is first, once."""
        if not self.closed:
            self.closed = True
            self.sock.release()


@dataclass(slots=True)
class Waiting:
    """Connections on the poller, oldest first."""

    seconds: float
    """How long one may be here."""
    since: dict[Connection, float] = field(default_factory=dict)

    @property
    def oldest(self) -> Connection | None:
        return next(iter(self.since), None)


class PatientWorker(ThreadWorker):
    """Connections are read, dropped and closed on the thread that polls; see above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silent = Waiting(self.cfg.keepalive)  # without a byte of a request
        self._reading = Waiting(HEAD_S)  # in the middle of a head
        self._lingering = Waiting(LINGER_S)  # answered, and closed on this side
        self._all_waiting = (self._silent, self._reading, self._lingering)
        self._rests_until = 0.0
        self._exhaustion_told = False

    # --- accepting -----------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno not in _NOBODY_THERE:
                self._rest(error)
            return
        patient = PatientSocket(fileno=accepted.detach())
        try:
            patient.limit(self.app.settings.send_timeout_s)
            conn = Connection(self.cfg, patient, address, listener.getsockname())
        except OSError:  # gone already
            patient.release()
            return
        self.nr_conns += 1
        self._await_request(conn)
        while self.nr_conns >= self.worker_connections and self._drop_one():
            pass

    def set_accept_enabled(self, enabled: bool) -> None:
        if not (enabled and time.monotonic() < self._rests_until):
            super().set_accept_enabled(enabled)

    def _rest(self, error: OSError) -> None:
        if not self._exhaustion_told:
            self._exhaustion_told = True
            logger.error(
                "a connection cannot be accepted (%s), with %d open; told once",
                error.strerror,
                self.nr_conns,
            )
        if not self._drop_one():
            self._rests_until = time.monotonic() + REST_S
            super().set_accept_enabled(False)

    def _drop_one(self) -> bool:
        """Close the connection that has waited longest without a request; False: there is none."""
        oldest = min(
            (item for waiting in self._all_waiting for item in [*waiting.since.items()][:1]),
            key=lambda item: item[1],
            default=None,
        )
        if oldest is not None:
            self._drop(oldest[0])
        return oldest is not None

    # --- waiting, on the poller ----------------------------------------------------------------

    def enqueue_req(self, conn: Connection) -> None:
        """gunicorn calls this for what has been read beyond the last request."""
        if conn.parser is not None:
            conn.add(conn.parser.unreader.take_buffered())
        self._await_request(conn)

    def _await_request(self, conn: Connection) -> None:
        if conn.has_whole_head:
            super().enqueue_req(conn)
        elif conn.head:
            self._wait(conn, self._reading)
        else:
            self._wait(conn, self._silent)

    def _wait(self, conn: Connection, waiting: Waiting) -> None:
        conn.sock.setblocking(False)
        waiting.since[conn] = time.monotonic()
        self.poller.register(conn.sock, selectors.EVENT_READ, lambda _sock: self._readable(conn))

    def _readable(self, conn: Connection) -> None:
        if conn.closed:  # by what the poller has told of in the same breath
            return
        try:
            data = conn.sock.recv_now(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(conn)
        elif conn not in self._lingering.since:  # whose bytes nobody wants
            conn.add(data)
            if conn in self._reading.since and not conn.has_whole_head:
                return  # its deadline stays
            self._forget(conn)
            self._await_request(conn)

    def _forget(self, conn: Connection) -> None:
        """It waits no longer."""
        for waiting in self._all_waiting:
            waiting.since.pop(conn, None)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """gunicorn calls this all the time: end what has waited too long."""
        now = time.monotonic()
        for waiting in self._all_waiting:
            while (conn := waiting.oldest) and now - waiting.since[conn] > waiting.seconds:
                self._drop(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """gunicorn's end: nobody waits any more."""
        if force:
            for waiting in self._all_waiting:
                while conn := waiting.oldest:
                    self._drop(conn)

    # --- a request, on a thread ----------------------------------------------------------------

    def handle(self, conn: Connection) -> Any:
        conn.data_ready = True
        conn.sock.setblocking(True)
        conn.init()
        too_long = len(conn.head) > MAX_HEAD_BYTES and b"\r\n\r\n" not in conn.head
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head.clear()
        if too_long:
            self.handle_error(None, conn.sock, conn.client, http_errors.LimitRequestHeaders("head"))
            return False
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> bool:
        req.body.reader = BodyReader(req)
        headers, most = dict(req.headers), self.app.settings.max_body_bytes
        length = headers.get("CONTENT-LENGTH", "0")  # the parser has checked it
        size = most if "TRANSFER-ENCODING" in headers else min(int(length), most)
        if size:  # a websocket has no body, and talks as long as it likes
            conn.sock.receive_until(time.monotonic() + BODY_S + size / BODY_BYTES_PER_S)
        try:
            return bool(super().handle_request(req, conn))
        finally:
            conn.sock.receive_until(None)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """A body that nobody has read ends its connection; waiting for it would hold a thread."""
        if not keepalive:
            return False
        conn.sock.receive_until(time.monotonic())  # only what has come already
        try:
            return bool(conn.parser.finish_body())
        except (OSError, UnreadableBody):
            return False
        finally:
            conn.sock.receive_until(None)

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """Back on the thread that polls: the next request, or the end."""
        try:
            kept = not fs.cancelled() and fs.result()
        except Exception:
            kept = False
        if kept:
            self.enqueue_req(conn)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self._wait(conn, self._lingering)
        except (OSError, ValueError):  # closed already, as a websocket's is
            self.nr_conns -= 1
            conn.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """What is no HTTP gets OpenAI's error body as well, and never its own words back."""
        status, message = status_of(exc), "This request cannot be read."
        if isinstance(exc, (http_errors.ParseException, UnreadableBody)):
            logger.info("a request that cannot be read: %s", type(exc).__name__)
        else:
            logger.error("unexpected error in a connection", exc_info=exc)
            status, message = 500, "The server failed to answer this request; its log says why."
        self.app.front.metrics.answered(status)
        body = msgspec.json.encode(ApiError(status, message).body())
        head = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Bad Request')}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


_PHRASES = {
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}
