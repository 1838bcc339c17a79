"""gunicorn around the front end: one worker process with threads, and the arbiter that watches it.

    arbiter   binds, forks, passes signals on; holds no engine, and starts nothing again: a front
              end that has died ends the server, with its exit status
    worker    gthread: one thread polls the sockets, a pool of threads answers; the engines are
              started here, after the fork, as children of this process

What differs from gunicorn's own: SIGTERM and Ctrl-C mean the same, an orderly end
(``FrontEnd.end``), and a second one ends at once; a client that takes nothing, or sends nothing,
for too long is dropped; a connection takes a thread only once it has sent something; headers by
which a trusted proxy would set path, scheme or peer are off.

Counterpart in vLLM: ``launcher.py`` in ``vllm/entrypoints/`` (uvicorn; one process, asyncio).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import msgspec
from gunicorn import sock
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from minivllm.api.errors import ApiError
from minivllm.api.open_responses import WSGIApp
from minivllm.errors import MiniVLLMError
from minivllm.serving.bad_http import BodyReader, UnreadableBody, status_of
from minivllm.serving.front import LAST_WORDS_S, FrontEnd
from minivllm.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection, or it is closed under their next request."""
SILENCE_S = 60
"""How long a client may take to send the rest of a request; a page's channel pings each 25 s."""
ENGINES_END_S = 30.0
"""What the arbiter allows for the end, beyond what requests and last words may take."""
IDLE_CONNECTIONS = 1000

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def run(
    listener: socket.socket,
    settings: ServeSettings,
    make_front: Callable[[], FrontEnd],
    tell_ready: Callable[[], None],
) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process."""
    OneWorkerArbiter(_Application(listener, settings, make_front, tell_ready)).run()
    sys.exit(1)  # run() does not return


class _Application(BaseApplication):
    def __init__(
        self,
        listener: socket.socket,
        settings: ServeSettings,
        make_front: Callable[[], FrontEnd],
        tell_ready: Callable[[], None],
    ) -> None:
        self.settings, self.tell_ready = settings, tell_ready
        self._listener, self._make_front = listener, make_front
        self.front: FrontEnd | None = None
        super().__init__()

    def load_config(self) -> None:
        threads = self.settings.num_threads
        for name, value in {
            "bind": [f"fd://{self._listener.detach()}"],
            "workers": 1,
            "worker_class": Worker,
            "logger_class": OurLogger,
            "threads": threads,
            "worker_connections": threads + IDLE_CONNECTIONS,
            "timeout": 0,  # nothing here is killed for being busy
            "graceful_timeout": 0,  # all have been answered before gunicorn's own end begins
            "keepalive": KEEP_ALIVE_S,
            "limit_request_line": 8190,
            "limit_request_fields": 100,
            "limit_request_field_size": 8190,
            # Nobody's headers say what the path, the scheme or the peer is.
            "forwarded_allow_ips": "",
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "control_socket_disable": True,
            "proc_name": "minivllm",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApp:
        self.front = self._make_front()
        return self.front.wsgi


class OneWorkerArbiter(Arbiter):
    """Watches the one worker and passes on the wish to end."""

    LISTENERS: list[Any]
    failed = False
    ending = False

    def _end(self) -> NoReturn:
        raise StopIteration  # gunicorn's way to say it

    handle_int = handle_term = handle_quit = handle_hup = _end

    def _ignore(self) -> None:
        """One worker, no second generation of it, nothing to reload."""

    handle_ttin = handle_ttou = handle_usr1 = handle_usr2 = handle_winch = _ignore

    def reap_workers(self) -> None:
        for pid in list(self.WORKERS):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            self.WORKERS.pop(pid).tmp.close()
            code = os.waitstatus_to_exitcode(status)
            if self.ending:
                self.failed = self.failed or code != 0
            elif code < 0:  # by a signal; what ends by itself has told why
                logger.error("the front end was killed by %s", signal.Signals(-code).name)
                raise HaltServer("killed", 1)
            else:
                raise HaltServer("ended", code)

    def stop(self, graceful: bool = True) -> None:
        """End the worker in good order, or at once when asked a second time."""
        self.ending = True
        sock.close_sockets(self.LISTENERS)  # our copies: the worker still answers
        self.LISTENERS = []
        settings = self.app.settings
        deadline = time.monotonic() + settings.shutdown_timeout_s + LAST_WORDS_S + ENGINES_END_S
        while self.WORKERS:
            # Again and again: the first may have come before the worker could hear it.
            self.kill_workers(signal.SIGTERM)
            again = set(self.wait_for_signals(timeout=0.5)) & set(_ENDING_SIGNALS)
            if again or time.monotonic() > deadline:
                self.failed = True
                self.kill_workers(signal.SIGKILL)  # its engines end with their parent's pipe
            self.reap_workers()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        self.stop()
        sys.exit(exit_status or int(self.failed))


class Worker(ThreadWorker):
    """gthread, with the front end's beginning and end."""

    _loaded = False

    def init_signals(self) -> None:
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        super().init_signals()
        # Ctrl-C reaches every process of the terminal; the arbiter passes it on.
        for sign in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(sign, signal.SIG_IGN)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._loaded:
            raise SystemExit(0)  # whatever is being loaded
        self._asked.put(None)  # the one thing that is safe to do in a signal's handler

    def is_parent_alive(self) -> bool:
        if self.ppid != os.getppid():
            self._asked.put(None)
        return True

    def load_wsgi(self) -> None:
        status = 1
        try:
            super().load_wsgi()
            self._loaded = True
            return
        except MiniVLLMError as error:
            print(f"minivllm: {error}", file=sys.stderr)
            status = error.exit_status
        except SystemExit:
            status = 0
        except BaseException:
            logger.exception("the server could not be started")
        _leave(status)

    def run(self) -> None:
        front: FrontEnd = self.app.front
        threading.Thread(target=self._end_when_asked, args=(front,), daemon=True).start()
        self.app.tell_ready()
        try:
            super().run()
        except BaseException:
            logger.exception("the server has failed")
            front.end()
            _leave(1)
        _leave(0)

    def _end_when_asked(self, front: FrontEnd) -> None:
        self._asked.get()
        front.end()
        self.alive = False
        self.method_queue.defer(lambda: None)  # wakes the thread that polls

    def accept(self, listener: socket.socket) -> None:
        """As gthread's, but without a thread that waits for the first byte: a browser opens
        connections in advance, and sixteen of them would hold up ``/health``."""
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                return
            raise
        patient = PatientSocket(fileno=accepted.detach())
        patient.limit(SILENCE_S, self.app.settings.send_timeout_s)
        conn = Connection(self.cfg, patient, address, listener.getsockname())
        conn.timeout = time.monotonic() + self.cfg.keepalive
        self.nr_conns += 1
        self.pending_conns.append(conn)
        self.poller.register(
            conn.sock, 1, lambda client: self.on_pending_socket_readable(conn, client)
        )

    def handle_request(self, req: Any, conn: Any) -> Any:
        req.body.reader = BodyReader(req)
        return super().handle_request(req, conn)

    def handle(self, conn: Connection) -> Any:
        kept = super().handle(conn)
        if not kept:
            # This may wait for the client; gthread would do it on the one thread that accepts.
            conn.close(graceful=True)
        return kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """What is no HTTP gets OpenAI's error body as well, and never its own words back."""
        if not isinstance(exc, (ParseException, UnreadableBody)):
            return super().handle_error(req, client, addr, exc)
        status = status_of(exc)
        self.app.front.metrics.answered(status)
        logger.info("a request that cannot be read: %s", type(exc).__name__)
        body = msgspec.json.encode(ApiError(status, "This request cannot be read.").body())
        head = f"HTTP/1.1 {status} Bad Request\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


class Connection(TConn):
    """Closed by whoever is first, once."""

    closed = False

    def close(self, graceful: bool = False) -> None:
        if not self.closed:
            self.closed = True
            super().close(graceful)


class PatientSocket(socket.socket):
    """A socket whose blocking calls give up some time, and then for good.

    The kernel's own limits are used, since Python's would make the socket non-blocking under
    gunicorn and the websockets, which set and expect it blocking.
    """

    is_stuck = False
    """Its client has not taken what was sent to it."""

    def limit(self, receive_s: float, send_s: float) -> None:
        for option, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
            whole = int(seconds)
            timeval = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
            self.setsockopt(socket.SOL_SOCKET, option, timeval)

    def recv(self, *args: Any) -> bytes:
        try:
            return super().recv(*args)
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


class OurLogger(Logger):
    """gunicorn's complaints go where ours go; the door writes the line of each request."""

    def setup(self, cfg: Any) -> None:
        self.cfg, self._access_log_enabled = cfg, False
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


def _leave(status: int) -> NoReturn:
    """End this process now. Not by sys.exit: that would unwind the arbiter's frames, which the
    fork has copied, and join threads that may be stuck with a reader."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)
