"""RemoteGate: steers the gate of an engine that runs in a process of its own.

A verb goes out as a message and comes back answered, so what is wrong with it is raised where it
was called; where the engine stands arrives on its own. No counterpart in vLLM.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from minivllm.trace.file import decode_event
from minivllm.trace.gate_control import GateState, Held
from minivllm.trace.until import Until

Ask = Callable[[str, "int | float | str | None"], GateState | None]


class RemoteGate:
    """A :class:`~minivllm.trace.gate_control.GateControl` on this side of the boundary."""

    def __init__(self, ask: Ask, paused: bool = False, rate: float = 0.0) -> None:
        """``ask`` sends (verb, value) and waits for how the gate stands then. Raises what the gate
        raises, and EngineDeadError. ``paused``, ``rate``: how it stands at the start."""
        self._ask = ask
        mode = "pause" if paused else "run"
        self._state = GateState(mode=mode, rate=float(rate), revision=-1)
        self._listeners: list[Callable[[str, float], None]] = []
        self._changed = threading.Condition()

    @property
    def mode(self) -> str:
        return self._state.mode

    @property
    def rate(self) -> float:
        return self._state.rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        self._verb("rate", steps_per_second)

    @property
    def held(self) -> Held | None:
        return _held(self._state)

    def wait_held(self, timeout: float | None = None) -> Held | None:
        with self._changed:
            self._changed.wait_for(lambda: self._state.held_at is not None, timeout)
            return _held(self._state)

    def pause(self) -> None:
        self._verb("pause")

    def resume(self) -> None:
        self._verb("resume")

    def step(self, n: int = 1) -> None:
        self._verb("step", n)

    def next_phase(self, n: int = 1) -> None:
        self._verb("next_phase", n)

    def next_event(self, n: int = 1) -> None:
        self._verb("next_event", n)

    def until(self, where: str | Until) -> None:
        self._verb("until", where if isinstance(where, str) else where.words)

    def on_change(self, listener: Callable[[str, float], None]) -> None:
        """Tell ``listener(mode, rate)`` of every change; it may not steer from there."""
        self._listeners.append(listener)

    def take(self, state: GateState) -> None:
        """How the gate stands, as the engine says. The newest counts, in whichever order they
        come."""
        with self._changed:
            before = self._state
            if state.revision <= before.revision:
                return
            self._state = state
            self._changed.notify_all()
        if (state.mode, state.rate) != (before.mode, before.rate):
            for listener in self._listeners:
                listener(state.mode, state.rate)

    def _verb(self, verb: str, value: int | float | str | None = None) -> None:
        state = self._ask(verb, value)
        if state is not None:
            self.take(state)


def _held(state: GateState) -> Held | None:
    if state.held_at is None:
        return None
    event = decode_event(state.held_event) if state.held_event is not None else None
    return Held(state.held_at, state.held_phase, event, state.held_seq, state.held_code)
