"""Timers that are put around methods for a while, and what they make of the time of a step.

A stack: what passes belongs to the timer that was entered last and not left, so times are exclusive
and add up to the whole. What no timer claims within a step is ``rest``; what passes from its end to
the next one's begin, ``between``. Nothing here stays: an engine that serves carries no timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

REST, BETWEEN = "rest", "between"


@dataclass(slots=True)
class StepTimes:
    """One step, until the next begins."""

    ns: dict[str, int] = field(default_factory=dict)
    """Stage → nanoseconds that were its own."""
    num_tokens: int = 0
    num_decode_tokens: int = 0

    @property
    def decodes(self) -> bool:
        """Did it run nobody's prompt?"""
        return self.num_tokens == self.num_decode_tokens


class Timers:
    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.steps: list[StepTimes] = []
        self.num_calls = 0
        """Of timed functions."""
        self._clock, self._last = clock, clock()
        self._stack = [BETWEEN]
        self._ns: dict[str, int] = {}  # of the step that began last

    @property
    def stage(self) -> str:
        """Whose time it is now."""
        return self._stack[-1]

    def enter(self, stage: str) -> None:
        self._charge()
        self._stack.append(stage)

    def leave(self) -> None:
        self._charge()
        self._stack.pop()

    def become(self, stage: str) -> None:
        """The stage that runs goes on under another name."""
        self._charge()
        self._stack[-1] = stage

    def begin_step(self) -> None:
        self.enter(REST)
        self.steps.append(StepTimes())
        self._ns = self.steps[-1].ns

    def finish(self) -> None:
        """What has passed since the last step's end is counted."""
        self._charge()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += 1
            self.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return run

    def _charge(self) -> None:
        now, stage = self._clock(), self._stack[-1]
        self._ns[stage] = self._ns.get(stage, 0) + now - self._last
        self._last = now


def ns_per_call(calls: int = 5_000) -> float:
    """What a timed call takes longer than a plain one, measured here and now."""

    def nothing() -> None:
        pass

    took = []
    for function in (nothing, Timers().timed(REST, nothing)):
        begin = time.perf_counter_ns()
        for _ in range(calls):
            function()
        took.append(time.perf_counter_ns() - begin)
    return max(0.0, (took[1] - took[0]) / calls)


def replace(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Give the object another attribute, until ``undo`` closes: then it is as it was."""
    own = vars(owner)
    if name in own:
        undo.callback(setattr, owner, name, own[name])
    else:  # the class's shows again
        undo.callback(delattr, owner, name)
    setattr(owner, name, value)
