"""TraceCollector: takes an engine's lines out of their channel, in order and without a gap.

What is lost for good breaks the stream off: a later line means nothing to a fold that lacks an
earlier one. The run goes on; a ``trace.gap`` on the front end's stream tells which events are
missing.

The other end of ``channel.py``, in the front end's process, on a thread of its own. It appends to
the one log of the run, which writes the file and feeds the viewers. No counterpart in vLLM, whose
subscribers to KV events are other programs.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from minivllm.trace.channel import (
    EVENTS_SOCKET,
    REPLAY_SOCKET,
    Ask,
    Done,
    Head,
    Lines,
    Oldest,
    encode,
)
from minivllm.trace.events import ExecTensors, TraceGap
from minivllm.trace.file import decode_event
from minivllm.trace.log import TraceLog
from minivllm.trace.tracer import Tracer

logger = logging.getLogger(__name__)

POLL_MS = 100
ASK_AGAIN_S = 1.0
LAST_WORDS_MS = 50
"""What a process has said at its end is with us by then."""
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_from_channel = msgspec.msgpack.Decoder(Lines | Head | Oldest)
_TENSORS = b'"kind":"exec.tensors"'


class TraceCollector:
    """Made before the engine's process is started, so that nothing it says is missed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: str,
        stream: str,
        log: TraceLog,
        tracer: Tracer,
        spool: Path,
        epoch: int = 1,
    ) -> None:
        """``epoch``: which life of the stream comes here.

        ``tracer``: tells of gaps. ``spool``: where the engine puts arrays that go to memory."""
        self._stream, self._log, self._tracer, self._spool = stream, log, tracer, spool
        self._epoch = epoch
        self._next = 1  # the seq that is due
        self._head = 0  # the newest that the engine is known to have told
        self._ended = False
        self._broken_off = False
        self._ahead: dict[int, Lines] = {}  # what came before its turn
        self._asked_at = 0.0  # time.monotonic(); 0: no answer is awaited
        self._stop = threading.Event()
        self._sub = context.socket(zmq.SUB)
        self._sub.subscribe(b"")
        self._sub.bind(f"ipc://{directory}/{EVENTS_SOCKET}")
        self._dealer = context.socket(zmq.DEALER)
        self._dealer.connect(f"ipc://{directory}/{REPLAY_SOCKET}")
        self._thread = threading.Thread(target=self._loop, name=f"trace-{stream}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The engine's process has ended: take what it still said, and tell what is missing."""
        self._stop.set()
        self._thread.join()

    # --- on its own thread ---------------------------------------------------------------------

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._sub, zmq.POLLIN)
        poller.register(self._dealer, zmq.POLLIN)
        try:
            while not self._is_complete and not self._stop.is_set():
                self._take_in(poller, POLL_MS)
                self._ask_if_due()
            if self._is_complete:
                self._dealer.send(encode(Done()))
            if not self._ended:
                while self._take_in(poller, LAST_WORDS_MS):
                    pass
            if self._next <= self._head:
                self._break_off(self._head)
        except Exception:  # a trace that breaks off is worse than none only if nobody hears of it
            logger.exception("the trace of %s ends here: it cannot be collected", self._stream)
        finally:
            self._sub.close(linger=0)
            self._dealer.close(linger=1000)

    @property
    def _is_complete(self) -> bool:
        return self._ended and (self._broken_off or self._next > self._head)

    def _take_in(self, poller: zmq.Poller, timeout_ms: int) -> bool:
        ready = dict(poller.poll(timeout_ms))
        if self._sub in ready:
            self._take_frame(self._sub.recv())
        if self._dealer in ready:
            oldest: Any = None
            for frame in self._dealer.recv_multipart():
                message = self._take_frame(frame)
                oldest = message if isinstance(message, Oldest) else oldest
            self._asked_at = 0.0
            if oldest is not None and oldest.seq > self._next:
                self._break_off(oldest.seq - 1)
        return bool(ready)

    def _take_frame(self, frame: bytes) -> Lines | Head | Oldest | None:
        try:
            message = _from_channel.decode(frame)
        except _BAD as error:
            logger.warning("a message on the trace's channel cannot be read: %s", error)
            return None
        if isinstance(message, Oldest) or message.stream not in (self._stream, ""):
            return message
        if isinstance(message, Head):
            self._head = max(self._head, message.seq)
            self._ended = self._ended or message.ended
        else:
            self._head = max(self._head, message.last)
            if message.last >= self._next and not self._broken_off:
                self._ahead[message.first] = message
            self._append_due()
        return message

    def _append_due(self) -> None:
        while due := [lines for first, lines in self._ahead.items() if first <= self._next]:
            lines = due[0]
            del self._ahead[lines.first]
            self._append(lines)

    def _append(self, message: Lines) -> None:
        new = message.lines[self._next - message.first :]
        if new:
            self._next = message.last + 1
            self._take_over_arrays(new)
            self._log.append(self._stream, new, message.step, self._epoch)

    def _ask_if_due(self) -> None:
        """For what is missing between the last that was appended and the next that is there."""
        if self._broken_off or self._next > self._head:
            return
        if time.monotonic() < self._asked_at + ASK_AGAIN_S:
            return
        self._asked_at = time.monotonic()
        self._dealer.send(encode(Ask(self._next, min(self._ahead, default=self._head + 1) - 1)))

    def _break_off(self, last: int) -> None:
        """The events that are due have gone for ever, up to ``last`` at least."""
        self._broken_off = True
        self._ahead.clear()
        self._tracer.emit(
            TraceGap, None, of_stream=self._stream, epoch=self._epoch, first=self._next, last=last
        )
        self._tracer.flush()
        self._next = last + 1

    def _take_over_arrays(self, lines: list[bytes]) -> None:
        for line in lines:
            if _TENSORS in line:
                event = decode_event(line)
                if isinstance(event.data, ExecTensors):
                    try:
                        self._log.artifacts.take_over(
                            self._stream, self._epoch, event.step, event.data, self._spool
                        )
                    except OSError as error:
                        logger.warning("the arrays of step %d are lost: %s", event.step, error)
