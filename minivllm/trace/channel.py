"""The trace's way out of an engine's process: a publisher there, a collector at the front end.

    Recorder → TraceChannel ── PUB ─────────► SUB  ── TraceCollector → TraceLog
                     │  └──── ROUTER ◄─────► DEALER ────────┘
               replay buffer      "I lack 512 to 530"

Lines go out once a step, numbered, and a copy stays in a bounded buffer. Publishing never waits:
where the collector is slow or not there, messages are dropped on the way, and it asks for them when
it sees the gap. What the buffer has no more is told of as a ``trace.gap``, never passed over. At
the end the process stays until the collector has said that it has everything, or for a few seconds.

Counterpart in vLLM: ``ZmqEventPublisher`` in ``vllm/distributed/kv_events.py``, which has the same
two sockets for its KV events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

import msgspec
import zmq

from minivllm.trace.artifact_store import ArtifactStore

logger = logging.getLogger(__name__)

REPLAY_BYTES = 64 * 2**20
"""Of lines kept for replay: some thousand steps of a busy engine."""
AT_ONCE_BYTES = 4 * 2**20
"""Of lines in one answer; the collector asks again for the rest."""
HEAD_EVERY_S = 0.2
LINGER_S = 5.0
"""How long the end waits for a collector that lacks something."""

EVENTS_SOCKET, REPLAY_SOCKET = "trace", "replay"
"""Names of the sockets in the private directory."""


class Lines(msgspec.Struct, tag="lines"):
    """What one flush told."""

    stream: str
    first: int
    """``seq`` of the first line."""
    step: int
    lines: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.lines) - 1


class Head(msgspec.Struct, tag="head"):
    """So far the stream goes: who lacks the last lines of a silent engine learns of it."""

    stream: str
    seq: int
    ended: bool = False
    """There will be no more."""


class Ask(msgspec.Struct, tag="ask"):
    first: int
    last: int


class Oldest(msgspec.Struct, tag="oldest"):
    """First frame of an answer to ``ask``, with the lines in the frames after it: the buffer
    begins with ``seq``."""

    seq: int


class Done(msgspec.Struct, tag="done"):
    """The collector has everything up to the end."""


encode = msgspec.msgpack.Encoder().encode
_from_collector = msgspec.msgpack.Decoder(Ask | Done)


class TraceChannel:
    """In the engine's process: a sink for its recorder. ``append`` is called on the engine's
    threads and never waits for anybody."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: str,
        start_ns: int,
        artifacts: ArtifactStore,
        redacted: bool,
        replay_bytes: int = REPLAY_BYTES,
    ) -> None:
        self.start_ns = start_ns
        self.artifacts = artifacts
        self.redacted = redacted
        self._replay_bytes = replay_bytes
        self._buffer: deque[tuple[int, int, bytes]] = deque()  # first, last, the message
        self._buffered_bytes = 0
        self._stream = ""
        self._next_seq = 1
        self._ended = False
        self._done = threading.Event()
        self._lock = threading.Lock()  # the buffer, and the one socket that two threads write
        self._pub = context.socket(zmq.PUB)
        self._pub.connect(f"ipc://{directory}/{EVENTS_SOCKET}")
        self._router = context.socket(zmq.ROUTER)
        self._router.bind(f"ipc://{directory}/{REPLAY_SOCKET}")
        self._thread = threading.Thread(target=self._serve, name="trace-replay", daemon=True)
        self._thread.start()

    def append(self, stream: str, lines: list[bytes], step: int, epoch: int = 1) -> None:
        """``epoch`` is known at the other end: a channel is of one life."""
        with self._lock:
            first, self._stream = self._next_seq, stream
            self._next_seq += len(lines)
            message = encode(Lines(stream, first, step, lines))
            self._buffer.append((first, self._next_seq - 1, message))
            self._buffered_bytes += len(message)
            while self._buffered_bytes > self._replay_bytes and len(self._buffer) > 1:
                self._buffered_bytes -= len(self._buffer.popleft()[2])
            self._pub.send(message)

    def close(self) -> None:
        """The stream has ended. Waits until the collector has it all, ``LINGER_S`` at most. May be
        called twice."""
        if self._ended:
            return
        self._ended = True
        self._send_head()
        if not self._done.wait(LINGER_S):
            logger.warning("nobody has collected the end of the trace")
            self._done.set()
        self._thread.join()
        with self._lock:
            self._pub.close(linger=0)

    def abandon(self) -> None:
        """The front end is gone: nobody will ever collect."""
        self._done.set()

    def _send_head(self) -> None:
        with self._lock:
            self._pub.send(encode(Head(self._stream, self._next_seq - 1, self._ended)))

    def _serve(self) -> None:
        beat = time.monotonic()
        while not self._done.is_set():
            if self._router.poll(round(HEAD_EVERY_S * 1000)):
                sender, *frames = self._router.recv_multipart()
                self._answer(sender, frames)
            if time.monotonic() >= beat:
                beat = time.monotonic() + HEAD_EVERY_S
                self._send_head()
        self._router.close(linger=0)

    def _answer(self, sender: bytes, frames: list[bytes]) -> None:
        try:
            message = _from_collector.decode(frames[0] if len(frames) == 1 else b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("a message to the trace's replay cannot be read: %s", error)
            return
        if isinstance(message, Done):
            self._done.set()
            return
        with self._lock:
            oldest = self._buffer[0][0] if self._buffer else self._next_seq
            answer, size = [encode(Oldest(oldest))], 0
            for first, last, lines in self._buffer:
                if last >= message.first and first <= message.last and size < AT_ONCE_BYTES:
                    answer.append(lines)
                    size += len(lines)
        self._router.send_multipart([sender, *answer])
