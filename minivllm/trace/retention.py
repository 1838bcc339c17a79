"""Retention: the last N steps of a run that does not end, and the state that they begin with.

A line that leaves the ring is folded into its stream's *beginning*. So what is kept can always be
read from there: first a ``run.snapshot`` event, which stands in the place of all that was dropped
and has the number of the last of it, then the kept events. The file is written anew, in this
form, whenever it holds twice the steps that are kept; in between it grows by appending.

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

FINISHED_KEPT = 64
"""Finished requests that a beginning remembers, besides those whose tokens a block still holds."""

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class _Beginning:
    """What one stream's dropped events add up to."""

    state: State | Front
    last: Event | None = None
    epoch: int = 1
    sources: list[RunSource] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        event = self.last = decode_event(line)
        if event.kind == "run.source":
            self.sources.append(event.data)
        elif event.kind == "run.start":  # of an engine that was started anew: no word of the old
            self.epoch, self.sources = event.data.epoch, []
        if isinstance(self.state, State):
            apply(self.state, event)
        else:
            apply_to_front(self.state, event)

    def line(self) -> bytes:
        assert self.last is not None
        # The state is encoded as it stands: plain dicts of 10,000 blocks would be made in vain.
        data = RunSnapshot(epoch=self.epoch, state=self.state, sources=self.sources)  # type: ignore[arg-type]
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

    def __init__(self, size: int) -> None:
        self.size = size
        self.num_begun = 0
        """Steps that have ever begun, of all engines."""
        self._flushes = 0
        self._steps: dict[str, deque[_Step]] = {}
        self._beginnings: dict[str, _Beginning] = {}

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
        steps = self._steps.setdefault(stream, deque([_Step(epoch, 0)]))
        newest = steps[-1]
        if not _is_engine(stream):
            steps.append(_Step(epoch, 0))
        elif (epoch, step) > (newest.epoch, newest.number):
            steps.append(_Step(epoch, step))
            self.num_begun += step > 0
        steps[-1].parts.append((self._flushes, lines))
        dropped: dict[tuple[str, int], int] = {}
        if not _is_engine(stream):
            return dropped
        while len(steps) > self.size + 1:  # the newest may be under way
            self._drop(stream, dropped)
        if dropped:
            first_kept = next((part for each in steps for part, _ in each.parts), 0)
            for other, told in self._steps.items():
                while not _is_engine(other) and told and _last(told[0]) < first_kept:
                    self._drop(other, dropped)
        return dropped

    def _drop(self, stream: str, dropped: dict[tuple[str, int], int]) -> None:
        """The earliest step of a stream: fold it into the beginning."""
        step = self._steps[stream].popleft()
        beginning = self._beginnings.get(stream)
        if beginning is None:
            state = new_state() if _is_engine(stream) else Front()
            beginning = self._beginnings[stream] = _Beginning(state)
        for _, lines in step.parts:
            for line in lines:
                beginning.take(line)
            dropped[stream, step.epoch] = dropped.get((stream, step.epoch), 0) + len(lines)
        # Every block is looked at to see whose tokens it holds, so not after each step.
        state = beginning.state
        if isinstance(state, State) and state.step % 64 == 0:
            forget_finished(state, FINISHED_KEPT)

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
