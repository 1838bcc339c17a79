"""Retention: the last N steps of a run that does not end, and the state that they begin with.

A line that leaves the ring is folded into its stream's *beginning*. So what is kept can always be
read from there: first a ``run.snapshot`` event, which stands in the place of all that was dropped
and has the number of the last of it, then the kept events. The file is written anew, in this
form, whenever it holds twice the steps that are kept; in between it grows by appending.

The front end tells things while no engine steps, too, so its stream is held to a count besides.

The price is one decode and one ``apply`` for each event, on the engine's thread: about half of
what recording it costs. A run without ``--trace-retention`` pays nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from minivllm.trace.events import Event, RunSnapshot, RunSource
from minivllm.trace.file import decode_event
from minivllm.trace.fold import State, apply, forget_finished, new_state
from minivllm.trace.front import Front
from minivllm.trace.front import apply as apply_to_front
from minivllm.trace.hues import Hues

FINISHED_KEPT = 64
"""Finished requests that a beginning remembers, besides those whose tokens a block still holds."""

OTHERS_KEPT = 10_000
"""Events of a stream that is no engine's (2 MB), or as many as the engines' kept steps have: what
is told while no engine steps, as refused requests are, pushes out what is older."""

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Beginning:
    """What one stream's dropped events add up to."""

    state: State | Front
    last: Event | None = None
    epoch: int = 1
    sources: list[RunSource] = field(default_factory=list)
    hues: Hues = field(default_factory=Hues)

    def take(self, line: bytes) -> None:
        event = self.last = decode_event(line)
        if event.kind == "run.source":
            self.sources.append(event.data)
        elif event.kind == "run.start":  # of an engine that was started anew: no word of the old
            self.epoch, self.sources, self.hues = event.data.epoch, [], Hues()
        if isinstance(self.state, State):
            apply(self.state, event)
            self.hues.see([event])
        else:
            apply_to_front(self.state, event)

    def line(self) -> bytes:
        assert self.last is not None
        # The state is encoded as it stands: plain dicts of 10,000 blocks would be made in vain.
        if isinstance(self.state, State):
            self.hues.keep(self.state.requests)
        data = RunSnapshot(
            epoch=self.epoch,
            state=self.state,  # type: ignore[arg-type]
            sources=self.sources,
            hues=self.hues.of,
        )
        snapshot = {"kind": data.KIND, "phase": "idle", "src": 0, "req": None, "data": data}
        return _encoder.encode(msgspec.structs.replace(self.last, **snapshot))


@dataclass(slots=True)
class _Step:
    epoch: int
    number: int
    parts: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """(ordinal, lines) of each flush; ordinals count the flushes of all streams."""


class StepRing:
    """The lines of each engine's last ``size`` steps before its newest, and of that.

    An engine that was started anew goes on in the same ring. What other streams tell is kept as
    long as the steps of whichever engine drops some, so that no idle engine holds it for ever.
    """

    def __init__(self, size: int, events: int) -> None:
        """``events``: no stream keeps more, however few steps they are of."""
        self.size, self._events = size, events
        self._flushes = 0
        self._steps: dict[str, deque[_Step]] = {}
        self._counts: dict[str, int] = {}  # stream → lines that are kept
        self._beginnings: dict[str, Beginning] = {}
        self._num_begun = 0  # steps that have ever begun, of all engines
        self._rewrite_at = 2 * size  # steps
        self._num_cut = 0  # lines that were dropped for their number since the file was written

    @property
    def num_engines(self) -> int:
        return max(sum(_is_engine(stream) for stream in self._steps), 1)

    def first_steps(self) -> dict[str, tuple[int, int]]:
        """Engine's stream → (epoch, step) of the earliest that is kept."""
        return {
            stream: (steps[0].epoch, steps[0].number)
            for stream, steps in self._steps.items()
            if _is_engine(stream)
        }

    def take(
        self, stream: str, lines: list[bytes], step: int, epoch: int
    ) -> dict[tuple[str, int], int]:
        """Keep the lines of one flush; returns how many of each (stream, epoch) were dropped."""
        self._flushes += 1
        steps = self._steps.setdefault(stream, deque())
        is_engine = _is_engine(stream)
        number = step if is_engine else 0
        newest = (steps[-1].epoch, steps[-1].number) if steps and is_engine else (0, 0)
        if not steps or not is_engine or (epoch, number) > newest:
            steps.append(_Step(epoch, number))
            self._num_begun += number > 0
        steps[-1].parts.append((self._flushes, lines))
        self._counts[stream] = self._counts.get(stream, 0) + len(lines)
        dropped: dict[tuple[str, int], int] = {}
        if is_engine:
            self._drop_old_steps(stream, dropped)
        while self._counts[stream] > self._most(stream) and len(steps) > 1:
            self._num_cut += self._drop(stream, dropped)
        return dropped

    def _drop_old_steps(self, stream: str, dropped: dict[tuple[str, int], int]) -> None:
        """Of an engine, and what other streams told until then."""
        steps = self._steps[stream]
        while len(steps) > self.size + 1:  # the newest may be under way
            self._drop(stream, dropped)
        if dropped:
            first_kept = next((part for each in steps for part, _ in each.parts), 0)
            for other, told in self._steps.items():
                while not _is_engine(other) and told and _last(told[0]) < first_kept:
                    self._drop(other, dropped)

    def _most(self, stream: str) -> int:
        """Lines that a stream may keep."""
        if _is_engine(stream):
            return self._events
        of_engines = sum(n for other, n in self._counts.items() if _is_engine(other))
        return min(self._events, max(OTHERS_KEPT, of_engines))

    def _drop(self, stream: str, dropped: dict[tuple[str, int], int]) -> int:
        """The earliest step of a stream: fold it into the beginning. Returns its lines' number."""
        step = self._steps[stream].popleft()
        beginning = self._beginnings.get(stream)
        if beginning is None:
            state = new_state() if _is_engine(stream) else Front()
            beginning = self._beginnings[stream] = Beginning(state)
        for _, lines in step.parts:
            for line in lines:
                beginning.take(line)
        count = sum(len(lines) for _, lines in step.parts)
        dropped[stream, step.epoch] = dropped.get((stream, step.epoch), 0) + count
        self._counts[stream] -= count
        # Every block is looked at to see whose tokens it holds, so not after each step.
        state = beginning.state
        if isinstance(state, State) and state.step % 64 == 0:
            forget_finished(state, FINISHED_KEPT)
            beginning.hues.keep(state.requests)
        return count

    @property
    def is_file_due(self) -> bool:
        """Does the file hold about twice of what is kept?"""
        return self._num_begun >= self._rewrite_at or self._num_cut >= OTHERS_KEPT

    def file_written(self) -> None:
        """It holds what is kept, and no more."""
        self._rewrite_at = self._num_begun + self.size * self.num_engines
        self._num_cut = 0

    def snapshot(self, stream: str, epoch: int | None = None) -> bytes | None:
        """The line that stands for what was dropped of a stream's life (None: of the one it
        begins in); None if nothing was, or all of it."""
        beginning = self._beginnings.get(stream)
        if beginning is None or epoch not in (None, beginning.epoch):
            return None
        return beginning.line()

    def lines(self) -> Iterator[bytes]:
        """All that is kept, as it stands in a file after the header: in the order in which all
        streams told it."""
        for beginning in self._beginnings.values():
            if beginning.last is not None:
                yield beginning.line()
        streams = (
            [part for step in steps for part in step.parts] for steps in self._steps.values()
        )
        for _, lines in heapq.merge(*streams, key=lambda part: part[0]):
            yield from lines


def _is_engine(stream: str) -> bool:
    return stream.startswith("engine")


def _last(step: _Step) -> int:
    return max((ordinal for ordinal, _ in step.parts), default=0)
