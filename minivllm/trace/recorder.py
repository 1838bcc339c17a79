"""Recorder: the tracer that is on. Encodes each event once, into one line of JSON.

Several streams (``engine0``, ``api``) number their own events and share one sink: the run's
:class:`~minivllm.trace.log.TraceLog`, or the way to it out of an engine's process (``channel.py``).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, Protocol

import msgspec

from minivllm.core.scheduler_output import StepTensors
from minivllm.errors import TraceError
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.code import file_of, name_of, text_of
from minivllm.trace.events import Data, Event, ExecTensors, RunSource, RunStart, TraceLeftOut
from minivllm.trace.invariants import SelfCheck
from minivllm.trace.log import TraceLog
from minivllm.trace.redact import TEXT, redacted
from minivllm.trace.texts import TokenText
from minivllm.trace.tracer import P, Tracer

logger = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()
_Line = msgspec.defstruct("_Line", Event.__struct_fields__, gc=False)
"""An Event on its way to its bytes: made by position, at half the price."""


class TraceSink(Protocol):
    """Where a recorder's lines go: the run's log, or the way to it (``channel.py``)."""

    start_ns: int
    """When the run began (``time.perf_counter_ns``)."""
    artifacts: ArtifactStore

    @property
    def redacted(self) -> bool: ...
    def append(self, stream: str, lines: list[bytes], step: int, epoch: int) -> None: ...
    def close(self) -> None: ...


class Recorder(Tracer):
    """One stream of a run. Events are handed on at ``flush``, once per step."""

    on = True

    def __init__(
        self,
        log: TraceSink,
        stream: str = "engine0",
        token_text: TokenText | None = None,
        epoch: int = 1,
        check: bool = False,
    ) -> None:
        """``epoch``: which life of the stream this is; an engine that was restarted is the next.
        ``check``: fold along, so that :meth:`breaches` can answer (``--trace-check``)."""
        self._sink = log
        self.stream = stream
        self.epoch = epoch
        self._check = SelfCheck() if check else None
        self._redact = log.redacted
        self._start_ns = log.start_ns
        self.seq = 0
        self.step = 0
        self.phase = "idle"
        self.token_text = token_text
        self._lines: list[bytes] = []
        self._ended = False
        self._sites: dict[tuple[int, int], int] = {}  # (code, instruction) → src
        self._sources: dict[tuple[int, int], int] = {}  # (code, line) → src
        self._places: list[tuple[str, int]] = []  # file and line of src 1, 2, …
        self._functions: dict[int, CodeType] = {}  # also keeps their ids from being used again
        self._lock = threading.RLock()  # the api stream is written by many threads

    def sibling(self, stream: str) -> Recorder:
        """Another stream of the same run."""
        return Recorder(self._sink, stream, self.token_text)

    @property
    def log(self) -> TraceLog:
        """The run's log. An engine in a process of its own only has a way to it."""
        if not isinstance(self._sink, TraceLog):
            raise TraceError("the run's log is in the front end's process")
        return self._sink

    def emit(
        self, kind: Callable[P, Data], req: str | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        frame = sys._getframe(1)
        data = kind(*args, **kwargs)
        if self._redact:
            data = redacted(data)
        # The instruction, not the line: Python would have to search for the line's number.
        site = (id(frame.f_code), frame.f_lasti)
        with self._lock:
            src = self._sites.get(site) or self._new_site(site, frame)
            told = self._write(data, req, src)
        watch = self.on_event
        if watch is not None:  # without the lock: the watcher may hold the engine here
            watch(Event(**msgspec.structs.asdict(told)), self._places[src - 1])

    def text(self, token_id: int, before: Sequence[int] = ()) -> str:
        if self._redact:
            return TEXT
        return self.token_text(token_id, before) if self.token_text else f"<{token_id}>"

    @property
    def keeps_tensors(self) -> bool:
        return self._sink.artifacts.is_open

    def keep_tensors(self, tensors: StepTensors) -> None:
        told = self._sink.artifacts.put(self.stream, self.epoch, self.step, tensors)
        if isinstance(told, ExecTensors):
            self.emit(ExecTensors, None, **msgspec.structs.asdict(told))
        else:
            self.emit(TraceLeftOut, None, **msgspec.structs.asdict(told))

    def breaches(self) -> list[str]:
        with self._lock:
            return self._check.new_breaches() if self._check is not None else []

    def flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            if lines and not self._ended:
                self._guarded(self._sink.append, self.stream, lines, self.step, self.epoch)

    def close(self) -> None:
        self.flush()
        self._guarded(self._sink.close)

    def _guarded(self, do: Callable[..., None], *arguments: Any) -> None:
        """Whatever the sink fails by ends the stream, and not the engine or server it tells of."""
        try:
            do(*arguments)
        except Exception:
            self._ended = True
            logger.exception("the trace of %s ends here; the run goes on", self.stream)

    def _write(self, data: Data, req: str | None, src: int) -> Any:
        self.seq += 1
        t_ns = time.perf_counter_ns() - self._start_ns
        told: Any = _Line(
            self.stream, self.seq, self.step, self.phase, data.KIND, t_ns, src, req, data
        )
        self._lines.append(_encoder.encode(told))
        if self._check is not None:
            self._check.take(told)
        return told

    def _new_site(self, site: tuple[int, int], frame: FrameType) -> int:
        """The number of a line that emits; two calls on one line have the same."""
        key = (id(frame.f_code), frame.f_lineno)
        src = self._sources.get(key)
        if src is None:
            src = self._intern_source(frame)
        self._sites[site] = src
        return src

    def _intern_source(self, frame: FrameType) -> int:
        """Give the line that emits a number, and tell its text before the first use.

        Before the first of all, tell that the stream begins.
        """
        if not self._sources:
            self._write(RunStart(epoch=self.epoch), None, 0)
        code, line = frame.f_code, frame.f_lineno
        src = self._sources[(id(code), line)] = len(self._sources) + 1
        first, text, file = code.co_firstlineno, "", file_of(code)
        if id(code) not in self._functions:
            self._functions[id(code)] = code
            text = text_of(code)
        self._places.append((file, line))
        source = RunSource(
            src=src, file=file, line=line, function=name_of(code), first_line=first, text=text
        )
        self._write(source, None, src)
        return src
