"""Steering: what is told to all engines, or to a named one: knobs, the gate, armed steps, resets.

All or nothing: while one engine gives no sign of life, nothing is told to any (it is soon back, or
dead); what the first one refuses (ConfigError) no other is told; and should a later one refuse or
not answer, those before it are set back, while what it has not heard it will not do (``calls.py``).
An engine that cannot even be set back is ended: its next life is made as its fellows are. What was
set holds for engines that are started later, too. Counterpart in vLLM: ``call_utility`` of
``DPAsyncMPClient``, which asks all.

These calls wait for an engine's answer, a few seconds at most: a lock of their own guards them, so
that requests pass meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from minivllm.config import STEP_KNOBS
from minivllm.engine.capture import ArmedStep
from minivllm.engine.fleet_gate import FleetGate, Member, or_end
from minivllm.engine.supervisor import EngineLife
from minivllm.errors import ConfigError, EngineDeadError, EngineUnavailableError
from minivllm.trace.gate_control import GateControl

Lives = Callable[[int | None], list[EngineLife]]
"""The engines that live: all, or the one of that number. Raises EngineUnavailableError for none."""


class Steering:
    def __init__(
        self,
        lives: Lives,
        alive: Callable[[], list[EngineLife]],
        n: int,
        paused: bool = False,
        rate: float = 0.0,
    ) -> None:
        self._lives, self._n = lives, n
        self._lock = threading.RLock()
        self._knobs: dict[str, Any] = {}  # what was changed since the start
        self._alive = alive
        self.gate = FleetGate(self._members, self._lock, paused, rate)

    def _members(self) -> list[Member]:
        return [Member(life.gate, partial(_check_heard, life), life.kill) for life in self._alive()]

    @property
    def knobs(self) -> dict[str, Any]:
        return dict(self._knobs)

    @contextlib.contextmanager
    def joining(self, life: EngineLife) -> Iterator[None]:
        """A new life is made as its fellows are; nobody tells them anything before it is one."""
        with self._lock:
            if self._knobs:
                life.set_knobs(**self._knobs)
            self.gate.add(life.gate)
            yield
        self.gate.tell()  # it is one of them now

    def gate_of(self, engine: int) -> GateControl:
        """The gate of one engine, until that one ends."""
        return self._lives(engine)[0].gate

    def set_knobs(self, engine: int | None, knobs: dict[str, Any]) -> None:
        with self._lock:
            changed: list[tuple[EngineLife, dict[str, Any]]] = []
            for life in self._all_that_hear(engine):
                before = life.facts()
                try:
                    life.set_knobs(**knobs)
                except EngineDeadError:  # its next life gets them
                    continue
                except (ConfigError, EngineUnavailableError):
                    for other, old in changed:
                        set_back = {k: old[k] for k in knobs if k in STEP_KNOBS}
                        or_end(other.kill, partial(other.set_knobs, **set_back))
                    raise
                changed.append((life, before))
            if engine is None:
                self._knobs |= knobs

    def arm(self, engine: int | None, step: ArmedStep) -> None:
        if isinstance(step, int) and engine is None and self._n > 1:
            raise ConfigError("arm", step, "next, or a step of one engine: name the engine, too")
        with self._lock:
            for life in self._all_that_hear(engine):
                with contextlib.suppress(EngineDeadError):
                    life.arm(step)

    def reset_prefix_cache(self, engine: int | None) -> None:
        with self._lock:
            for life in self._all_that_hear(engine):
                with contextlib.suppress(EngineDeadError):
                    life.reset_prefix_cache()

    def _all_that_hear(self, engine: int | None) -> list[EngineLife]:
        """Raises EngineUnavailableError where one of them gives no sign of life."""
        lives = self._lives(engine)
        for life in lives:
            _check_heard(life)
        return lives


def _check_heard(life: EngineLife) -> None:
    (status,) = life.engines()
    if not status.responsive:
        raise EngineUnavailableError(
            f"engine {status.engine} has given no sign of life for {status.stalled_s:.0f} s, and "
            "engines are told the same or nothing; try again when it is back, or restarted"
        )
