"""Session: a run, and the place in it that is looked at. Moving, and finding places.

A place is a step, or an event in it (``at`` events of the step are seen). Moving on from the newest
place lets the engine go; every other move is reading. Where a verb would let the engine go while
one looks at its past, the session asks: go on there, or fork from here?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minivllm.errors import EngineDeadError
from minivllm.terminal.history import NOWHERE, UNTOLD, History, View
from minivllm.terminal.reply import Reply
from minivllm.terminal.runs import PastRun, Run, fork_run
from minivllm.terminal.steered import SteeredRun
from minivllm.trace.code import HeldCode
from minivllm.trace.gate import NO_DECISION
from minivllm.trace.until import Test, Until, ahead, parse

MAX_STEP = 100_000
_QUIET = (*UNTOLD, *NO_DECISION)


class Session:
    """A run, and the place in it that is looked at."""

    def __init__(self, run: Run, width: int = 80) -> None:
        self.run = run
        self.step = run.history.first
        self.at: int | None = None
        """So many events of the step are seen; None: all there are."""
        self.width = width
        """Of the screen, in cells; who draws keeps it up to date."""
        self.breaks: dict[int, Until] = {}
        self.num_breaks = 0  # that there ever were
        self.originals: list[tuple[Run, int, int | None]] = []
        """Runs that were forked, each with the place that was looked at; the last one last."""
        self.newer: SteeredRun | None = None
        """The engine that was started anew while one read what its last life had told; ``live``
        goes there."""
        self.pinned: str = ""
        """A line that is answered anew at each place, below the board."""
        self.zoom: int | None = None
        """How large the pool is drawn, 0 to 2; None: as large as it fits."""
        self.on_step: Callable[[], None] = lambda: None
        """Called while a verb goes over several steps: whoever draws may show it."""
        self.interrupted = False
        self.lets_code_be = False
        """``set_trace`` in the engine's own code holds it no more."""
        self._mourned = False  # that the engine has ended is said once
        self._view: View | None = None
        self._seen: tuple[Any, ...] = ()
        self._watch()
        if isinstance(run, SteeredRun):
            self.to_head()

    @property
    def history(self) -> History:
        return self.run.history

    @property
    def view(self) -> View:
        history = self.history
        code = self.held_code
        key = (id(history), self.step, self.at, history.seq, history.ended, id(code))
        if self._view is None or self._seen != key:
            with history.lock:
                self.step = max(min(self.step, history.head), history.first)
                view = history.view(self.step, self.at)
            self._view, self._seen = replace(view, code=code), key
        return self._view

    @property
    def begun(self) -> int:
        """The newest step that has begun, as far as one sees here."""
        at_its_end = self.at is None and self.step <= self.history.last
        return self.step if at_its_end or self.view.of("step.begin") else self.step - 1

    @property
    def steered(self) -> SteeredRun | None:
        """The run, if an engine stands behind it."""
        return self.run if isinstance(self.run, SteeredRun) else None

    @property
    def is_newest(self) -> bool:
        """Is this the place where the engine stands?"""
        history = self.history
        newest = history.head if history.has_begun else history.last
        return self.step >= newest and self._is_end_of_step()

    def interrupt(self) -> None:
        """From another thread: what runs ends with its step."""
        self.interrupted = True
        if self.steered is not None:
            self.steered.interrupt()

    def let_code_be(self, yes: bool = True) -> None:
        self.lets_code_be = yes
        self._watch()

    @property
    def is_held_by_code(self) -> bool:
        """Is this the place where the engine's own code holds it?"""
        return self.steered is not None and self.steered.held_by_code and self.is_newest

    @property
    def held_code(self) -> HeldCode | None:
        """The line that has asked for it, if it does."""
        return self.steered.held_code if self.steered and self.is_held_by_code else None

    def use(self, run: Run, step: int) -> None:
        """Look at another run."""
        self.run, self.step, self.at = run, step, None
        self._watch()

    def execute(self, line: str) -> Reply:
        """What was typed; see ``verbs.py``. Raises VerbError."""
        from minivllm.terminal.verbs import execute

        return execute(self, line)

    def close(self) -> None:
        for run in (self.run, *(original for original, *_ in reversed(self.originals))):
            run.close()
        if self.newer is not None:
            self.newer.close()

    def _watch(self) -> None:
        if self.steered is not None:
            self.steered.on_progress = self._progress
            self.steered.lets_code_be = self.lets_code_be

    def _progress(self) -> None:
        self.to_head()
        self.on_step()

    # --- places ----------------------------------------------------------------------------------

    def to_head(self) -> None:
        self.step, self.at = self.history.head, None

    def refresh(self) -> None:
        """Take in what has come meanwhile; who stands at the newest place goes along."""
        if (steered := self.steered or self.newer) is not None:
            was_newest, read, here = self.is_newest, steered.history, (self.step, self.at)
            if not steered.moving.acquire(blocking=False):
                return  # another thread lets it go, and takes in what it tells
            try:
                came = steered.take_in()
            except EngineDeadError:
                if self._mourned:
                    return  # it was said; what it has told can still be read
                self._mourned = True
                raise
            finally:
                steered.moving.release()
            if steered is not self.run:
                return
            if steered.history is not read and not was_newest:
                self.use(PastRun(read, steered.which), here[0])
                self._look(*here)
                self.newer = steered
            elif came and was_newest:
                self.to_head()

    def live(self) -> None:
        """To where the engine stands."""
        if self.newer is not None and isinstance(self.run, PastRun):
            self.run, self.newer = self.newer, None
            self._watch()
        self.refresh()
        self.to_head()

    def _is_end_of_step(self) -> bool:
        return self.at is None or self.at >= len(self.history.events(self.step))

    def _look(self, step: int, at: int | None = None) -> None:
        """At the first ``at`` events of a step; at all of a whole one, if these are all."""
        told = len(self.history.events(step))
        self.step, self.at = step, None if at is None or at >= told else at

    # --- moving on -------------------------------------------------------------------------------

    def forward(self, n: int) -> int:
        """``n`` steps, the rest of one that one stands in being the first; the engine runs where
        there is none yet. Returns how many."""
        moved = 0
        self.interrupted = False
        while moved < n and not self.interrupted:
            if not self._is_end_of_step() and self.step <= self.history.last:
                self._look(self.step)
            elif self.step < self.history.last:
                self._look(self.step + 1)
            elif self.step < self.history.head and self.history.has_begun:
                self.to_head()  # the step in which the engine is held
            elif self.steered is None:
                break
            elif self.steered.step():
                if self.steered.held_by_code:
                    self.to_head()
                    n = moved  # as at a break
                else:
                    self.to_head_of_steps()
            elif self.step < self.history.head:
                self.to_head()  # nothing runs; what was applied since the last step is there
            else:
                break
            moved += 1
            self.on_step()
        return moved

    def to_head_of_steps(self) -> None:
        """The newest whole step: inputs that have come since belong to the next one."""
        self._look(self.history.last)

    def event(self, n: int) -> int:
        """``n`` events on, or back where it is negative."""
        moved = 0
        self.interrupted = False
        while moved < abs(n) and not self.interrupted:
            if not (self._event_on() if n > 0 else self._event_back()):
                break
            moved += 1
            if self.is_held_by_code:
                break
        return moved

    def _event_on(self) -> bool:
        found = next(self.places_from_here(), None)
        if found is not None:
            self._look(*found[:2])
            return True
        if self.steered is None or not self.steered.event():
            return False
        self.to_head()
        return True

    def _event_back(self) -> bool:
        events = self.history.events(self.step)
        seen = len(events) if self.at is None else self.at
        told = [i for i, event in enumerate(events[:seen]) if event.kind not in _QUIET]
        if len(told) > 1:
            self.at = told[-2] + 1
            return True
        if self.step == self.history.first:
            return False
        self._look(self.step - 1)
        return True

    def phase(self, n: int) -> int:
        """To where the next phase begins: ``execute``, ``update``, or the end of the step."""
        moved = 0
        self.interrupted = False
        while moved < n and not self.interrupted:
            if self.is_newest:
                if self.steered is None or not self.steered.phase():
                    break
                self.to_head()
                if self.steered.held_by_code:
                    n = moved
            else:
                self._phase_on()
            moved += 1
        return moved

    def _phase_on(self) -> None:
        step, at = self.step, self.at
        if self._is_end_of_step():
            step, at = step + 1, 0
        events = self.history.events(step)
        phases = [(i, event.phase) for i, event in enumerate(events) if event.kind not in _QUIET]
        coming = [phase for i, phase in phases if i >= (at or 0)]
        now = coming[0] if coming else ""
        now = "schedule" if now == "input" else now
        later = (i for i, phase in phases if i >= (at or 0) and phase not in (now, "input"))
        self._look(step, next(later, None))

    def places_from_here(self) -> Any:
        """(step, at, event) of each event that is known behind this place, in order."""
        step, at = self.step, self.at
        history = self.history
        seen = len(history.events(step)) if at is None else at
        while step <= history.head:
            for i, event in enumerate(history.events(step)):
                if i >= seen and event.kind not in _QUIET:
                    yield step, i + 1, event
            step, seen = step + 1, 0

    # --- until and breaks ------------------------------------------------------------------------

    def add_break(self, goal: Until) -> int:
        """Returns its number."""
        self.num_breaks += 1
        stays = parse(goal.words, stays=True) if goal.words else goal
        self.breaks[self.num_breaks] = stays
        return self.num_breaks

    def until(self, goal: Until | None) -> tuple[bool, int | None]:
        """On to the event that ``goal`` names, or to a break, or (None) to breaks alone. Returns
        whether the goal was reached, and the number of the break that was."""
        self.interrupted = False
        tests: dict[int, Test] = {number: one.matches for number, one in self.breaks.items()}
        if goal is not None:
            tests[0] = goal.matches
        places = self.history.places
        for step, at, event in self.places_from_here():
            hit = [n for n, test in tests.items() if test(event, places.get(event.src, NOWHERE))]
            if hit:
                self._look(step, at)
                return 0 in hit, next((n for n in hit if n), None)
        self.to_head()
        if self.steered is None:
            return False, None
        where = _any_of(goal, self.breaks, self.begun)
        if not where:
            self.steered.go()
            self.to_head()
            return False, None
        here, seq = self.history.head, self.history.seq
        came = self.steered.until(where)
        self.to_head()
        if not came:
            return False, None
        places = self.history.places
        self.step, self.at = max(here, self.history.first), 0
        for step, at, event in self.places_from_here():
            place = places.get(event.src, NOWHERE)
            hit = [n for n, test in tests.items() if event.seq > seq and test(event, place)]
            if hit:
                self._look(step, at)
                return 0 in hit, next((n for n in hit if n), None)
        self.to_head()  # held by somebody else's wish: a breakpoint in the engine's code, say
        return False, None

    def knows(self, goal: Until) -> bool:
        """Does it come in what is known already behind this place?"""
        places = self.history.places
        return any(
            goal.matches(event, places.get(event.src, NOWHERE))
            for _, _, event in self.places_from_here()
        )

    # --- forks -----------------------------------------------------------------------------------

    def fork(self, knobs: dict[str, Any]) -> int:
        """From the place that is looked at: the step after it is the first that may differ.
        Returns that step."""
        at_step = self.step + 1 if self._is_end_of_step() and self.view.whole else self.step
        run = fork_run(self.run, max(at_step, 1), knobs)
        self.originals.append((self.run, self.step, self.at))
        self.use(run, 0)
        self._look(min(at_step - 1, self.history.head))
        return max(at_step, 1)

    def leave_fork(self) -> None:
        run, step, at = self.originals.pop()
        self.run.close()
        self.use(run, step)
        self.at = at


def _any_of(goal: Until | None, breaks: dict[int, Until], step: int) -> Until | str:
    """One goal out of several, when that step has begun; in words, if all have words, so that it
    can travel. Empty where none is left."""
    each = [*([goal] if goal is not None else []), *breaks.values()]
    if all(one.words for one in each):
        return " or ".join(filter(None, (ahead(one.words, step) for one in each)))
    return Until("", lambda event, place: any(one.matches(event, place) for one in each))
