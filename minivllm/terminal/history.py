"""History: every step of a run so far. Going back is reading; no engine is touched.

The state of a step is refolded from the nearest snapshot (one every 64 steps), so stepping back
costs no more than stepping forward, and gives the same state as going forward did.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

from minivllm.trace.events import Event, Header, RunSource
from minivllm.trace.fold import State, apply, new_state
from minivllm.trace.hues import Hues
from minivllm.trace.index import SNAPSHOT_EVERY
from minivllm.trace.story import Story, story
from minivllm.trace.why import Record

UNTOLD = ("run.start", "run.source", "run.snapshot")
"""Kinds that tell of the trace itself: in no list of what happened."""
_NO_STEP_OF_THEIR_OWN = (
    "run.start",
    "run.source",
    "run.idle",
    "run.end",
    "gate.change",
    "trace.arm",
)


@dataclass(frozen=True)
class View:
    """All that can be shown of one step."""

    header: Header
    step: int
    last: int
    """The newest step there is."""
    ended: bool
    """There will be no newer one."""
    before: State
    state: State
    events: list[Event]
    hues: dict[str, int]
    record: Record
    """The run it belongs to."""

    @cached_property
    def story(self) -> Story:
        if self.events and self.events[0].kind == "run.snapshot":
            return Story("The trace begins here; earlier steps were not kept.", "")
        if self.step == 0:
            config = self.state.config or {}
            pool = max(config.get("num_kv_blocks", 1) - 1, 0)
            return Story(
                f"Nothing has run yet. {pool} blocks of {config.get('block_size', 0)} tokens; "
                f"a step may run {config.get('max_num_batched_tokens', 0)} tokens.",
                "",
            )
        return story(self.before, self.events)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


class History:
    """Steps 0 (before the first) to ``last``, growing while an engine runs ahead.

    An event belongs to the step it carries; a step is there once its ``step.end`` is.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.steps: dict[int, list[Event]] = {0: []}
        self.sources: dict[int, RunSource] = {}
        self.last = 0
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
        return min(self.steps)

    def close(self) -> None:
        """No more comes: what was applied after the last step is shown as one, if it is anything.

        A request that was aborted while nothing ran, say.
        """
        with self.lock:
            self.ended = True
            if any(event.kind not in _NO_STEP_OF_THEIR_OWN for event in self._coming):
                self._end_step(max(event.step for event in self._coming))

    def _end_step(self, step: int) -> None:
        if step % SNAPSHOT_EVERY == 0:
            self._snapshots[step] = msgspec.msgpack.encode(self._head)
        coming, self._coming = self._coming, []
        self._add(step, coming)

    def _add(self, step: int, events: list[Event]) -> None:
        self.steps.setdefault(step, []).extend(events)
        self.last = max(self.last, step)
        self._hues.see(events)
        for event in events:
            apply(self._head, event)

    def state_before(self, step: int) -> State:
        """The state when ``step`` is about to take its inputs; a copy of its own."""
        nearest = max((at for at in self._snapshots if at <= step), default=0)
        state = new_state()
        if nearest:
            state = msgspec.msgpack.decode(self._snapshots[nearest], type=State)
        for at in sorted(self.steps):
            if nearest <= at < step:
                for event in self.steps[at]:
                    apply(state, event)
        return state

    def state_after(self, step: int) -> State:
        return self.state_before(step + 1)

    def view(self, step: int) -> View:
        """Everything about one step. ``step`` must be one of ``steps``."""
        before = self.state_before(step)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=State)
        events = self.steps[step]
        for event in events:
            apply(state, event)
        return View(
            self.header,
            step,
            self.last,
            self.ended,
            before,
            state,
            events,
            dict(self._hues.of),
            self,
        )
