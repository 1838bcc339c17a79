"""Retention: the last N steps of a run that does not end, and the state that they begin with.

A line that leaves the ring is folded into its stream's *beginning*. So what is kept can always be
read from there: first a ``run.snapshot`` event, which stands in the place of all that was dropped
and has the number of the last of it, then the kept events. The file is written anew, in this
form, whenever it holds twice the steps that are kept; in between it grows by appending.

The price is one decode and one ``apply`` for each event, on the engine's thread: about half of
what recording it costs. A run without ``--trace-retention`` pays nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from minivllm.trace.events import Event, RunSnapshot, RunSource
from minivllm.trace.file import decode_event
from minivllm.trace.fold import State, apply, forget_finished, new_state

FINISHED_KEPT = 64
"""Finished requests that a beginning remembers, besides those whose tokens a block still holds."""

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class _Beginning:
    """What one stream's dropped events add up to."""

    state: State | None
    last: Event | None = None
    epoch: int = 1
    sources: list[RunSource] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        event = self.last = decode_event(line)
        if event.kind == "run.source":
            self.sources.append(event.data)
        elif event.kind == "run.start":
            self.epoch = event.data.epoch
        if self.state is not None:
            apply(self.state, event)

    def line(self) -> bytes:
        assert self.last is not None
        # The state is encoded as it stands: plain dicts of 10,000 blocks would be made in vain.
        data = RunSnapshot(epoch=self.epoch, state=self.state, sources=self.sources)  # type: ignore[arg-type]
        snapshot = {"kind": data.KIND, "phase": "idle", "src": 0, "req": None, "data": data}
        return _encoder.encode(msgspec.structs.replace(self.last, **snapshot))


@dataclass(slots=True)
class _Step:
    number: int
    parts: list[tuple[str, list[bytes]]] = field(default_factory=list)
    """(stream, lines) of each flush, in their order."""


class StepRing:
    """The lines of the last ``size`` steps before the newest, and of that.

    They stay in the order in which all streams told them.
    Steps are those of the first engine's stream; what others tell belongs to the step it falls in.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.num_begun = 0
        """Steps that have ever begun."""
        self._steps: deque[_Step] = deque([_Step(0)])
        self.clock: str | None = None
        """The stream whose steps are counted."""
        self._beginnings: dict[str, _Beginning] = {}

    @property
    def first_step(self) -> int:
        """The earliest that is kept."""
        return self._steps[0].number

    def take(self, stream: str, lines: list[bytes], step: int) -> dict[str, int]:
        """Keep the lines of one flush; returns how many of each stream were dropped for them."""
        if self.clock is None and stream.startswith("engine"):
            self.clock = stream
        if stream == self.clock and step > self._steps[-1].number:
            self._steps.append(_Step(step))
            self.num_begun += 1
        self._steps[-1].parts.append((stream, lines))
        dropped: dict[str, int] = {}
        while len(self._steps) > self.size + 1:  # the newest may be under way
            for name, old in self._steps.popleft().parts:
                self._fold(name, old)
                dropped[name] = dropped.get(name, 0) + len(old)
        return dropped

    def _fold(self, stream: str, lines: list[bytes]) -> None:
        beginning = self._beginnings.get(stream)
        if beginning is None:
            state = new_state() if stream.startswith("engine") else None
            beginning = self._beginnings[stream] = _Beginning(state)
        for line in lines:
            beginning.take(line)
        # Every block is looked at to see whose tokens it holds, so not after each step.
        if beginning.state is not None and beginning.state.step % 64 == 0:
            forget_finished(beginning.state, FINISHED_KEPT)

    def snapshot(self, stream: str) -> bytes | None:
        """The line that stands for what was dropped of a stream; None if nothing was."""
        beginning = self._beginnings.get(stream)
        return beginning.line() if beginning is not None else None

    def lines(self) -> Iterator[bytes]:
        """All that is kept, as it stands in a file after the header."""
        for beginning in self._beginnings.values():
            yield beginning.line()
        for step in self._steps:
            for _, lines in step.parts:
                yield from lines
