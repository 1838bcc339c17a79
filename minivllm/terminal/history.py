"""History: every step of a run so far. Going back is reading; no engine is touched.

The state of a step is refolded from the nearest snapshot (one every 64 steps), so stepping back
costs no more than stepping forward, and gives the same state as going forward did. A step in which
an engine stands still is there, too, as far as it was told: the *open* one.
"""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event, Header, RunSnapshot, RunSource
from minivllm.trace.fold import State, apply, new_state, to_json
from minivllm.trace.hues import Hues
from minivllm.trace.index import SNAPSHOT_EVERY
from minivllm.trace.say import say
from minivllm.trace.story import NOTHING_RUNS, Story, story
from minivllm.trace.until import Place
from minivllm.trace.why import Record

UNTOLD = ("run.start", "run.source", "run.snapshot")
"""Kinds that tell of the trace itself: in no list of what happened."""
NOWHERE = ("", 0)
"""The place of an event whose source the trace does not tell."""
_NO_STEP_OF_THEIR_OWN = (
    "run.start",
    "run.source",
    "run.idle",
    "run.end",
    "gate.change",
    "trace.arm",
)


@dataclass(frozen=True)
class Told:
    """The run as it is known where somebody stands: of that step, what was told until there."""

    steps: Mapping[int, Sequence[Event]]
    sources: Mapping[int, RunSource]


@dataclass(frozen=True)
class View:
    """All that can be shown of one step, or of one up to an event in it."""

    header: Header
    step: int
    last: int
    """The newest step there is, be it whole or not."""
    ended: bool
    """There will be no newer one."""
    before: State
    state: State
    events: list[Event]
    """Of the step, up to where one stands."""
    hues: dict[str, int]
    record: Record
    """The run it belongs to."""
    whole: bool = True
    """The step has ended, and one stands at its end."""
    code: HeldCode | None = None
    """The line of the engine's own code that holds it here."""

    @property
    def event(self) -> Event | None:
        """The one that one stands behind, in the middle of a step."""
        return self.events[-1] if self.events and not self.whole else None

    @cached_property
    def story(self) -> Story:
        if self.events and self.events[0].kind == "run.snapshot" and len(self.events) == 1:
            return Story("The trace begins here; earlier steps were not kept.", "")
        if self.step == 0 and self.whole:
            config = self.state.config or {}
            pool = max(config.get("num_kv_blocks", 1) - 1, 0)
            return Story(
                f"Nothing has run yet. {pool} blocks of {config.get('block_size', 0)} tokens; "
                f"a step may run {config.get('max_num_batched_tokens', 0)} tokens.",
                "",
            )
        told = story(self.before, self._done)
        if (event := self.event) is None:
            return told
        if not self.of("step.begin") and not told.headline.startswith(NOTHING_RUNS):
            return told  # inputs that have come for a step that has not begun
        words = say(event)
        so_far = f"so far: {told.headline}" if told.headline != NOTHING_RUNS else ""
        if self.code is not None:
            so_far = "; ".join(filter(None, (f"held by {self.code.place}", so_far)))
        return Story(f"{words}.", so_far)

    @property
    def _done(self) -> list[Event]:
        """Without a victim that was chosen, and in the middle of the step still runs."""
        gone = {event.req for event in self.of("req.preempt")}
        return [e for e in self.events if e.kind != "sched.victim" or e.req in gone]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


class History:
    """Steps 0 (before the first) to ``last``, growing while an engine runs ahead.

    An event belongs to the step it carries; a step is there once its ``step.end`` is.
    """

    def __init__(self, header: Header, keep: int | None = None) -> None:
        """``keep``: of an engine that runs for days, so many steps; None: all."""
        self.header, self._keep = header, keep
        self.steps: dict[int, list[Event]] = {0: []}
        self.sources: dict[int, RunSource] = {}
        self.last = 0
        """The newest whole step."""
        self.seq = 0
        """Of the newest event."""
        self.ended = False
        """Nothing more will come."""
        self.lock = threading.RLock()
        """Held while events are taken in; whoever draws on another thread holds it, too."""
        self._coming: list[Event] = []  # of a step that has not ended
        self._head = new_state()  # after the last step
        self._snapshots: dict[int, bytes] = {}  # step → the state before it
        self._hues = Hues()

    def extend(self, events: Iterable[Event]) -> None:
        """Take the next events of the engine's stream."""
        with self.lock:
            for event in events:
                self._take(event)

    def _take(self, event: Event) -> None:
        self.seq = event.seq
        self._hues.see([event])
        if event.kind == "run.source":
            self.sources[event.data.src] = event.data
        if event.kind == "run.snapshot" and not self.last:
            self.sources = {source.src: source for source in event.data.sources}
            self.steps = {}
            self._add(event.step, [event])
            return
        if event.step <= self.last:  # a word after its step's end, or before the first step
            self._add(event.step, [event])
            return
        self._coming.append(event)
        if event.kind == "step.end":
            self._end_step(event.step)

    @property
    def first(self) -> int:
        """0, or the step whose state the trace begins with."""
        return next(iter(self.steps))

    @property
    def places(self) -> dict[int, Place]:
        """``src`` → file and line."""
        return {src: (source.file, source.line) for src, source in self.sources.items()}

    @property
    def open(self) -> int | None:
        """The step that has begun to be told and has not ended."""
        if any(event.kind not in _NO_STEP_OF_THEIR_OWN for event in self._coming):
            return max(event.step for event in self._coming)
        return None

    @property
    def has_begun(self) -> bool:
        """The open step: not only are inputs there for it, it runs."""
        return any(event.kind == "step.begin" for event in self._coming)

    @property
    def head(self) -> int:
        """The newest step of which anything is known."""
        return self.open or self.last

    def events(self, step: int) -> list[Event]:
        """Of a step, as far as it was told."""
        return self.steps[step] if step <= self.last else self._coming

    def state(self) -> State:
        """After all that was told; a copy of its own."""
        state = _copy(self._head)
        for event in self._coming:
            apply(state, event)
        return state

    def close(self) -> None:
        """No more comes: what was applied after the last step is shown as one, if it is anything.

        A request that was aborted while nothing ran, say.
        """
        with self.lock:
            self.ended = True
            if (step := self.open) is not None:
                self._end_step(step)

    def _end_step(self, step: int) -> None:
        if step % SNAPSHOT_EVERY == 0:
            self._snapshots[step] = msgspec.msgpack.encode(self._head)
        coming, self._coming = self._coming, []
        self._add(step, coming)
        self._forget()

    def _forget(self) -> None:
        """Steps beyond those that are kept; the state before the first that is left stands for
        them, as in a trace that was cut to its last steps."""
        if self._keep is None or len(self.steps) <= self._keep + SNAPSHOT_EVERY:
            return
        begin = max((at for at in self._snapshots if at <= self.last - self._keep), default=None)
        if begin is None or begin == self.first + 1:
            return
        state = msgspec.msgpack.decode(self._snapshots[begin], type=State)
        data = RunSnapshot(epoch=1, state=to_json(state), sources=list(self.sources.values()))
        first = self.steps[begin][0]
        snapshot = msgspec.structs.replace(
            first, seq=first.seq - 1, step=begin - 1, kind=RunSnapshot.KIND, req=None, data=data
        )
        self.steps = {
            begin - 1: [snapshot],
            **{at: events for at, events in self.steps.items() if at >= begin},
        }
        self._snapshots = {at: kept for at, kept in self._snapshots.items() if at >= begin}

    def _add(self, step: int, events: list[Event]) -> None:
        self.steps.setdefault(step, []).extend(events)
        self.last = max(self.last, step)
        for event in events:
            apply(self._head, event)

    def state_before(self, step: int) -> State:
        """The state when ``step`` is about to take its inputs; a copy of its own."""
        nearest = max((at for at in self._snapshots if at <= step), default=0)
        state = new_state()
        if nearest:
            state = msgspec.msgpack.decode(self._snapshots[nearest], type=State)
        for at in range(max(nearest, self.first), step):
            for event in self.steps.get(at, ()):
                apply(state, event)
        return state

    def state_after(self, step: int) -> State:
        return self.state_before(step + 1)

    def view(self, step: int, at: int | None = None) -> View:
        """Everything about one step, or about its first ``at`` events. ``step`` must be one of
        ``first`` to ``head``."""
        before = self.state_before(step)
        told = self.events(step)
        events = told[:at]
        whole = len(events) == len(told) and step <= self.last
        state = _copy(before)
        for event in events:
            apply(state, event)
        seen = ChainMap({step: events}, self.steps)
        record = self if whole else Told(seen, self.sources)
        return View(
            self.header,
            step,
            self.head,
            self.ended,
            before,
            state,
            events,
            dict(self._hues.of),
            record,
            whole,
        )


def _copy(state: State) -> State:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
