"""A run with an engine behind it: its history grows as its gate lets the engine go.

    source ──events──► history        ScenarioSteps   a core on a thread here (stepped.py)
    gate   ◄──verbs─── SteeredRun     LiveEngine      a model in this process (live.py)
                                      Attached        a server's engine (attached.py)

Each verb returns when the engine stands still again, and all it has told by then is in the history.
Ctrl-C (``interrupt``) pauses the engine at the end of its step. No counterpart in vLLM.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from minivllm.engine.engine_core import EngineCore
from minivllm.errors import EngineDeadError
from minivllm.terminal.history import NOWHERE, History
from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event, Header
from minivllm.trace.gate import Gate
from minivllm.trace.gate_control import GateControl
from minivllm.trace.life import Way
from minivllm.trace.until import Until

POLL_S = 0.02
"""How often to look whether the engine has gone idle; where it is held is told at once."""
KEPT_STEPS = 20_000
"""Of a run that somebody steps through; a server's may go on for days."""
INPUT_S = 10.0
"""An input that the engine has not taken in by then has got lost on the way."""


STEERED: weakref.WeakSet[Gate] = weakref.WeakSet()
"""Gates that somebody steers from this process: a breakpoint in an engine's code holds there."""
LET_BE: weakref.WeakSet[EngineCore] = weakref.WeakSet()
"""Engines that are run up to a place: a breakpoint in their code holds nobody meanwhile."""


class Source(Protocol):
    """An engine, as far as a debugger needs it. Each call may raise what has happened to it."""

    header: Header
    label: str
    """``LIVE``, ``NO MODEL``, ``FORK`` …: what the screen calls it."""
    news: str
    """What has happened to the way to the engine, for who looks; empty: nothing."""
    which: str
    """Of several engines, this one; empty: it is the only one."""

    @property
    def gate(self) -> GateControl: ...

    def take(self) -> list[Event]:
        """What the engine's stream has told since the last call."""
        ...

    def began_anew(self) -> bool:
        """Is it another engine since the last call? Then its history begins anew."""
        ...

    def is_idle(self) -> bool:
        """It has nothing to run, after what was taken."""
        ...

    def can_come(self, number: int) -> bool:
        """May a request of that number (``r6``: 6) still come, without a verb?"""
        ...

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        """Queue a prompt; returns its request id. ``params``: SamplingParams, where a model runs.
        Raises PromptError."""
        ...

    def abort(self, request_id: str) -> None: ...

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        """From the next step on. Raises ConfigError."""
        ...

    def fork(self, at_step: int, knobs: dict[str, Any], history: History) -> Source:
        """The same run again, up to that step; it stands before it. Raises ConfigError,
        ReplayError."""
        ...

    def close(self) -> None: ...


class SteeredRun:
    """A run whose engine is let go from here."""

    others = ""
    """Of a scenario's name: how to open the recording that has it, too."""

    def __init__(self, source: Source) -> None:
        self.source = source
        if isinstance(source.gate, Gate):
            STEERED.add(source.gate)
        self.history = History(source.header, KEPT_STEPS)
        self.interrupted = False
        self.lets_code_be = False
        """Where the engine's own code asks to be held, go on."""
        self.held_by_code = False
        """It stands where its own code has asked for it."""
        self.held_code: HeldCode | None = None
        """Which line that was, and its locals."""
        self.closed = False
        self.moving = threading.RLock()
        """Held while a verb lets the engine go: what it tells meanwhile is for that thread."""
        self._has_ended = False
        self.on_progress: Callable[[], None] = lambda: None
        """Called while the engine runs, whenever it has told something."""
        try:
            self._settle()
        except BaseException:
            source.close()
            raise

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def which(self) -> str:
        return self.source.which

    @property
    def news(self) -> str:
        return self.source.news

    @property
    def can_move(self) -> bool:
        """Is there anything to run?"""
        return not self.closed and not self.source.is_idle()

    def advance(self) -> None:
        """One more step, to its end."""
        self.step()

    def step(self) -> bool:
        """To the end of this step, or of the next; False if there is nothing to run."""
        return self._go(self.source.gate.step)

    def phase(self) -> bool:
        return self._go(self.source.gate.next_phase)

    def event(self) -> bool:
        return self._go(self.source.gate.next_event)

    def until(self, where: str | Until) -> bool:
        """True: an event as asked for has come, and the engine is held there.

        A test of one's own (an :class:`Until` that no words name) cannot travel to an engine in
        another process: there it is asked after each step, and the engine is held at its end.
        """
        if isinstance(where, str) or isinstance(self.source.gate, Gate):
            going = self._go(lambda: self.source.gate.until(where))
            return going and not self.interrupted and self._at_event()
        while True:
            seq = self.history.seq
            if not self.step() or self.interrupted:
                return False
            told = self.history.events(self.history.head)
            places = self.history.places
            if any(e.seq > seq and where.matches(e, places.get(e.src, NOWHERE)) for e in told):
                return True

    def go(self) -> None:
        """Let it run, until it is interrupted or has nothing more to run."""
        self._go(self.source.gate.resume)

    def interrupt(self) -> None:
        """From another thread: stand still at the end of the step."""
        self.interrupted = True

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        """Returns the request's name (``r6``) once the engine has taken it in."""
        self.check_open()
        with self.moving:
            known = set(self.history.state().requests)
            request_id = self.source.submit(prompt, max_tokens, params)
            name = self._wait_for(lambda event: _is_arrival(event, request_id))
        return name or next(iter(set(self.history.state().requests) - known), request_id)

    def abort(self, req: str) -> None:
        self.check_open()
        request = self.history.state().requests[req]
        with self.moving:
            self.source.abort(request.parent or request.request_id)
            self._wait_for(lambda event: event.kind == "req.finish" and event.req == req)

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self.check_open()
        with self.moving:
            self.source.set_knobs(knobs)
            self._wait_for(lambda e: e.kind == "core.input" and e.data.op == "set_knobs")

    def way(self, req: str) -> Way | None:
        return None

    def check_open(self) -> None:
        """Raises EngineDeadError: nobody lets this engine go from here any more."""
        if self.closed:
            raise EngineDeadError(
                "it was closed: what it has seen can still be looked at, and nothing goes on"
            )

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if isinstance(self.source.gate, Gate):
            STEERED.discard(self.source.gate)
        self.source.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _at_event(self) -> bool:
        held = self.source.gate.held
        return held is not None and held.at == "event"

    def _go(self, verb: Callable[[], None]) -> bool:
        """Let the engine go, and wait until it stands still; False if it had nothing to run."""
        with self.moving:
            return self._go_on(verb)

    def _go_on(self, verb: Callable[[], None]) -> bool:
        self.interrupted = self.held_by_code = False
        self.check_open()
        self.take_in()
        if self._has_ended:
            raise EngineDeadError("the engine has ended; what it has told can still be looked at")
        if self.source.is_idle():
            self.history.ended = True
            return False
        before = self.history.seq
        verb()
        self._settle()
        while self.lets_code_be and not self.interrupted and self.held_by_code:
            verb()
            self._settle()
        return self.history.seq > before or self.held_by_code

    def _settle(self) -> None:
        """Until the engine is held, or has nothing to run, take in what it tells."""
        gate, paused = self.source.gate, False
        while True:
            held = gate.wait_held(POLL_S)
            self.check_open()  # by another thread, meanwhile
            if self.take_in():
                self.on_progress()
            if held is not None and self.history.seq >= held.seq:
                self.held_by_code, self.held_code = held.at == "code", held.code
                return
            if held is None and self.source.is_idle():
                if gate.mode != "pause" or not paused:
                    gate.pause()  # what was allowed and not used is for nobody who comes later
                self.take_in()
                self.history.ended = True
                return
            if self.interrupted and not paused:
                gate.pause()
                paused = True

    def _wait_for(self, happened: Callable[[Event], bool]) -> str | None:
        """Take in until such an event has come; whom it is about. Where the engine is held in the
        middle of a step it comes later, at the next step's boundary: None."""
        deadline = time.monotonic() + INPUT_S
        while time.monotonic() < deadline:
            self.check_open()
            held = self.source.gate.held
            for event in self.take_in():
                if happened(event):
                    self._settle()
                    return event.req
            if held is not None and held.at != "step":
                return None
            time.sleep(POLL_S / 4)
        return None

    def take_in(self) -> list[Event]:
        if self.closed:
            return []
        if self.source.began_anew():
            self.history = History(self.source.header, KEPT_STEPS)
        events = self.source.take()
        if events:
            self.held_by_code = False
            self._has_ended = events[-1].kind == "run.end"
            self.history.ended = self._has_ended
            self.history.extend(events)
        return events


def _is_arrival(event: Event, request_id: str) -> bool:
    return event.kind == "req.arrive" and request_id in (event.data.request_id, event.data.parent)
