"""EngineLink: the two sockets between the front end and one engine's process, and their thread.

    send ──► PUSH ─ Unix socket ─► PULL   core_proc.py
    take ◄── io thread ◄── PULL ◄─ PUSH

Sending never blocks: a message waits in the socket, without bound, until the engine's input thread
takes it, which it does in the middle of a step, too; since the front end bounds its open requests,
and each has one ``add`` and a few aborts, that is bounded by them. A message that cannot be read is
logged and passed over. Counterpart in vLLM: the sockets of ``MPClient`` in
``vllm/v1/engine/core_client.py``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import msgspec
import zmq

from minivllm.engine import wire
from minivllm.engine.core_proc import INPUT_SOCKET, OUTPUT_SOCKET
from minivllm.errors import EngineDeadError

logger = logging.getLogger(__name__)

LAST_WORDS_MS = 50
"""What a process has said at its end is with us by then."""


class EngineLink:
    def __init__(
        self,
        directory: str,
        name: str,
        take: Callable[[wire.ToFront, int], None],
        on_end: Callable[[], None],
    ) -> None:
        """Begins to read. Both are called on the link's thread: ``take`` with each message and its
        size in bytes, ``on_end`` after the last one."""
        self._take, self._on_end = take, on_end
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._push_lock = threading.Lock()  # a socket is one thread's at a time
        self._exit_read, self._exit_write = os.pipe()
        # Who receives binds: a stranger on a socket may then send, and take nothing away.
        self._push = self.context.socket(zmq.PUSH)
        self._push.set(zmq.SNDHWM, 0)
        self._push.set(zmq.RECONNECT_IVL, 10)  # milliseconds, until the process has bound its end
        self._push.connect(f"ipc://{directory}/{INPUT_SOCKET}")
        self._pull = self.context.socket(zmq.PULL)
        self._pull.set(zmq.RCVHWM, 0)
        self._pull.set(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        self._pull.bind(f"ipc://{directory}/{OUTPUT_SOCKET}")
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    def send(self, message: wire.Message, tell: Callable[[int], None]) -> None:
        """``tell`` hears how many bytes it has, before it goes. Raises EngineDeadError after
        :meth:`close`."""
        with self._push_lock:
            if self._push.closed:
                raise EngineDeadError("the engine was shut down")
            frame = wire.encode(message)
            tell(len(frame))
            self._push.send(frame, zmq.NOBLOCK)

    def note_exit(self) -> None:
        """The process has ended: the thread takes its last words, and then says so."""
        os.write(self._exit_write, b"x")

    def join(self) -> None:
        """After :meth:`note_exit`: until the last words are taken."""
        self._thread.join()

    def close(self) -> None:
        """After :meth:`join`; whoever else uses the context has closed his sockets."""
        with self._push_lock:
            self._push.close(linger=0)
        self.context.term()
        os.close(self._exit_read)
        os.close(self._exit_write)

    # --- on its thread ---------------------------------------------------------------------------

    def _read(self) -> None:
        poller = zmq.Poller()
        poller.register(self._pull, zmq.POLLIN)
        poller.register(self._exit_read, zmq.POLLIN)
        exited = False
        while not exited:
            exited = self._exit_read in dict(poller.poll())
            while self._pull.poll(LAST_WORDS_MS if exited else 0):
                frames = self._pull.recv_multipart()
                self._take_frame(frames[0] if len(frames) == 1 else b"")
        self._pull.close(linger=0)
        self._on_end()

    def _take_frame(self, frame: bytes) -> None:
        try:
            message = wire.decode_to_front(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("a message of %d bytes cannot be read: %s", len(frame), error)
            return
        try:
            self._take(message, len(frame))
        except Exception:  # as where a listener of the gate fails: nobody else shall miss anything
            logger.exception("a message (%s) could not be taken in", wire.name_of(message))
