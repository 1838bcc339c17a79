"""Stepper: the debugger's verbs as methods, and the state they lead to as plain objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from minivllm.config import STEP_KNOBS
from minivllm.debug.given import (
    Guarded,
    check_count,
    check_from_past,
    check_prompt,
    run_of,
)
from minivllm.debug.shown import Answer, Board
from minivllm.errors import ConfigError, EngineDeadError
from minivllm.scenario import ScenarioRun
from minivllm.terminal.moves import Move, onward
from minivllm.terminal.places import check
from minivllm.terminal.session import Session
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.verbs import VerbError
from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event
from minivllm.trace.fold import State
from minivllm.trace.until import Until, parse

if TYPE_CHECKING:
    from minivllm.engine.llm import LLM
    from minivllm.outputs import RequestOutput

Where = str | Callable[[Event], Any]
"""Words such as ``preempt`` or ``finish r3``, or a test of events."""
FromPast = Literal["live", "fork"]
"""What goes on where one looks at the past: the engine where it stands, or a fork from here."""


class Stepper:
    """An engine held by its gate, or a recorded run; see ``minivllm.debug``.

    ``what``: an :class:`~minivllm.LLM` that keeps its events (``live=True``, or a trace file), the
    name of a scenario, a trace by its file or gallery name, or a ``ScenarioRun``. At the end an LLM
    goes on as it did before.

    Looking at the past (``back``, ``goto``) moves no engine. What would let it go on from there
    raises VerbError, unless ``from_past`` says what goes on: ``"live"``, the engine where it
    stands, or ``"fork"``, a run of its own from the place that is looked at.

    Raises ConfigError for an LLM that is not traced, and what opening a trace or scenario raises.
    """

    def __init__(self, what: LLM | str | Path | ScenarioRun, **engine: Any) -> None:
        """``engine``: knobs of a scenario."""
        self.session = Session(run_of(what, engine))

    # --- where one stands ------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self._here.step

    @property
    def last(self) -> int:
        """The newest step there is."""
        return self._here.history.head

    @property
    def state(self) -> State:
        """The engine's state at this place: its events, folded."""
        return self._here.view.state

    @property
    def before(self) -> State:
        """The state when this step began."""
        return self._here.view.before

    @property
    def events(self) -> list[Event]:
        """Of this step, up to this place."""
        return list(self._here.view.events)

    @property
    def event(self) -> Event | None:
        """The one that this place is right behind, in the middle of a step."""
        return self._here.view.event

    @property
    def held(self) -> HeldCode | None:
        """The line of the engine's own code that holds it here (``set_trace``), and its locals."""
        return self._here.held_code

    @property
    def story(self) -> str:
        return self._here.view.story.headline

    @property
    def outputs(self) -> dict[str, RequestOutput]:
        """What the requests that were sent from here have answered, by their ids."""
        source = self.session.steered.source if self.session.steered is not None else None
        return dict(getattr(source, "outputs", {}))

    @property
    def _here(self) -> Session:
        """The session, with all that others have let the engine run: who stands at the newest
        place goes along."""
        with contextlib.suppress(EngineDeadError):  # whoever lets it go is told
            self.session.refresh()
        return self.session

    # --- moving ----------------------------------------------------------------------------------

    def next(self, n: int = 1, from_past: FromPast | None = None) -> bool:
        """``n`` steps further; False if there was nothing to run."""
        return self._move("next", n, self.session.forward, from_past)

    def next_event(self, n: int = 1, from_past: FromPast | None = None) -> bool:
        return self._move("next_event", n, self.session.event, from_past)

    def next_phase(self, n: int = 1, from_past: FromPast | None = None) -> bool:
        return self._move("next_phase", n, self.session.phase, from_past)

    def back(self, n: int = 1) -> None:
        """Look at an earlier step; no engine rewinds."""
        check_count("back", n)
        self.do(f"back {n}")

    def goto(self, step: int, from_past: FromPast | None = None) -> None:
        """Raises VerbError for a step that there will not be."""
        check_count("goto", step)
        check_from_past(from_past)
        if step > self.last:
            self._go_on(from_past)
        self.do(f"goto {step}")

    def live(self) -> None:
        """To the newest place, where the engine stands."""
        self.do("live")

    def until(self, where: Where, from_past: FromPast | None = None) -> bool:
        """On to the event that ``where`` names, or that it is true of. False: it did not come, or
        a break came first. Raises ConfigError for words that name nothing, VerbError for a line
        or a request that will not come, and what the test raised: the engine then stands at the
        event that it was asked of."""
        check_from_past(from_past)
        goal = self._goal(where)
        if not self.session.knows(goal):
            self._go_on(from_past)
        reached, _ = self.session.until(goal)
        self._raise_what_a_test_raised(goal)
        return reached

    def break_at(self, where: Where) -> int:
        """Stop there, too, from now on; returns the number of the break."""
        return self.session.add_break(self._goal(where, "break"))

    def go(self, from_past: FromPast | None = None) -> int | None:
        """On to the next break (returns its number), or until nothing is left to run."""
        check_from_past(from_past)
        if not any(self.session.knows(goal) for goal in self.session.breaks.values()):
            self._go_on(from_past)
        number = self.session.until(None)[1]
        self._raise_what_a_test_raised()
        return number

    # --- asking and changing ---------------------------------------------------------------------

    def do(self, line: str) -> Answer:
        """Any verb, as it is typed in the terminal: ``why r4``, ``diff 7 8``. Raises VerbError."""
        reply = self.session.execute(line)
        if reply.question is not None:
            raise VerbError(
                f"{line}: {reply.question.words} Call live() or do('fork') before, as you like"
            )
        return Answer(reply)

    __call__ = do

    def submit(self, prompt: Any, params: Any = None, from_past: FromPast | None = None) -> str:
        """Returns the request's name (``r3``). ``params``: SamplingParams of an LLM, else the
        number of tokens. Raises PromptError, SamplingParamsError, VerbError for a recording."""
        check_from_past(from_past)
        check_prompt(prompt)
        self._engine("submit")
        self._go_on(from_past)
        run = self._engine("submit")
        if params is None or isinstance(params, int):
            name = run.submit(prompt, params if params is not None else DEFAULT_TOKENS)
        else:
            name = run.submit(prompt, 0, params)
        self.session.to_head()
        return name

    def submit_all(
        self, prompts: Sequence[Any], params: Any = None, from_past: FromPast | None = None
    ) -> list[str]:
        return [self.submit(prompt, params, from_past) for prompt in prompts]

    def abort(self, req: str, from_past: FromPast | None = None) -> None:
        self._go_on(from_past)
        self.do(f"abort {req}")

    def set(self, from_past: FromPast | None = None, **knobs: Any) -> None:
        """Change knobs of the engine from its next step on; of a recording, or of knobs that are
        the pool's, in a fork. Raises ConfigError."""
        check_from_past(from_past)
        if self.session.steered is None or any(name not in STEP_KNOBS for name in knobs):
            self.fork(**knobs)
            return
        self._go_on(from_past)
        run = self._engine("set")
        run.set_knobs(knobs)
        self.session.to_head()

    def fork(self, **knobs: Any) -> None:
        """Go on from here in a run of its own, with other knobs; :meth:`leave` comes back."""
        self.session.fork(knobs)

    def leave(self) -> None:
        self.do("leave")

    def _move(self, verb: str, n: int, move: Move, from_past: FromPast | None) -> bool:
        check_count(verb, n)
        check_from_past(from_past)
        if n < 0:
            return move(n) != 0
        made, left = onward(self.session, n, move)
        if left:
            self._go_on(from_past)
            made = move(left if from_past == "live" else n)
        return made > 0

    def _go_on(self, from_past: FromPast | None) -> None:
        """The engine is about to go on; where one looks at its past, it is said how, or refused."""
        check_from_past(from_past)
        session = self.session
        if session.steered is not None:
            session.steered.check_open()
        if session.steered is None or session.is_newest:
            return
        if from_past is None:
            raise VerbError(
                f"you look at step {self.step}, the engine stands at {self.last}: what shall go "
                "on? Say from_past='live' or 'fork', or call live() or fork() before"
            )
        (self.live if from_past == "live" else self.fork)()

    def _goal(self, where: Where, verb: str = "until") -> Until:
        if isinstance(where, str):
            goal = parse(where)
            check(self.session, goal, verb)
            return goal
        if not callable(where):
            raise ConfigError("until", where, "a place in words, or a function of an event")
        return Until("", Guarded(where))

    def _raise_what_a_test_raised(self, *goals: Until) -> None:
        for goal in (*goals, *self.session.breaks.values()):
            test = goal.matches
            if isinstance(test, Guarded) and test.error is not None:
                error, test.error = test.error, None
                raise error

    def _engine(self, verb: str) -> SteeredRun:
        if self.session.steered is None:
            raise VerbError(f"{verb}: nothing runs behind a recording; fork() makes a run of it")
        return self.session.steered

    # --- showing ---------------------------------------------------------------------------------

    def board(self, width: int | None = None, height: int | None = None) -> Board:
        """What the terminal shows; a notebook displays it."""
        session = self.session
        label = session.run.label
        return Board(session.view, width=width, height=height, zoom=session.zoom, label=label)

    def _repr_mimebundle_(
        self, include: Sequence[str] = (), exclude: Sequence[str] = (), **kwargs: Any
    ) -> dict[str, str]:
        return self.board()._repr_mimebundle_(include, exclude, **kwargs)

    def __repr__(self) -> str:
        return f"Stepper(step {self.step} of {self.last}: {self.story})"

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """An LLM goes on as before; a scenario's engine ends."""
        self.session.close()

    def __enter__(self) -> Stepper:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


DEFAULT_TOKENS = 16
