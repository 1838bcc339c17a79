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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.artifacts import Artifact, artifact_events, no_such_step, open_artifact
from minivllm.trace.events import Event, ExecTensors
from minivllm.trace.file import Trace, decode_event, parse_trace, read_trace
from minivllm.trace.fold import apply, forget_finished, new_state, to_json
from minivllm.trace.front import Front
from minivllm.trace.front import apply as apply_to_front
from minivllm.trace.gallery import entry_of, name_of
from minivllm.trace.hues import Hues
from minivllm.trace.log import Life, TraceLog
from minivllm.trace.words import join, knob_value

MAX_EVENTS_PER_ANSWER = 5000
"""Events in one answer of the history; about 1 MB of JSON, 20 ms to parse in a browser."""

SIMULATED_KEPT = 16
"""Simulated runs that stay in memory."""

KEEP_UP = 2000
"""Events that a live run's snapshot may be behind: the log forgets its oldest, and the fold must
have seen them by then."""

FINISHED_KEPT = 256
"""Finished requests that the snapshot of a live run still has."""


class Run(Protocol):
    """One run, whatever it comes from."""

    id: str
    kind: str
    """``recorded`` | ``live``."""
    label: str
    """How the page calls it where the id does not say enough; else empty."""
    lesson: str
    """The lesson whose run it is; else empty."""

    @property
    def file(self) -> str:
        """The name of the file that it was read from; of a run in memory, what it is instead."""
        ...

    @property
    def gallery(self) -> dict[str, str] | None:
        """What the gallery's index tells a reader of it; None of a run that is not one of those."""
        ...

    def epoch(self) -> str:
        """Tells two runs behind one id apart: a sequence number means nothing across it."""
        ...

    def header(self) -> dict[str, Any]: ...

    def lives(self) -> list[Life]:
        """Every stream, and of one whose engine was started anew each life that is there."""
        ...

    def lines(
        self, stream: str, from_seq: int, to_seq: int, life: int | None = None
    ) -> list[bytes]:
        """Encoded events of a life (None: the newest), both ends included; fewer where they do
        not exist."""
        ...

    def tour(self) -> dict[str, Any] | None: ...

    def artifacts(self, stream: str, life: int | None = None) -> dict[int, ExecTensors]:
        """Step → what was told of its arrays, of each step that was captured."""
        ...

    def artifact(self, stream: str, step: int, life: int | None = None) -> Artifact:
        """Raises MissingArtifactError, ArtifactError."""
        ...


class RecordedRun:
    """A run from a trace file, read when it is first asked for."""

    kind = "recorded"
    label = ""

    def __init__(self, run_id: str, path: Path, lesson: str = "") -> None:
        self.id = run_id
        self.lesson = lesson
        self.path = path
        self._lock = threading.Lock()
        self._trace: Trace | None = None
        self._events: dict[str, dict[int, list[Event]]] = {}
        self._lines: dict[tuple[str, int], list[bytes]] = {}

    def _load(self) -> Trace:
        """Raises TraceError when the file is broken, at each call anew."""
        with self._lock:
            if self._trace is None:
                trace = read_trace(self.path)
                for stream in dict.fromkeys(event.stream for event in trace.events):
                    lives = self._events[stream] = trace.epochs(stream)
                    for life, events in lives.items():
                        self._lines[stream, life] = [msgspec.json.encode(e) for e in events]
                self._trace = trace
            return self._trace

    def _life(self, stream: str, life: int | None) -> list[Event]:
        self._load()
        lives = self._events.get(stream, {})
        return lives.get(max(lives, default=1) if life is None else life, [])

    @property
    def file(self) -> str:
        return self.path.name

    @property
    def gallery(self) -> dict[str, str] | None:
        return entry.about if (entry := entry_of(self.path)) is not None else None

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

    def lives(self) -> list[Life]:
        self._load()
        return [
            Life(stream, life, events[0].seq, events[-1].seq)
            for stream, lives in self._events.items()
            for life, events in lives.items()
        ]

    def lines(
        self, stream: str, from_seq: int, to_seq: int, life: int | None = None
    ) -> list[bytes]:
        self._load()
        life = max(self._events.get(stream, {1: None})) if life is None else life
        lines = self._lines.get((stream, life), [])
        if not lines:
            return []
        first = self._events[stream][life][0].seq  # of one cut to its last steps, not 1
        return lines[max(from_seq - first, 0) : max(to_seq + 1 - first, 0)]

    def tour(self) -> dict[str, Any] | None:
        """The guided stops of this recording: ``NAME.tour.json`` beside ``NAME.trace.jsonl``."""
        path = self.path.parent / (run_name(self.path) + ".tour.json")
        if not path.is_file():
            return None
        tour: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return tour

    def artifacts(self, stream: str, life: int | None = None) -> dict[int, ExecTensors]:
        captured = artifact_events(self._life(stream, life))
        return {step: event.data for step, event in captured.items()}

    def artifact(self, stream: str, step: int, life: int | None = None) -> Artifact:
        captured = artifact_events(self._life(stream, life))
        if step not in captured:
            raise no_such_step(step, captured, self.id)
        return open_artifact(self.path, captured[step])


class LiveRun:
    """A run in this process: of an engine (it grows while it is watched), or a simulated one,
    which has ended and is shown as ``recorded``."""

    def __init__(self, run_id: str, log: TraceLog, kind: str = "live", label: str = "") -> None:
        self.id = run_id
        self.label = label
        self.lesson = ""
        self.log = log
        self.kind = kind

    gallery = None

    @property
    def file(self) -> str:
        return "a live engine" if self.kind == "live" else self.label or self.id

    def epoch(self) -> str:
        return self.log.header.run_id

    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = msgspec.to_builtins(self.log.header)
        return header

    def lives(self) -> list[Life]:
        return self.log.lives()

    def lines(
        self, stream: str, from_seq: int, to_seq: int, life: int | None = None
    ) -> list[bytes]:
        return self.log.lines(stream, from_seq, to_seq, life)

    def tour(self) -> dict[str, Any] | None:
        return None

    def artifacts(self, stream: str, life: int | None = None) -> dict[int, ExecTensors]:
        return self.log.artifacts.of_stream(stream, life)

    def artifact(self, stream: str, step: int, life: int | None = None) -> Artifact:
        return self.log.artifacts.read(stream, step, life)


class Snapshots:
    """The state of one life of a stream at its latest step boundary, folded here for a page that
    came late. Of ``api`` it is the front end's (``trace/front.py``), at its latest event."""

    def __init__(self, run: Run, stream: str, life: int) -> None:
        self._run, self._stream, self._life = run, stream, life
        self._lock = threading.Lock()
        self._state = new_state()
        self._front = Front()
        self._hues = Hues()

    def behind(self, head: int) -> int:
        """Events up to ``head`` that are not folded yet."""
        return head - max(self._state.seq, self._front.seq)

    def advance(self) -> None:
        """Fold up to the end of the last whole step."""
        with self._lock:
            done = max(self._state.seq, self._front.seq)
            lines = self._run.lines(self._stream, done + 1, 2**62, self._life)
            events = [decode_event(line) for line in lines]
            if self._stream == "api":
                for event in events:
                    apply_to_front(self._front, event)
                return
            while events and events[-1].kind != "step.end":
                events.pop()
            for event in events:
                apply(self._state, event)
            self._hues.see(events)
            if self._run.kind == "live":
                forget_finished(self._state, FINISHED_KEPT)

    def latest(self) -> dict[str, Any]:
        """``{"seq", "step", "life", "state", "hues"}``; seq 0 before the first step has ended."""
        self.advance()
        with self._lock:
            about = {"life": self._life, "hues": dict(self._hues.of)}
            if self._stream == "api":
                front = self._front
                return {**about, "seq": front.seq, "step": 0, "state": msgspec.to_builtins(front)}
            state = self._state
            return {**about, "seq": state.seq, "step": state.step, "state": to_json(state)}


def find_request(run: Run, request_id: str) -> dict[str, Any] | None:
    """Where a request ran: ``{"stream", "life", "req", "step"}``, by the id its client has.

    Of one that was sent to another engine when its first had died, and of an id that was used
    again, the last place; of one with several samples, the first of them.
    """
    needle = msgspec.json.encode(request_id)[1:-1]
    found: tuple[int, dict[str, Any]] | None = None

    def take(t_ns: int, named: str, parent: str | None, place: dict[str, Any]) -> None:
        nonlocal found
        asked = named == request_id or (parent == request_id and named.startswith("0_"))
        if asked and (found is None or t_ns >= found[0]):
            found = t_ns, place

    for stream, life, first, head in run.lives():
        if not stream.startswith("engine"):
            continue
        for line in run.lines(stream, first, head, life):
            if needle not in line or not (b'"req.arrive"' in line or b'"run.snapshot"' in line):
                continue
            event = decode_event(line)
            place = {"stream": stream, "life": life, "step": event.step}
            if event.kind == "req.arrive":
                data = event.data
                take(event.t_ns, data.request_id, data.parent, {**place, "req": event.req})
            elif event.kind == "run.snapshot":  # those that arrived in a step that was not kept
                for req, known in (event.data.state or {}).get("requests", {}).items():
                    take(0, known["request_id"], known.get("parent"), {**place, "req": req})
    return found[1] if found is not None else None


def run_name(path: Path) -> str:
    """``gallery/tiny-pressure.trace.jsonl.gz`` → ``tiny-pressure``."""
    return name_of(path).split(".")[0] or "run"


class Catalogue:
    """Every run that can be opened, by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._used: dict[str, int] = {}
        self._snapshots: dict[tuple[str, str, int], Snapshots] = {}
        self._own: dict[str, Run] = {}
        """Runs of forms (``own.py``): opened by their address, in nobody's list."""

    def add_file(self, path: Path | str, lesson: str = "") -> str:
        """Offer a trace file; returns the id it got. Raises TraceError if there is no such file."""
        path = Path(path)
        if not path.is_file():
            raise TraceError(f"{path}: no such trace file")
        with self._lock:
            run_id = self._free_id(f"lesson-{lesson}" if lesson else run_name(path))
            self._runs[run_id] = RecordedRun(run_id, path, lesson)
        return run_id

    def add_simulated(self, log: TraceLog, changed: Mapping[str, object], since: int = 1) -> str:
        """Offer a run that has ended, from memory; of many only the newest are kept. ``changed``
        are the knobs that make it another run than the original, from step ``since`` on."""
        with self._lock:
            simulated = [r.id for r in self._runs.values() if isinstance(r, LiveRun)]
            for old in [name for name in simulated if name != "live"][: 1 - SIMULATED_KEPT]:
                del self._runs[old]
            run_id = self._free_id(log.header.name)
            words = [f"{name}={knob_value(value)}" for name, value in changed.items()]
            when = f" from step {since} on" if since > 1 else ""
            label = f"{run_id} · {join(words, most=4)}{when}" if words else ""
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

    def put_own(self, run: LiveRun) -> None:
        with self._lock:
            self._own[run.id] = run

    def drop_own(self, run_id: str) -> None:
        with self._lock:
            self._own.pop(run_id, None)

    def get(self, run_id: str) -> Run | None:
        with self._lock:
            return self._runs.get(run_id) or self._own.get(run_id)

    def all(self) -> list[Run]:
        """In the order in which they came, those of lessons last."""
        with self._lock:
            return sorted(self._runs.values(), key=lambda run: bool(run.lesson))

    def snapshots(self, run: Run, stream: str, life: int) -> Snapshots:
        with self._lock:
            return self._snapshots.setdefault((run.id, stream, life), Snapshots(run, stream, life))

    def keep_snapshots(self, run: Run) -> None:
        """Fold what a live run's log is about to forget, and let go of lives that it has."""
        lives = {(life.stream, life.epoch): life for life in run.lives()}
        with self._lock:
            for key in [key for key in self._snapshots if key[0] == run.id]:
                if key[1:] not in lives:
                    del self._snapshots[key]
        for (stream, life), about in lives.items():
            snapshots = self.snapshots(run, stream, life)
            if snapshots.behind(about.head) > KEEP_UP:
                snapshots.advance()
