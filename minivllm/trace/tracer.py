"""Tracer: the one method by which the engine tells what it does; here, the one that is off.

``core`` sees only this class. :class:`minivllm.trace.recorder.Recorder` is the one that writes.
Off, an event costs a call with arguments that were at hand anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec

from minivllm.core.scheduler_output import StepTensors
from minivllm.trace.events import Data, Event

P = ParamSpec("P")


class Tracer:
    """Tells nobody. ``step`` and ``phase`` are set by the engine core and stand on each event."""

    on = False
    step = 0
    phase = "idle"
    seq = 0
    """Events told so far."""
    on_event: Callable[[Event, tuple[str, int]], None] | None = None
    """Called after each event, with the file and line that told it; only while tracing is on."""

    def emit(
        self, kind: Callable[P, Data], req: str | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Tell one event: its kind (a struct of ``events.py``), whom it is about, its fields."""

    def text(self, token_id: int, before: Sequence[int] = ()) -> str:
        """What a token adds to the text of the tokens ``before`` it; only asked for while tracing
        is on."""
        return ""

    @property
    def keeps_tensors(self) -> bool:
        """Is there still a place for the arrays of a step?"""
        return False

    def keep_tensors(self, tensors: StepTensors) -> None:
        """Put the arrays of this step beside the trace, and tell where."""

    def breaches(self) -> list[str]:
        """The invariants that this step broke, a sentence each; none where nobody looks."""
        return []

    def flush(self) -> None:
        """The step has ended: hand on what was told."""

    def close(self) -> None:
        """The run has ended."""


OFF = Tracer()
