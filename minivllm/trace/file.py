"""Trace files: a header line, then one event a line. Reads them; ``log.py`` writes them.

A file that is cut, altered or of a later major version gives a TraceError that names the line.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.events import KINDS, SCHEMA, Event, Header
from minivllm.trace.fold import State, apply, from_json, new_state
from minivllm.trace.index import Index, build_index, fitting_sidecar, sidecar_of

MAX_BLOCK_SIZE = 1024
"""As in ``config.py``."""
MAX_BLOCKS = 10_000_000
"""Of a trace that is read: 1 GB of state. ``config.py`` takes fewer, but a measured pool is not
held to that."""


class _Line(msgspec.Struct):
    """An event before its payload is decoded by its kind."""

    stream: str
    seq: int
    step: int
    phase: str
    kind: str
    t_ns: int
    src: int
    req: str | None
    data: msgspec.Raw


_line_decoder = msgspec.json.Decoder(_Line)
_header_decoder = msgspec.json.Decoder(Header)
_data_decoders = {kind: msgspec.json.Decoder(cls) for kind, cls in KINDS.items()}


def decode_event(line: bytes) -> Event:
    """One line → Event. The payload of a kind that is not known stays a plain dict.

    Raises msgspec.MsgspecError when it is no event of this schema.
    """
    raw = _line_decoder.decode(line)
    decoder = _data_decoders.get(raw.kind)
    data: Any = decoder.decode(raw.data) if decoder else msgspec.json.decode(raw.data)
    return Event(
        stream=raw.stream,
        seq=raw.seq,
        step=raw.step,
        phase=raw.phase,
        kind=raw.kind,
        t_ns=raw.t_ns,
        src=raw.src,
        req=raw.req,
        data=data,
    )


@dataclass
class Trace:
    """A whole trace in memory, or one engine's life of it.

    What is read of *the* engine (steps, states) is of the first one, in its last life; to look at
    another, take that one of :meth:`lives`.
    """

    header: Header
    events: list[Event]
    name: str = ""
    index: Index | None = None
    """Of the sidecar, where there is one: ``state_before`` then need not start at the beginning."""

    @cached_property
    def engines(self) -> list[str]:
        """The engines' streams, in order of their numbers."""
        streams = {event.stream for event in self.events}
        return sorted((s for s in streams if s.startswith("engine")), key=lambda s: (len(s), s))

    @cached_property
    def engine_events(self) -> list[Event]:
        """The events of the first engine's last life: what the fold takes."""
        return self._shown[1]

    @cached_property
    def _shown(self) -> tuple[str, list[Event]]:
        """Name and events of that life."""
        if not self.engines:
            return "", []
        lives = self.epochs(self.engines[0])
        return life_name(self.engines[0], max(lives)), lives[max(lives)]

    def epochs(self, stream: str) -> dict[int, list[Event]]:
        """Each life of a stream, by its number."""
        return split_lives([event for event in self.events if event.stream == stream])

    def lives(self) -> dict[str, Trace]:
        """The runs in this trace, by name: one for each engine (``engine0``), and one more each
        time an engine was started anew (``engine0, life 2``): with a ``run.start``, or in a trace
        without those with a ``run.config`` of its own."""
        return {
            life_name(stream, epoch): Trace(self.header, events, self.name, self.index)
            for stream in self.engines
            for epoch, events in self.epochs(stream).items()
        }

    @cached_property
    def steps(self) -> dict[int, list[Event]]:
        """Step number → its engine events, the inputs applied before it included.

        Key 0 has what came before any step.
        """
        steps: dict[int, list[Event]] = {}
        for event in self.engine_events:
            steps.setdefault(event.step, []).append(event)
        return steps

    @property
    def first_step(self) -> int:
        """The earliest whole step: 1, or the one after the snapshot that the trace begins with."""
        first = self.engine_events[0] if self.engine_events else None
        return first.step + 1 if first is not None and first.kind == "run.snapshot" else 1

    @property
    def last_step(self) -> int:
        return max(self.steps, default=0)

    def state_before(self, step: int) -> State:
        """The state when step ``step`` is about to take its inputs, from the nearest snapshot.

        Raises TraceError for a step that the trace's retention has dropped.
        """
        if step < self.first_step and self.first_step > 1:
            raise TraceError(
                f"{self.name}: step {step} was not kept; the trace begins with {self.first_step}"
            )
        state, done = new_state(), 0
        index = self.index.lives.get(self._shown[0]) if self.index is not None else None
        if index is not None:
            nearest = max((number for number in index.snapshots if number <= step), default=None)
            if nearest is not None:
                state, done = from_json(index.snapshots[nearest]), index.steps[nearest]
        for event in islice(self.engine_events, done, None):
            if event.step >= step:
                break
            apply(state, event)
        return state


def life_name(stream: str, epoch: int) -> str:
    return stream if epoch == 1 else f"{stream}, life {epoch}"


def split_lives(events: list[Event]) -> dict[int, list[Event]]:
    """One stream's events, apart where its writer was started anew: ``seq`` counts from 1 there.

    Of a stream that was cut to its last steps, the first life may have another number than 1.
    """
    starts = [i for i, event in enumerate(events) if event.kind == "run.start"]
    configs = [i for i, event in enumerate(events) if event.kind == "run.config"]
    begins = [at for at in starts if at] if starts else configs[1:]
    lives: dict[int, list[Event]] = {}
    for at, end in pairwise([0, *begins, len(events)]):
        if at < end:
            told = getattr(events[at].data, "epoch", 1)  # run.start, run.snapshot
            lives[max(told, max(lives, default=0) + 1)] = events[at:end]
    return lives


def read_trace(path: str | Path) -> Trace:
    """Read a ``.jsonl`` trace, or one packed as ``.jsonl.gz``. Raises TraceError."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TraceError(
            f"cannot unpack the trace {path}: {error}; copy it anew from where it came, or, if it "
            "was never packed, take .gz off its name"
        ) from error
    except OSError as error:
        raise TraceError(f"cannot read the trace {path}: {error.strerror or error}") from error
    trace = parse_trace(raw, str(path))
    trace.index = fitting_sidecar(path)
    return trace


def parse_trace(raw: bytes, name: str) -> Trace:
    """The bytes of a trace file → Trace. ``name`` stands in error messages."""
    first, _, rest = raw.partition(b"\n")
    header = _parse_header(first, name)
    events: list[Event] = []
    ends: dict[str, tuple[int, int]] = {}  # stream → (epoch, seq) of its last event
    lines = rest.split(b"\n")
    if lines and lines[-1] == b"":
        lines.pop()
    elif lines:
        raise TraceError(
            f"{name}, line {len(lines) + 1}: the file is cut in the middle of a line; "
            "record it again, or delete its last line to read what is there"
        )
    for number, line in enumerate(lines, start=2):
        try:
            event = decode_event(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            why = str(error) if line.strip() else "an empty line; delete it to read the rest"
            raise TraceError(f"{name}, line {number}: not an event ({why})") from error
        epoch, seq = ends.get(event.stream, (1, 0))
        if event.kind == "run.start" and event.data.epoch > epoch:
            epoch, seq = event.data.epoch, 0
        elif event.kind == "run.snapshot" and event.stream not in ends:
            epoch, seq = event.data.epoch, event.seq - 1
        if event.seq != seq + 1:
            raise TraceError(
                f"{name}, line {number}: event {event.seq} of {event.stream} where {seq + 1} "
                "was due; lines are missing or were moved"
            )
        ends[event.stream] = epoch, event.seq
        events.append(event)
    _check_that_it_folds(events, name)
    return Trace(header, events, name)


_DOES_NOT_FOLD = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    msgspec.ValidationError,
)


def _check_that_it_folds(events: list[Event], name: str) -> None:
    """An altered trace tells of what cannot have happened: say so here, where the line is known."""
    states: dict[str, State] = {}
    for number, event in enumerate(events, start=2):
        state = states.setdefault(event.stream, new_state())
        try:
            _check_numbers(event, state)
            apply(state, event)
        except _DOES_NOT_FOLD as error:
            raise TraceError(
                f"{name}, line {number}: event {event.seq} ({event.kind}) does not fit what came "
                f"before it ({error}); the file was altered"
            ) from error


def _check_numbers(event: Event, state: State) -> None:
    """Numbers that no engine would take: they would divide by zero, or fill the memory."""
    if event.kind == "run.config":
        config = msgspec.to_builtins(event.data)
    elif event.kind == "run.snapshot":
        config = (event.data.state or {}).get("config") or {}
    elif event.kind == "run.knob":
        config = {event.data.name: event.data.value}
        kind = type((state.config or {}).get(event.data.name, event.data.value))
        number = kind is float and type(event.data.value) is int
        if type(event.data.value) is not kind and not number:
            raise ValueError(f"{event.data.name} is {event.data.value!r}, no {kind.__name__}")
    else:
        return
    for name, most in (("block_size", MAX_BLOCK_SIZE), ("num_kv_blocks", MAX_BLOCKS)):
        if name in config and not 1 <= config[name] <= most:
            raise ValueError(f"{name} is {config[name]}; 1 to {most}")


def _parse_header(line: bytes, name: str) -> Header:
    hint = f'its first line must be a header with "schema": "{SCHEMA}"'
    try:
        header = _header_decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(f"{name} is no trace: {hint} ({error})") from error
    major = SCHEMA.rsplit(".", 1)[0]
    if header.schema.rsplit(".", 1)[0] != major:
        raise TraceError(
            f"{name} has schema {header.schema!r}; this version reads {major}.x. "
            "Read it with the minivllm that recorded it, or record it again"
        )
    return header


def load_index(path: str | Path) -> Index:
    """The index beside a trace file; made, and written where that is possible, if it is not
    there or belongs to another version of the file."""
    path = Path(path)
    if (fitting := fitting_sidecar(path)) is not None:
        return fitting
    index = build_index(read_trace(path), path.stat().st_size)
    try:
        sidecar_of(path).write_bytes(msgspec.json.encode(index))
    except OSError:
        pass  # a read-only place: the index is only a convenience
    return index
