"""Commands: what the local driver may ask of the live engine and of the workbench, in order.

A socket handler only checks and queues; the work is done on a thread of its own, since tokenising
a prompt or waiting for the engine must hold up nobody. The answer goes back through the hub.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from minivllm.errors import MiniVLLMError
from minivllm.trace.file import Trace
from minivllm.trace.gate import MAX_RATE
from minivllm.trace.gate_control import GateControl
from minivllm.trace.log import TraceLog
from viz.holds import Holds

logger = logging.getLogger(__name__)

MAX_PROMPT_CHARACTERS = 100_000


class LiveEngine(Protocol):
    """A running engine, as far as the dashboard needs it."""

    @property
    def log(self) -> TraceLog: ...
    @property
    def gate(self) -> GateControl: ...
    def gate_of(self, engine: int) -> GateControl:
        """The gate of one engine alone. Raises MiniVLLMError for one that there is not."""
        ...

    def submit(self, prompt: str, max_tokens: int | None = None) -> str:
        """Queue a prompt; returns its request id. Raises PromptError."""
        ...

    def abort(self, request_id: str) -> None:
        """End a request, as its caller could. One that is unknown or finished is ignored."""
        ...

    def run_workload(self, name: str) -> list[str]:
        """Queue a workload that comes with the package; returns the request ids."""
        ...

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        """Change knobs of the scheduler from the next step on. Raises ConfigError."""
        ...

    def arm(self, step: Any, engine: int | None = None) -> None:
        """Capture the arrays of one step to come: its number, or ``next``; ``none`` calls back
        what was armed. Of one engine, or of all. Raises ConfigError."""
        ...


class Workbench(Protocol):
    """Runs scenarios with given tokens, so that a knob can be tried with no engine."""

    def knobs(self) -> list[dict[str, Any]]:
        """What may be set: ``name``, ``flag``, ``group``, ``help``, ``default``, ``live`` (may it
        change between two steps?), and ``choices`` or ``kind`` (``int`` | ``float`` | ``bool``)."""
        ...

    def scenarios(self) -> list[str]: ...

    def about(self) -> dict[str, dict[str, Any]]:
        """Scenario → its ``title``, a ``note`` of what happens in it, and flags to ``tries``."""
        ...

    def simulate(self, scenario: str, knobs: dict[str, Any]) -> tuple[TraceLog, dict[str, Any]]:
        """Run a scenario on the real scheduler and pool; also returns the knobs that differ from
        the scenario's own. Raises ScenarioError, ConfigError."""
        ...

    def own(self, form: Any) -> tuple[TraceLog, dict[str, Any]]:
        """Run a form of somebody's own; also returns it as it was understood, with its ``id``.
        Raises OwnScenarioError."""
        ...

    def own_from(self, text: str) -> dict[str, Any]:
        """A scenario file as a form. Raises OwnScenarioError, ScenarioError."""
        ...

    def presets(self) -> dict[str, dict[str, Any]]:
        """Forms to begin with, by name."""
        ...

    def fork(
        self, trace: Trace, stream: str, knobs: dict[str, Any], at_step: int
    ) -> tuple[TraceLog, dict[str, int]]:
        """Run a recorded run again with other knobs from a step on; also returns request → tokens
        that were never recorded. Raises ConfigError, ReplayError."""
        ...


class BadCommand(MiniVLLMError, ValueError):
    """A command that does not exist, or whose argument is not allowed."""


def perform(engine: LiveEngine, command: dict[str, Any]) -> Any:
    """Carry out one command; the result is told to the viewer who sent it.

    What is asked of the gate is asked of all engines, or of the one that ``engine`` names.
    """
    op: object = command.get("op")
    value: Any = command.get("value")
    _, gate = _gate(engine, command)
    if op in GATE_OPS:
        return _steer(gate, op, value)
    if op == "submit":
        return _submit(engine, value)
    if op == "abort":
        if not isinstance(value, str):
            raise BadCommand(f"abort: got {value!r}; allowed: the id of a request")
        return engine.abort(value)
    if op == "workload":
        if not isinstance(value, str):
            raise BadCommand(f"workload: got {value!r}; allowed: the name of a workload")
        return engine.run_workload(value)
    if op == "knobs":
        if not isinstance(value, dict) or not value:
            raise BadCommand(f"knobs: got {value!r}; allowed: names with their new values")
        return engine.set_knobs(value)
    if op == "arm":
        return _arm(engine, value)
    raise BadCommand(
        f"unknown command {op!r}; allowed: {', '.join(GATE_OPS + HOLD_OPS)}, submit, abort, "
        "workload, knobs, arm, simulate, fork"
    )


def _gate(engine: LiveEngine, command: dict[str, Any]) -> tuple[int | None, GateControl]:
    """The engine that is meant, None for all of them, and its gate."""
    number = command.get("engine")
    if number is not None and (type(number) is not int or number < 0):
        raise BadCommand(f"engine: got {number!r}; allowed: an engine's number")
    return number, engine.gate if number is None else engine.gate_of(number)


def _arm(engine: LiveEngine, value: Any) -> None:
    """``value``: a step, or ``{"step": 43 | "next" | "none", "engine": 1}``."""
    asked = value if isinstance(value, dict) else {"step": value}
    number = asked.get("engine")
    if number is not None and (type(number) is not int or number < 0):
        raise BadCommand(f"arm: got engine {number!r}; allowed: an engine's number, or none")
    step = asked.get("step")
    engine.arm("next" if step is None else step, number)


def gates_json(engine: LiveEngine) -> dict[str, Any]:
    """How the gate stands; and that of each engine that lives, where there are several."""
    told = {"mode": engine.gate.mode, "rate": engine.gate.rate}
    names = {life.stream for life in engine.log.lives() if life.stream.startswith("engine")}
    numbers = sorted(int(name.removeprefix("engine")) for name in names)
    if len(numbers) < 2:
        return told
    each = {}
    for number in numbers:
        with contextlib.suppress(MiniVLLMError):  # it is dead, or starts
            gate = engine.gate_of(number)
            each[str(number)] = {"mode": gate.mode, "rate": gate.rate}
    return told | {"engines": each}


GATE_OPS = ("pause", "resume", "step", "phase", "event", "until", "rate", "gate")


HOLD_OPS = ("hold", "release")
"""A debugger comes and goes; see ``viz/holds.py``."""

AIMS = ("pause", "resume", "step", "phase", "event", "until")
"""What gives the gate another goal, or none."""


def _goal(command: dict[str, Any]) -> dict[str, Any] | None:
    if command["op"] != "until":
        return None
    return {"words": command["value"], "engine": command.get("engine")}


def _steer(gate: GateControl, op: object, value: Any) -> Any:
    if op == "gate":
        held = gate.held
        place: dict[str, Any] | None = None
        if held is not None:
            code = msgspec.to_builtins(held.code)
            place = {"at": held.at, "phase": held.phase, "seq": held.seq, "code": code}
        return {"mode": gate.mode, "rate": gate.rate, "held": place}
    if op == "pause":
        return gate.pause()
    if op == "resume":
        return gate.resume()
    if op == "step":
        if type(value) is not int or not 1 <= value <= 1000:
            raise BadCommand(f"step: got {value!r}; allowed: a whole number, 1 to 1000")
        return gate.step(value)
    if op == "phase":
        return gate.next_phase()
    if op == "event":
        return gate.next_event()
    if op == "until":
        if not isinstance(value, str):
            raise BadCommand(
                f"until: got {value!r}; allowed: words such as preemption or finish r4"
            )
        return gate.until(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_RATE:
        raise BadCommand(f"rate: got {value!r}; allowed: 0 (full speed) to {MAX_RATE:.0f}")
    gate.rate = float(value)
    return None


def _submit(engine: LiveEngine, value: Any) -> str:
    """A prompt, or ``{"prompt", "max_tokens"}``."""
    prompt, max_tokens = value, None
    if isinstance(value, dict):
        prompt, max_tokens = value.get("prompt"), value.get("max_tokens")
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadCommand("submit: the prompt is empty; type some text")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise BadCommand(
            f"submit: the prompt has {len(prompt)} characters; allowed: {MAX_PROMPT_CHARACTERS}"
        )
    if max_tokens is None:
        return engine.submit(prompt)
    if type(max_tokens) is not int or max_tokens < 1:
        raise BadCommand(f"submit: max_tokens is {max_tokens!r}; allowed: 1 or more")
    return engine.submit(prompt, max_tokens)


def _is_hold(value: Any) -> bool:
    if not isinstance(value, dict) or list(value) != ["who", "found"]:
        return False
    who, found = value["who"], value["found"]
    return isinstance(who, str) and 1 <= len(who) <= 64 and found in (None, "run", "pause")


class CommandThread:
    """Performs queued commands in order; ``answer(sid, result)`` tells how each went."""

    def __init__(
        self,
        engine: Callable[[], LiveEngine | None],
        without_engine: Mapping[str, Callable[[Any], Any]],
        answer: Callable[[str, dict[str, Any]], None],
        aimed: Callable[[dict[str, Any] | None], None] = lambda goal: None,
    ) -> None:
        """``without_engine``: the commands that need no engine, each with what carries it out.
        ``aimed``: hears where the gate was asked to hold; None: no longer anywhere."""
        self._engine, self._without_engine, self._answer = engine, without_engine, answer
        self._aimed = aimed
        self.holds = Holds()
        self._queue: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(maxsize=256)
        self._thread: threading.Thread | None = None

    def put(self, sid: str, command: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait((sid, command))
        except queue.Full:
            self._refuse(sid, command, "too many commands wait; try again in a moment")

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="viz-commands", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            self.handle(*item)

    def handle(self, sid: str, command: dict[str, Any]) -> None:
        engine, alone = self._engine(), self._without_engine.get(str(command.get("op")))
        if engine is None and alone is None:
            self._refuse(sid, command, "the engine is not ready yet; watch its state at the top")
            return
        try:
            if alone is not None:
                value = alone(command.get("value"))
            elif engine is not None and command.get("op") in HOLD_OPS:
                value = self._hold(sid, engine, command)
            elif engine is not None:
                value = perform(engine, command)
                if command.get("op") in AIMS:
                    self._aimed(_goal(command))
        except MiniVLLMError as error:
            self._refuse(sid, command, str(error))
        except Exception as error:  # the thread must live to carry out the next command
            logger.exception("the command %r failed", command.get("op"))
            self._refuse(sid, command, f"it failed: {type(error).__name__}")
        else:
            self._answer(sid, {"id": command.get("id"), "ok": True, "value": value})

    def _hold(self, sid: str, engine: LiveEngine, command: dict[str, Any]) -> str | None:
        value: Any = command.get("value")
        if not _is_hold(value):
            raise BadCommand(
                f"{command['op']}: got {value!r}; allowed: who (a name), found (run | pause | null)"
            )
        if command["op"] == "hold":
            return self.holds.hold(value["who"], sid, *_gate(engine, command), value["found"])
        self.holds.release(value["who"])
        return None

    def _refuse(self, sid: str, command: dict[str, Any], message: str) -> None:
        self._answer(sid, {"id": command.get("id"), "ok": False, "error": message})
