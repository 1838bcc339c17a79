"""GateControl: what whoever steers an engine may ask of its gate, wherever that is.

    Gate         in this process (``gate.py``)
    RemoteGate   in the engine's process (``engine/remote_gate.py``)

Page, terminal and demo know only this. No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event
from minivllm.trace.until import Until


@dataclass(frozen=True, slots=True)
class Held:
    """Where the engine stands still."""

    at: str
    """``step``: before one begins; ``phase``: before ``phase``; ``event``: just after ``event``;
    ``code``: where the engine's own code has asked for it (``minivllm.debug.set_trace``)."""
    phase: str = ""
    event: Event | None = None
    seq: int = field(default=0, compare=False)
    """How many events the engine had told by then: who has seen so many has seen all."""
    code: HeldCode | None = field(default=None, compare=False)
    """The line that has asked for it, and its locals."""


class GateState(msgspec.Struct, frozen=True, kw_only=True):
    """How a gate stands, in a form that can travel."""

    mode: str
    rate: float
    revision: int
    """Raised by each change: of two states, the one with more is the newer."""
    held_at: str | None = None
    held_phase: str = ""
    held_event: bytes | None = None
    """As a line of a trace."""
    held_seq: int = 0
    held_code: HeldCode | None = None


class GateControl(Protocol):
    """All calls may come from any thread. Those that change something raise ConfigError for what
    the gate does not take, and EngineDeadError where it is gone with its engine's process."""

    @property
    def mode(self) -> str:
        """``run`` | ``pause``."""
        ...

    @property
    def rate(self) -> float:
        """Steps per second at most; 0 = full speed."""
        ...

    @rate.setter
    def rate(self, steps_per_second: float) -> None: ...

    @property
    def held(self) -> Held | None:
        """Where the engine stands still; None while it runs, or sleeps since nobody asks it."""
        ...

    def wait_held(self, timeout: float | None = None) -> Held | None:
        """Wait until the engine stands still; None if it does not within ``timeout`` seconds."""
        ...

    def pause(self) -> None:
        """Begin no further step, not even one that ``step`` allowed. One under way is finished."""
        ...

    def resume(self) -> None: ...

    def step(self, n: int = 1) -> None:
        """Pause, and let ``n`` more steps pass; one in which the engine is held is the first."""
        ...

    def next_phase(self, n: int = 1) -> None:
        """Pause, and go on to the next phase: ``execute``, ``update``, or the end of the step."""
        ...

    def next_event(self, n: int = 1) -> None:
        """Pause, and go on until one more event is told. Only with a trace."""
        ...

    def until(self, where: str | Until) -> None:
        """Run, and pause at the event that ``where`` names (see ``until.py``)."""
        ...

    def on_change(self, listener: Callable[[str, float], None]) -> None:
        """Tell ``listener(mode, rate)`` of every change."""
        ...
