"""The runs a page can open: recorded ones from files, live ones from an engine's log.

A request's way is over when its events arrive here; this room only hands them on. A viewer names
a run by its id, never by a path: the ids are made here, from what the command line or the gallery
named. No counterpart in vLLM, which has metrics and logs but no event stream to watch.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.artifacts import Artifact, artifact_events, no_such_step, open_artifact
from minivllm.trace.events import Event, ExecTensors
from minivllm.trace.file import Trace, decode_event, parse_trace, read_trace, split_lives
from minivllm.trace.fold import apply, forget_finished, new_state, to_json
from minivllm.trace.hues import Hues
from minivllm.trace.recorder import TraceLog
from minivllm.trace.words import join, knob_value

MAX_EVENTS_PER_ANSWER = 5000
"""Events in one answer of the history; about 1 MB of JSON, 20 ms to parse in a browser."""

SIMULATED_KEPT = 16
"""Simulated runs that stay in memory."""

FINISHED_KEPT = 256
"""Finished requests that the snapshot of a live run still has."""


class Run(Protocol):
    """One run, whatever it comes from."""

    id: str
    kind: str
    """``recorded`` | ``live``."""
    label: str
    """How the page calls it where the id does not say enough; else empty."""

    def epoch(self) -> str:
        """Tells two runs behind one id apart: a sequence number means nothing across it."""
        ...

    def header(self) -> dict[str, Any]: ...

    def heads(self) -> dict[str, int]:
        """The last sequence number of each stream."""
        ...

    def first(self, stream: str) -> int:
        """The oldest sequence number that can still be had."""
        ...

    def lines(self, stream: str, from_seq: int, to_seq: int) -> list[bytes]:
        """Encoded events, both ends included; fewer where they do not exist."""
        ...

    def tour(self) -> dict[str, Any] | None: ...

    def artifacts(self, stream: str) -> dict[int, ExecTensors]:
        """Step → what was told of its arrays, of each step that was captured."""
        ...

    def artifact(self, stream: str, step: int) -> Artifact:
        """Raises MissingArtifactError, ArtifactError."""
        ...


class RecordedRun:
    """A run from a trace file, read when it is first asked for.

    Where an engine was started more than once, one of its lives: ``seq`` counts from 1 in each.
    """

    kind = "recorded"
    label = ""

    def __init__(self, run_id: str, path: Path, life: int | None = None) -> None:
        """``life``: 1, 2, …; None: the last."""
        self.id = run_id
        self.path = path
        self.life = life
        self._lock = threading.Lock()
        self._trace: Trace | None = None
        self._events: dict[str, list[Event]] = {}
        self._lines: dict[str, list[bytes]] = {}
        self._first: dict[str, int] = {}  # a trace that was cut to its last steps begins later

    def _load(self) -> Trace:
        """Raises TraceError when the file is broken, at each call anew."""
        with self._lock:
            if self._trace is None:
                trace = read_trace(self.path)
                for stream in dict.fromkeys(event.stream for event in trace.events):
                    lives = split_lives([e for e in trace.events if e.stream == stream])
                    events = lives[min(self.life or len(lives), len(lives)) - 1]
                    self._events[stream] = events
                    self._first[stream] = events[0].seq
                    self._lines[stream] = [msgspec.json.encode(event) for event in events]
                self._trace = trace
            return self._trace

    def epoch(self) -> str:
        return self._load().header.run_id

    def header(self) -> dict[str, Any]:
        """From the first line alone: the list of runs must not read every file."""
        try:
            packed = self.path.suffix == ".gz"
            with gzip.open(self.path) if packed else self.path.open("rb") as file:
                first = file.readline()
        except (OSError, EOFError) as error:
            raise TraceError(f"cannot read the trace {self.path}: {error}") from error
        header: dict[str, Any] = msgspec.to_builtins(parse_trace(first, str(self.path)).header)
        return header

    def heads(self) -> dict[str, int]:
        self._load()
        return {name: self.first(name) + len(lines) - 1 for name, lines in self._lines.items()}

    def first(self, stream: str) -> int:
        self._load()
        return self._first.get(stream, 1)

    def lines(self, stream: str, from_seq: int, to_seq: int) -> list[bytes]:
        first = self.first(stream)
        return self._lines.get(stream, [])[max(from_seq - first, 0) : max(to_seq + 1 - first, 0)]

    def tour(self) -> dict[str, Any] | None:
        """The guided stops of this recording: ``NAME.tour.json`` beside ``NAME.trace.jsonl``."""
        path = self.path.parent / (run_name(self.path) + ".tour.json")
        if not path.is_file():
            return None
        tour: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return tour

    def _captured(self, stream: str) -> dict[int, Event]:
        self._load()
        return artifact_events(self._events.get(stream, []))

    def artifacts(self, stream: str) -> dict[int, ExecTensors]:
        return {step: event.data for step, event in self._captured(stream).items()}

    def artifact(self, stream: str, step: int) -> Artifact:
        captured = self._captured(stream)
        if step not in captured:
            raise no_such_step(step, captured, self.id)
        return open_artifact(self.path, captured[step])


class LiveRun:
    """A run in this process: of an engine (it grows while it is watched), or a simulated one,
    which has ended and is shown as ``recorded``."""

    def __init__(self, run_id: str, log: TraceLog, kind: str = "live", label: str = "") -> None:
        self.id = run_id
        self.label = label
        self.log = log
        self.kind = kind

    def epoch(self) -> str:
        return self.log.header.run_id

    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = msgspec.to_builtins(self.log.header)
        return header

    def heads(self) -> dict[str, int]:
        return {stream: self.log.head_seq(stream) for stream in self.log.streams()}

    def first(self, stream: str) -> int:
        return self.log.first_seq(stream)

    def lines(self, stream: str, from_seq: int, to_seq: int) -> list[bytes]:
        return self.log.lines(stream, from_seq, to_seq)

    def tour(self) -> dict[str, Any] | None:
        return None

    def artifacts(self, stream: str) -> dict[int, ExecTensors]:
        return self.log.artifacts.of_stream(stream)

    def artifact(self, stream: str, step: int) -> Artifact:
        return self.log.artifacts.read(stream, step)


class Snapshots:
    """The state at a run's latest step boundary, folded here for a page that came late."""

    def __init__(self, run: Run, stream: str) -> None:
        self._run, self._stream = run, stream
        self._lock = threading.Lock()
        self._state = new_state()
        self._hues = Hues()

    def behind(self) -> int:
        """Events that are not folded yet."""
        return self._run.heads().get(self._stream, 0) - self._state.seq

    def advance(self) -> None:
        """Fold up to the end of the last whole step."""
        with self._lock:
            lines = self._run.lines(self._stream, self._state.seq + 1, 2**62)
            events = [decode_event(line) for line in lines]
            while events and events[-1].kind != "step.end":
                events.pop()
            for event in events:
                apply(self._state, event)
            self._hues.see(events)
            if self._run.kind == "live":
                forget_finished(self._state, FINISHED_KEPT)

    def latest(self) -> dict[str, Any]:
        """``{"seq", "step", "state", "hues"}``; seq 0 before the first step has ended."""
        self.advance()
        with self._lock:
            state, hues = self._state, dict(self._hues.of)
            return {"seq": state.seq, "step": state.step, "state": to_json(state), "hues": hues}


def run_name(path: Path) -> str:
    """``gallery/tiny-pressure.trace.jsonl.gz`` → ``tiny-pressure``."""
    return path.name.split(".")[0] or "run"


def num_lives(path: Path) -> int:
    """How often the first engine in a trace file was started; 1 for a file that cannot be read,
    which is told when it is opened. It is parsed only where a second start may be in it."""
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path) if packed else path.open("rb") as file:
            starts = sum(b'"run.start"' in line for line in file)
        lives = read_trace(path).lives() if starts > 1 else {}
    except (OSError, EOFError, zlib.error, TraceError):
        return 1
    return max(sum(name.split(",")[0] == next(iter(lives)) for name in lives), 1)


class Catalogue:
    """Every run that can be opened, by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._used: dict[str, int] = {}
        self._snapshots: dict[tuple[str, str], Snapshots] = {}

    def add_file(self, path: Path | str) -> str:
        """Offer a trace file; returns the id it got. Raises TraceError if there is no such file.

        Where its engine was started more than once, that is its last life's; each earlier one is
        offered behind it, as ``ID-life-1`` and so on.
        """
        path = Path(path)
        if not path.is_file():
            raise TraceError(f"{path}: no such trace file")
        earlier = range(1, num_lives(path))
        with self._lock:
            run_id = self._free_id(run_name(path))
            self._runs[run_id] = RecordedRun(run_id, path)
            for life in earlier:
                name = self._free_id(f"{run_id}-life-{life}")
                self._runs[name] = RecordedRun(name, path, life)
        return run_id

    def add_simulated(self, log: TraceLog, changed: Mapping[str, object]) -> str:
        """Offer a run that has ended, from memory; of many only the newest are kept. ``changed``
        are the knobs that make it another run than the scenario's own."""
        with self._lock:
            simulated = [r.id for r in self._runs.values() if isinstance(r, LiveRun)]
            for old in [name for name in simulated if name != "live"][: 1 - SIMULATED_KEPT]:
                del self._runs[old]
            run_id = self._free_id(log.header.name)
            words = [f"{name}={knob_value(value)}" for name, value in changed.items()]
            label = f"{run_id} · {join(words, most=4)}" if words else ""
            self._runs[run_id] = LiveRun(run_id, log, "recorded", label)
        return run_id

    def _free_id(self, name: str) -> str:
        """``tiny-pressure``, ``tiny-pressure-2``, … Ids are not used again: a page may hold one."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
        number = self._used[slug] = self._used.get(slug, 0) + 1
        run_id = slug if number == 1 and slug != "live" else f"{slug}-{number}"
        return self._free_id(name) if run_id in self._runs else run_id

    def put_live(self, run: LiveRun) -> None:
        """Offer a live run, in place of an earlier one of the same id (an engine restarted)."""
        with self._lock:
            self._runs[run.id] = run
            for key in [key for key in self._snapshots if key[0] == run.id]:
                del self._snapshots[key]

    def get(self, run_id: str) -> Run | None:
        with self._lock:
            return self._runs.get(run_id)

    def all(self) -> list[Run]:
        with self._lock:
            return list(self._runs.values())

    def snapshots(self, run: Run, stream: str) -> Snapshots:
        with self._lock:
            return self._snapshots.setdefault((run.id, stream), Snapshots(run, stream))
