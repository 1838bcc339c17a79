"""FleetGate: one gate for several engines. A verb holds for all of them, also for the next life of
one that dies. ``Steering.gate_of(1)`` is the gate of engine 1 alone.

``until`` lets all run and each pauses for itself where its own event comes. Where one engine does
not take a verb, those before it are set back to pause or run as they stood; a step that one of them
has run meanwhile stays run. No counterpart in vLLM.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from minivllm.errors import EngineDeadError, MiniVLLMError
from minivllm.trace.gate import check_rate
from minivllm.trace.gate_control import GateControl, Held
from minivllm.trace.until import Until

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """An engine that lives."""

    gate: GateControl
    check_heard: Callable[[], None]
    """Raises EngineUnavailableError while it gives no sign of life."""
    end: Callable[[], None]
    """For one that does not stand as the others do, and cannot be made to."""


Members = Callable[[], Sequence[Member]]
"""In order of their numbers."""


def or_end(end: Callable[[], None], do: Callable[[], None]) -> None:
    """``do``; an engine that does not take it is ended."""
    try:
        do()
    except MiniVLLMError:
        logger.exception("an engine cannot be set back as it was: it is ended, and started anew")
        end()


class FleetGate:
    """A :class:`~minivllm.trace.gate_control.GateControl` over all engines."""

    def __init__(
        self, members: Members, lock: threading.RLock, paused: bool = False, rate: float = 0.0
    ) -> None:
        """``lock``: keeps engines from starting between two engines' hearing of a verb.
        ``paused``, ``rate``: how each engine begins."""
        self._members, self._lock = members, lock
        self._paused, self._rate = paused, check_rate(rate)
        self._listeners: list[Callable[[str, float], None]] = []
        self._told: list[tuple[GateControl, str, float]] = []

    def add(self, gate: GateControl) -> None:
        """An engine has started: make its gate stand as the others do. Under the lock."""
        _stand(gate, self._paused, self._rate)
        gate.on_change(lambda mode, rate: self.tell())

    def _gates(self) -> list[GateControl]:
        return [member.gate for member in self._members()]

    @property
    def mode(self) -> str:
        """``pause`` as soon as one engine is: it has something to show."""
        gates = self._gates()
        paused = any(gate.mode == "pause" for gate in gates) if gates else self._paused
        return "pause" if paused else "run"

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        rate = check_rate(steps_per_second)

        def set_rate(gate: GateControl) -> None:
            gate.rate = rate

        with self._lock:
            # Before the engines': each tells of its change, and with it of this number.
            before, self._rate = self._rate, rate
            try:
                self._all(set_rate)
            except BaseException:
                self._rate = before
                raise
        self.tell()

    @property
    def held(self) -> Held | None:
        """Of the first engine that stands still."""
        return next((gate.held for gate in self._gates() if gate.held is not None), None)

    def wait_held(self, timeout: float | None = None) -> Held | None:
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        while (held := self.held) is None and (left := deadline - time.monotonic()) > 0:
            gates = self._gates()
            if len(gates) == 1:
                gates[0].wait_held(min(left, 0.5))
            else:
                time.sleep(min(left, 0.02))
        return held

    def pause(self) -> None:
        self._all(lambda gate: gate.pause(), paused=True)

    def resume(self) -> None:
        self._all(lambda gate: gate.resume(), paused=False)

    def step(self, n: int = 1) -> None:
        self._all(lambda gate: gate.step(n), paused=True)

    def next_phase(self, n: int = 1) -> None:
        self._all(lambda gate: gate.next_phase(n), paused=True)

    def next_event(self, n: int = 1) -> None:
        self._all(lambda gate: gate.next_event(n), paused=True)

    def until(self, where: str | Until) -> None:
        self._all(lambda gate: gate.until(where), paused=False)

    def on_change(self, listener: Callable[[str, float], None]) -> None:
        """Also of a change of one engine's gate alone, though ``mode`` and ``rate`` stay."""
        self._listeners.append(listener)

    def _all(self, do: Callable[[GateControl], None], paused: bool | None = None) -> None:
        """What the first engine refuses (ConfigError) reaches none: they judge alike."""
        with self._lock:
            members = self._members()
            for member in members:
                member.check_heard()
            done: list[tuple[Member, str, float]] = []
            for member in members:
                before = member.gate.mode, member.gate.rate
                try:
                    do(member.gate)
                except EngineDeadError:  # its next life begins as `add` says
                    continue
                except MiniVLLMError:
                    for other, mode, rate in done:
                        or_end(other.end, partial(_stand, other.gate, mode == "pause", rate))
                    raise
                done.append((member, *before))
            if paused is not None:
                self._paused = paused

    def tell(self) -> None:
        """Tell the listeners, if another gate is there or one stands otherwise than was told."""
        now = [(gate, gate.mode, gate.rate) for gate in self._gates()]
        if now != self._told:
            self._told = now
            for listener in self._listeners:
                listener(self.mode, self.rate)


def _stand(gate: GateControl, paused: bool, rate: float) -> None:
    """Make it stand so, if it does not."""
    if gate.rate != rate:
        gate.rate = rate
    if gate.mode != ("pause" if paused else "run"):
        (gate.pause if paused else gate.resume)()
