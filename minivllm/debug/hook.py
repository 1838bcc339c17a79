"""``set_trace``: a breakpoint in the engine's own code, a student's scheduler say.

    import minivllm.debug

    class MyScheduler(Scheduler):
        def schedule(self):
            minivllm.debug.set_trace()                  # or breakpoint(), with
            ...                                         # PYTHONBREAKPOINT=minivllm.debug.set_trace

The engine's thread stands still at this place, held by its gate, and a debugger opens at the
terminal, on a thread of its own; where one is open already (``minivllm step``, a ``Stepper``), that
one stops here. In an engine's own process, where nobody sits, it holds only if somebody steers it.
The verb ``clear code`` lets all such places be, ``break code`` has them hold again.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from minivllm.engine.core_loop import CoreLoop
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.progress import no_bars
from minivllm.engine.wire import Abort, SetKnobs
from minivllm.errors import ConfigError, TraceError
from minivllm.terminal.history import History
from minivllm.terminal.reply import VerbError
from minivllm.terminal.session import Session
from minivllm.terminal.steered import LET_BE, STEERED, Source, SteeredRun
from minivllm.terminal.stepped import fork_of
from minivllm.trace.code import held_code
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import decode_event
from minivllm.trace.gate import Gate
from minivllm.trace.recorder import Recorder
from minivllm.trace.until import Until

logger = logging.getLogger(__name__)

_left: weakref.WeakSet[EngineCore] = weakref.WeakSet()
"""Engines whose debugger was quit: they are held no more."""
_warned: weakref.WeakSet[EngineCore] = weakref.WeakSet()
"""Engines of which was said why nothing opens."""
_shells: weakref.WeakKeyDictionary[EngineCore, Shell] = weakref.WeakKeyDictionary()


def set_trace(commands: str | None = None) -> None:
    """Hold the engine that runs this code, here, and open the debugger.

    ``commands``: carry these out instead of asking, print what they answer, and go on. Where the
    engine is not traced, or nobody could type, a line in the log says so, and the engine goes on.
    """
    frame = sys._getframe(1)
    core, loop = _engine_of(frame)
    if core is None:
        logger.warning("set_trace: no engine is stepping here, so there is nothing to look at")
        return
    if core in _left or core in LET_BE:
        return
    if not isinstance(core.trace, Recorder):
        _warn_once(core, "the engine is not traced; run it with live=True or a trace file")
        return
    gate = loop.gate if loop is not None else _gate_of(core)
    if gate in STEERED or (loop is not None and gate.is_steered):
        gate.hold_here(held_code(frame))
        return
    if commands is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        _warn_once(core, "nobody can type here; give commands=, or steer the engine")
        return
    shell = _shells.get(core)
    if shell is None or not shell.is_open:
        try:
            shell = _shells[core] = Shell(core, gate, loop, commands)
        except TraceError as error:  # its events are kept in another process
            _warn_once(core, f"{error}; steer it from there, or with --attach")
            return
    gate.hold_here(held_code(frame), then=shell.open)


def _warn_once(core: EngineCore, words: str) -> None:
    """A scheduler may come by here in each of a million steps."""
    if core not in _warned:
        _warned.add(core)
        logger.warning("set_trace: %s", words)


def _engine_of(frame: FrameType | None) -> tuple[EngineCore | None, CoreLoop | None]:
    """Whose frames these are: the core that steps, and its loop, if it has one."""
    core: EngineCore | None = None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if core is None and isinstance(owner, EngineCore):
            core = owner
        if isinstance(owner, CoreLoop):
            return owner.core, owner
        frame = frame.f_back
    return core, None


def _gate_of(core: EngineCore) -> Gate:
    """Of a core that somebody steps by hand: the one whose phases it passes, or a new one."""
    gate = getattr(core.at_phase, "__self__", None)
    if isinstance(gate, Gate):
        return gate
    gate = HandGate()
    gate.attach(core.trace)
    core.at_phase = gate.pass_phase
    return gate


class HandGate(Gate):
    """Of an engine that no loop holds between two steps: a step ends at its ``step.end``."""

    def step(self, n: int = 1) -> None:
        left = [n]

        def is_last(event: Event, place: object) -> bool:
            left[0] -= event.kind == "step.end"
            return left[0] <= 0

        self.until(Until("", is_last))

    def pause(self) -> None:
        self.step()


class CoreSource:
    """A :class:`~minivllm.terminal.steered.Source`: the engine that has called ``set_trace``."""

    label = "HELD"
    news = which = ""

    def __init__(self, core: EngineCore, gate: Gate, loop: CoreLoop | None) -> None:
        """Raises TraceError where the run's events are kept in another process."""
        assert isinstance(core.trace, Recorder)
        self._core, self.gate, self._loop, self._trace = core, gate, loop, core.trace
        self._log = core.trace.log
        self.header = self._log.header
        self._engine_thread = threading.current_thread()
        self._seq = 0
        self._idle = False

    def take(self) -> list[Event]:
        stream = self._trace.stream
        head = self._log.head_seq(stream)
        events = [decode_event(line) for line in self._log.lines(stream, self._seq + 1, head)]
        self._seq = max(self._seq, head)
        if events:
            self._idle = events[-1].kind in ("run.idle", "run.end")
        return events

    def began_anew(self) -> bool:
        return False

    def is_idle(self) -> bool:
        return self._idle or not self._engine_thread.is_alive()

    def can_come(self, number: int) -> bool:
        return True

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        raise VerbError("submit: the program that runs this engine sends its requests")

    def abort(self, request_id: str) -> None:
        self._put("abort", Abort(request_ids=[request_id], why=Reason.CLIENT))

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self._core.check_knobs(**knobs)
        self._put("set", SetKnobs(knobs=knobs))

    def _put(self, verb: str, message: Any) -> None:
        if self._loop is None:
            raise VerbError(f"{verb}: this engine is stepped by hand, from its program; try fork")
        self._loop.put(message)

    def fork(self, at_step: int, knobs: dict[str, Any], history: History) -> Source:
        return fork_of(history, at_step, knobs)

    def close(self) -> None:
        self.gate.resume()


class Shell:
    """The debugger's thread: it asks at the terminal while the engine is held."""

    def __init__(
        self, core: EngineCore, gate: Gate, loop: CoreLoop | None, commands: str | None
    ) -> None:
        self._source = CoreSource(core, gate, loop)
        self._core, self._commands = core, commands
        self.is_open = True
        # No daemon: the interpreter must not end while the terminal is asked.
        self._thread = threading.Thread(target=self._run, name="set-trace")

    def open(self) -> None:
        """Called by the engine's thread when it is held."""
        self._thread.start()

    def _run(self) -> None:
        run = SteeredRun(self._source)
        session = Session(run)
        try:
            if self._commands is not None:
                from minivllm.terminal.script import run_script
                from minivllm.terminal.verbs import script

                run_script(session, script(self._commands))
            elif _ask(session):
                _left.add(self._core)
        except ConfigError as error:
            print(f"set_trace: {error}", file=sys.stderr)
        finally:
            self.is_open = False
            STEERED.discard(self._source.gate)
            session.close()


def _ask(session: Session) -> bool:
    from minivllm.terminal.line_prompt import run_lines

    with no_bars():
        return run_lines(session)
