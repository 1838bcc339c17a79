"""gunicorn around the front end: one worker process with threads, and the arbiter that watches it.

    arbiter   binds, forks, passes signals on; holds no engine, and starts nothing again: a front
              end that has died ends the server, with its exit status
    worker    gthread: one thread polls the sockets, a pool of threads answers; the engines are
              started here, after the fork, as children of this process

What differs from gunicorn's own: SIGTERM and Ctrl-C mean the same, an orderly end
(``FrontEnd.end``), and a second one ends at once; a worker whose arbiter is gone ends without
waiting for anybody; clients that are slow hold nobody up (``patient_worker.py``); headers by which
a trusted proxy would set path, scheme or peer are off.

Counterpart in vLLM: ``launcher.py`` in ``vllm/entrypoints/`` (uvicorn; one process, asyncio).
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal, NoReturn

from gunicorn import sock
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

from minivllm.api.open_responses import WSGIApp
from minivllm.errors import MiniVLLMError
from minivllm.serving.front import LAST_WORDS_S, FrontEnd
from minivllm.serving.open_files import IDLE_CONNECTIONS, allow_connections
from minivllm.serving.patient_worker import PatientWorker
from minivllm.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection, or it is closed under their next request."""
ENGINES_END_S = 30.0
"""What the arbiter allows for the end, beyond what requests and last words may take."""
ORPHAN_S = 10.0
"""How long a worker may still take whose arbiter is gone."""

ARBITER_EVERY_S = 0.5

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
# Ctrl-C reaches every process of the terminal; the arbiter passes it on. The others mean something
# to other servers, or would stop or end this one by default.
_IGNORED_BY_WORKER = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
)

Wish = Literal["end", "leave"]
"""``leave``: at once."""


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
            "worker_connections": allow_connections(threads, threads + IDLE_CONNECTIONS),
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


class Worker(PatientWorker):
    """A gthread worker with the front end's beginning and end."""

    _loaded = False

    def init_signals(self) -> None:
        self._asked: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        super().init_signals()
        for sign in _IGNORED_BY_WORKER:
            signal.signal(sign, signal.SIG_IGN)

    def init_process(self) -> None:
        threading.Thread(target=self._watch_arbiter, name="arbiter", daemon=True).start()
        super().init_process()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._loaded:
            raise SystemExit(0)  # whatever is being loaded
        self._asked.put("end")  # the one thing that is safe to do in a signal's handler

    def is_parent_alive(self) -> bool:
        return True  # _watch_arbiter knows

    def _watch_arbiter(self) -> None:
        """Without it nobody listens to this server's signals any more: it ends, and waits for
        none of its requests."""
        while self.ppid == os.getppid():
            time.sleep(ARBITER_EVERY_S)
        if self._loaded:
            self._asked.put("leave")
            time.sleep(ORPHAN_S)
        _leave(1)  # engines end with their parent's pipe

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
        front.end(at_once=self._asked.get() == "leave")
        self.alive = False
        self.method_queue.defer(lambda: None)  # wakes the thread that polls


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
