"""The gate: where the engine's loop can be held, stepped and slowed down.

No counterpart in vLLM. The core passes the gate on its own thread, at three places:

    may_step()      before each step
    pass_phase()    before execute, and before update
    pass_event()    after each event, while somebody asked for that and only then

Whoever steers (page, terminal, demo) calls the other methods from theirs. Paused is healthy:
requests are still taken in and aborted, only nothing goes on. What comes while the engine is held
in the middle of a step is applied at the next step's boundary. Before it is held there, all
that was told so far is handed to the viewers, and no lock is kept that they need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from minivllm.errors import ConfigError
from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event
from minivllm.trace.gate_control import GateState, Held
from minivllm.trace.tracer import OFF, Tracer
from minivllm.trace.until import Place, Until, parse

MIN_RATE, MAX_RATE = 0.01, 1000.0
"""Steps per second; slower is what ``pause`` and ``step`` are for."""

NO_DECISION = (
    "run.start",
    "run.source",
    "run.idle",
    "run.end",
    "gate.change",
    "trace.arm",
    "trace.left_out",
    "exec.tensors",
)
"""Kinds at which nobody is held: they tell of the trace and the gate itself."""

_SAME = "the goal there is"


class Gate:
    """A :class:`~minivllm.trace.gate_control.GateControl` in the engine's own process.

    Modes: ``run`` (at most ``rate`` steps per second; 0 = full speed) and ``pause``.
    """

    def __init__(self, paused: bool = False, rate: float = 0.0) -> None:
        self._changed = threading.Condition()
        self._paused = paused
        self._rate = check_rate(rate)
        self._allowed = 0  # steps that may pass while paused
        self._goal: str | Until | None = None  # "phase" | "event" | until: hold there
        self._goal_count = 0  # so many more phases or events
        self._in_step = False
        self._turn = 0  # raised by each verb that lets the engine go
        self._held: Held | None = None
        self._closed = False
        self._last_pass = 0.0  # time.monotonic(), seconds
        self._trace: Tracer = OFF
        self._listeners: list[Callable[[str, float], None]] = []
        self._revision = 0
        self._watchers: list[Callable[[GateState], None]] = []

    # --- for whoever steers, from any thread -----------------------------------------------------

    @property
    def mode(self) -> str:
        return "pause" if self._paused else "run"

    @property
    def rate(self) -> float:
        """Steps per second at most; 0 = full speed."""
        return self._rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        self._set(rate=check_rate(steps_per_second))

    @property
    def held(self) -> Held | None:
        """Where the engine stands still; None while it runs, or sleeps since nobody asks it."""
        return self._held

    def wait_held(self, timeout: float | None = None) -> Held | None:
        """Wait until the engine stands still; None if it does not within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None, timeout)
            return self._held

    def pause(self) -> None:
        """Begin no further step, not even one that ``step`` allowed. One under way is finished."""
        self._set(paused=True, goal=None)

    def resume(self) -> None:
        self._set(paused=False, goal=None, go=True)

    def step(self, n: int = 1) -> None:
        """Pause, and let ``n`` more steps pass; one in which the engine is held is the first."""
        if n < 1:
            raise ConfigError("gate step", n, "1 or more steps")
        self._set(paused=True, goal=None, allow=n, go=True)

    def next_phase(self, n: int = 1) -> None:
        """Pause, and go on to the next phase: ``execute``, ``update``, or the end of the step."""
        if n < 1:
            raise ConfigError("gate next phase", n, "1 or more phases")
        self._set(paused=True, goal="phase", count=n, go=True)

    def next_event(self, n: int = 1) -> None:
        """Pause, and go on until one more event is told. Raises ConfigError without a trace."""
        if n < 1:
            raise ConfigError("gate next event", n, "1 or more events")
        self._check_traced("next event")
        self._set(paused=True, goal="event", count=n, go=True)

    def until(self, where: str | Until) -> None:
        """Run, and pause at the event that ``where`` names (see ``until.py``).

        Raises ConfigError for words that name nothing, and without a trace.
        """
        goal = parse(where) if isinstance(where, str) else where
        self._check_traced("until")
        self._set(paused=False, goal=goal, go=True)

    def on_change(self, listener: Callable[[str, float], None]) -> None:
        """Tell ``listener(mode, rate)`` of every change."""
        self._listeners.append(listener)

    def state(self) -> GateState:
        with self._changed:
            return self._state()

    def on_state(self, watcher: Callable[[GateState], None]) -> None:
        """Tell ``watcher`` of every change, also of where the engine is held, in order. It is
        called under the gate's lock: it may only put the state somewhere."""
        self._watchers.append(watcher)

    def wake(self) -> None:
        """Make a waiting ``may_step`` look again: there is input, or the end is asked for."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """The engine ends: nobody is held any more, wherever it stands."""
        with self._changed:
            self._closed = True
            self._go()

    # --- for the engine's thread -----------------------------------------------------------------

    def attach(self, trace: Tracer) -> None:
        """An engine stands behind this gate from now on, and tells what it does to ``trace``."""
        self._trace, self._closed = trace, False

    def may_step(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for leave to run one step; use it up and say so.

        False: not yet, or something else wants attention (``wake``).
        """
        with self._changed:
            if self._in_step:
                self._in_step = False
                if self._goal == "phase":  # a step's end is one, too
                    self._reached()
            wait = self._seconds_to_wait()
            if wait > 0:
                if self._paused and self._held is None:
                    self._stand(Held("step", seq=self._trace.seq))
                self._changed.wait(min(wait, timeout))
                if self._closed or self._seconds_to_wait() > 0:
                    return False
            if self._held is not None:
                self._stand(None)
            if self._paused and self._goal is None:
                self._allowed -= 1
            self._in_step = True
            self._last_pass = time.monotonic()
            return True

    def pass_phase(self, phase: str) -> None:
        """The engine is about to begin ``phase``, in a step."""
        if self._goal == "phase":
            with self._changed:
                here, turn = self._goal == "phase" and self._reached(), self._turn
            if here:
                self._hold(Held("phase", phase, seq=self._trace.seq), turn)

    def pass_event(self, event: Event, place: Place) -> None:
        """The engine has just told ``event``."""
        if event.kind in NO_DECISION:
            return
        with self._changed:
            goal = self._goal
            if isinstance(goal, Until):
                here = goal.matches(event, place) and self._reached()
            else:
                here = goal == "event" and self._reached()
            turn = self._turn
        if here:
            if isinstance(goal, Until):
                self._tell()
            self._hold(Held("event", event.phase, event, event.seq), turn)

    def hold_here(
        self, code: HeldCode | None = None, then: Callable[[], None] | None = None
    ) -> None:
        """The engine's code asks for it itself (``minivllm.debug.set_trace``), at this line: stand
        still, in the middle of a step. ``then``: called once all that was told can be seen, before
        it waits."""
        with self._changed:
            self._aim(None, 0)
            self._paused, self._allowed = True, 0
            self._moved()
            turn = self._turn
        self._tell()
        self._hold(Held("code", self._trace.phase, seq=self._trace.seq, code=code), turn, then)

    @property
    def is_steered(self) -> bool:
        """Somebody lets the engine go step by step, or until something happens."""
        return self._paused or self._goal is not None

    # --- helpers ---------------------------------------------------------------------------------

    def _reached(self) -> bool:
        """The goal, or one of so many. True when this was the last."""
        self._goal_count -= 1
        if self._goal_count > 0:
            return False
        self._aim(None, 0)
        self._paused = True
        self._moved()
        return True

    def _aim(self, goal: str | Until | None, count: int) -> None:
        self._goal, self._goal_count = goal, count
        # The recorder tests this one attribute: events cost nothing more while nobody asks.
        if self._trace.on:
            by_event = goal is not None and goal != "phase"
            self._trace.on_event = self.pass_event if by_event else None

    def _hold(self, held: Held, turn: int, then: Callable[[], None] | None = None) -> None:
        """Stand still in the middle of a step, until a verb lets the engine go."""
        self._trace.flush()  # before anybody can see that it is held
        with self._changed:
            if turn == self._turn:  # nobody has let it go meanwhile
                self._stand(held)
                if then is not None:
                    then()
                self._changed.wait_for(lambda: turn != self._turn or self._closed)

    def _held_in_step(self) -> bool:
        held = self._held
        return held is not None and held.at != "step" and held.phase != "input"

    def _go(self) -> None:
        self._turn += 1
        self._stand(None)

    def _stand(self, held: Held | None) -> None:
        self._held = held
        self._moved()
        self._changed.notify_all()

    def _moved(self) -> None:
        self._revision += 1
        for watcher in self._watchers:
            watcher(self._state())

    def _state(self) -> GateState:
        held = self._held
        return GateState(
            mode=self.mode,
            rate=self._rate,
            revision=self._revision,
            held_at=held.at if held else None,
            held_phase=held.phase if held else "",
            held_event=msgspec.json.encode(held.event) if held and held.event else None,
            held_seq=held.seq if held else 0,
            held_code=held.code if held else None,
        )

    def _seconds_to_wait(self) -> float:
        if self._paused:
            return 0.0 if self._allowed or self._goal is not None else float("inf")
        if not self._rate:
            return 0.0
        return self._last_pass + 1 / self._rate - time.monotonic()

    def _check_traced(self, verb: str) -> None:
        if not self._trace.on:
            raise ConfigError("gate", verb, "step and next phase: no event is told without a trace")

    def _set(
        self,
        paused: bool | None = None,
        rate: float | None = None,
        goal: str | Until | None = _SAME,
        count: int = 1,
        allow: int = 0,
        go: bool = False,
    ) -> None:
        with self._changed:
            before = (self._paused, self._rate)
            if paused is not None:
                self._allowed = self._allowed + allow if allow and self._paused else allow
                if allow and self._held_in_step():
                    self._allowed -= 1  # that step is one of them
                self._paused = paused
            if goal != _SAME:
                more = self._goal_count if goal == self._goal and isinstance(goal, str) else 0
                self._aim(goal, more + count)
            if rate is not None:
                self._rate = rate
            if go:
                self._go()
            self._changed.notify_all()
            self._moved()
            changed = before != (self._paused, self._rate)
        if changed:
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.mode, self._rate)


def check_rate(rate: float) -> float:
    if rate != 0 and not MIN_RATE <= rate <= MAX_RATE:
        allowed = f"0 (full speed), or {MIN_RATE:g} to {MAX_RATE:g} steps per second"
        raise ConfigError("gate rate", rate, allowed)
    return float(rate)
