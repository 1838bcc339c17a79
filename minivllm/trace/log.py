"""TraceLog: where the lines of all streams of one run go: memory, file, viewers.

The same bytes go to the file, to the viewers and into the history that late viewers read. Who
tells them is a :class:`~minivllm.trace.recorder.Recorder`, or a collector (``collector.py``) for
an engine in another process. No counterpart in vLLM.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.artifact_store import DEFAULT_LIMIT, ArtifactStore
from minivllm.trace.events import Header
from minivllm.trace.log_file import LogFile
from minivllm.trace.retention import StepRing

logger = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()

DEFAULT_RETENTION = 200_000
"""Events of a stream kept in memory for viewers (about 250 bytes each); the file has all."""

LIVES_KEPT = 2
"""Lives of a stream kept in memory: that of the engine that runs, and of the one before it, whose
last steps somebody may be reading."""

Subscriber = Callable[[str, list[bytes]], None]
"""Called with (stream, lines) after each flush, on the thread that flushed: be quick."""


class Life(NamedTuple):
    """One writer of a stream, as far as its events are in memory."""

    stream: str
    epoch: int
    first: int
    head: int
    """Its newest event."""


@dataclass(slots=True)
class _Kept:
    lines: deque[bytes] = field(default_factory=deque)
    first: int = 1

    @property
    def head(self) -> int:
        return self.first + len(self.lines) - 1


class TraceLog:
    """Where the lines of all streams of one run go: memory, file, subscribers.

    An engine that is started anew writes its stream again, from ``seq`` 1 on, as its next *life*
    (``epoch``). Who asks for no certain life is given the newest.
    """

    def __init__(
        self,
        header: Header,
        path: str | None = None,
        retention: int = DEFAULT_RETENTION,
        steps: int | None = None,
        tensors_limit: int = DEFAULT_LIMIT,
        header_complete: bool = True,
    ) -> None:
        """``steps``: keep only so many, in memory and in the file (``retention.py``).
        ``tensors_limit``: most bytes of one captured step's arrays. ``header_complete``: False
        while an engine elsewhere has still to say what runs it (:meth:`complete_header`).

        Raises TraceError when the file cannot be written.
        """
        self.header = header
        self.start_ns = time.perf_counter_ns()
        self.retention = retention
        self._ring = StepRing(steps, retention) if steps is not None else None
        self._first_in_file: dict[str, tuple[int, int]] = {}  # stream → its first (epoch, step)
        self._lives: dict[str, dict[int, _Kept]] = {}  # stream → epoch → its lines
        self._subscribers: list[Subscriber] = []
        self._lock = threading.Lock()
        self._failed = False
        self._file: LogFile | None = None
        self._held_back: list[bytes] | None = None if header_complete else []
        """Lines that wait for the header, which comes first in the file."""
        if path is not None:
            try:
                self._file = LogFile(path)
                if header_complete:
                    self._file.append([_encoder.encode(header)])
            except OSError as error:
                raise TraceError(f"cannot write the trace {path}: {error.strerror}") from error
            if steps is not None and not self._file.is_regular:
                self._file.close()
                raise TraceError(
                    f"{path} is no regular file: with a retention of {steps} steps it would have "
                    "to be replaced now and then. Name a file, or leave --trace-retention out"
                )
        self.artifacts = ArtifactStore(path, tensors_limit)

    @property
    def redacted(self) -> bool:
        return self.header.redacted

    def complete_header(self, **facts: Any) -> None:
        """What the first engine that is ready says of itself: model, dtype, device …"""
        with self._lock:
            if self._held_back is not None:
                self.header = msgspec.structs.replace(self.header, **facts)
                self._end_header()

    def _end_header(self) -> None:
        lines, self._held_back = self._held_back or [], None
        self._write_file([_encoder.encode(self.header), *lines])

    def streams(self) -> list[str]:
        with self._lock:
            return list(self._lives)

    def lives(self) -> list[Life]:
        """All that are in memory, those of one stream in order."""
        with self._lock:
            return [
                Life(stream, epoch, self._first(stream, epoch), kept.head)
                for stream, lives in self._lives.items()
                for epoch, kept in lives.items()
            ]

    def append(self, stream: str, lines: list[bytes], step: int, epoch: int = 1) -> None:
        """Take the next lines of a stream, told during ``step`` (0: of no engine).

        They come in order and without a gap, and a life's after all of the life before it: what
        comes later is not taken. Never raises: a defect of the trace ends the trace, with an error
        in the log, and not the run that it tells of.
        """
        with self._lock:
            try:
                self._take(stream, lines, step, epoch)
            except Exception:
                logger.exception("the trace ends here; the run goes on")
                self._fail()
            subscribers = [] if self._failed else list(self._subscribers)
        for subscriber in subscribers:
            try:
                subscriber(stream, lines)
            except Exception:
                logger.exception("somebody who was told of the trace failed, and is told no more")
                self._unsubscribe(subscriber)

    def _take(self, stream: str, lines: list[bytes], step: int, epoch: int) -> None:
        if self._failed:
            return
        lives = self._lives.setdefault(stream, {})
        if lives and epoch < max(lives):
            logger.warning("%s: what life %d still told is too late", stream, epoch)
            return
        kept = lives.setdefault(epoch, _Kept())
        kept.lines.extend(lines)
        if self._ring is None:
            self._forget(stream, epoch, len(kept.lines) - self.retention)
        else:
            for (name, life), count in self._ring.take(stream, lines, step, epoch).items():
                self._forget(name, life, count)
        for old in sorted(lives)[:-LIVES_KEPT]:
            del lives[old]
        self._write_file(lines)
        self._forget_artifacts()

    def _fail(self) -> None:
        """What is kept may fit no more: nothing of it is shown."""
        self._failed, self._ring = True, None
        self._lives.clear()
        self._end_file()

    def _forget(self, stream: str, epoch: int, count: int) -> None:
        kept = self._lives[stream].get(epoch)
        for _ in range(count if kept is not None else 0):
            assert kept is not None
            kept.lines.popleft()
            kept.first += 1

    def _write_file(self, lines: list[bytes]) -> None:
        """A full disk ends the file, with a warning, and not the engine that is being traced."""
        if self._file is None:
            return
        if self._held_back is not None:
            self._held_back += lines
            return
        try:
            self._file.append(lines)
            if self._ring is not None and self._ring.is_file_due:
                self._file.write_anew([_encoder.encode(self.header), *self._ring.lines()])
                self._ring.file_written()
                self._first_in_file = self._ring.first_steps()
        except OSError as error:
            logger.warning(
                "the trace file %s ends here: %s; the run goes on", self._file.path, error.strerror
            )
            self._end_file()

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.artifacts.is_open = False  # no line would tell of them

    def _forget_artifacts(self) -> None:
        """Those of dropped steps; while the file tells of a step, its arrays stay."""
        if self._ring is not None:
            firsts = self._first_in_file if self.artifacts.in_files else self._ring.first_steps()
            for stream, (epoch, step) in firsts.items():
                self.artifacts.forget_before(stream, epoch, step)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Be told of new lines from now on; returns what ends it."""
        with self._lock:
            self._subscribers.append(subscriber)

        return lambda: self._unsubscribe(subscriber)

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        with self._lock:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

    def first_seq(self, stream: str, epoch: int | None = None) -> int:
        """The oldest event still in memory (1 until the retention is exceeded).

        A ring of steps begins with a ``run.snapshot``, in the place of the last event it lacks.
        """
        with self._lock:
            return self._first(stream, epoch)

    def _first(self, stream: str, epoch: int | None) -> int:
        first = self._kept(stream, epoch).first
        return first - 1 if self._ring is not None and first > 1 else first

    def head_seq(self, stream: str, epoch: int | None = None) -> int:
        """The newest event handed on; 0 before the first."""
        with self._lock:
            return self._kept(stream, epoch).head

    def lines(
        self, stream: str, from_seq: int, to_seq: int, epoch: int | None = None
    ) -> list[bytes]:
        """The lines ``from_seq`` to ``to_seq``, both included, as far as they are in memory."""
        with self._lock:
            life = self._kept(stream, epoch)
            history, first = life.lines, life.first
            start = min(max(from_seq - first, 0), len(history))
            kept = list(islice(history, start, max(min(to_seq - first + 1, len(history)), start)))
            if self._ring is not None and from_seq < first <= to_seq + 1:
                snapshot = self._ring.snapshot(stream, epoch)
                kept = kept if snapshot is None else [snapshot, *kept]
            return kept

    def _kept(self, stream: str, epoch: int | None) -> _Kept:
        lives = self._lives.get(stream, {})
        return lives.get(max(lives, default=1) if epoch is None else epoch, _Kept())

    def close(self) -> None:
        with self._lock:
            if self._held_back is not None:
                self._end_header()
            if self._file is not None:
                self._file.close()
                self._file = None
