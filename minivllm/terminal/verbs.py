"""The verbs: what can be typed, in the manner of pdb, and what each answers.

A verb changes the step that is looked at, or answers with lines; it never draws the board. The
same verbs serve the full screen, ``-c "goto 8; why r4"`` and the tests. What is typed wrongly
raises :class:`VerbError`: one line that says what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.text import Text

from minivllm.errors import MiniVLLMError
from minivllm.terminal.answers import (
    answer_lines,
    block_lines,
    event_line,
    life_lines,
    way_lines,
)
from minivllm.terminal.arrays import batch_lines, decisive, source_lines
from minivllm.terminal.board import board
from minivllm.terminal.cells import LEGEND, hue
from minivllm.terminal.history import UNTOLD, View
from minivllm.terminal.runs import Run
from minivllm.terminal.text import clean
from minivllm.trace.batch import batch_of
from minivllm.trace.events import Event
from minivllm.trace.lives import block_life, request_life
from minivllm.trace.why import why_block, why_budget, why_request, why_step

ANSWER_WIDTH = 100
"""Answers are not wrapped wider than this: long lines read badly."""
MAX_STEP = 100_000
PLAIN_HEIGHT = 24
"""Lines of a board that is printed, not shown on a screen."""


class VerbError(MiniVLLMError, ValueError):
    """What was typed is no verb, or its argument does not fit; the message says what does."""


@dataclass
class Reply:
    """What a verb answers."""

    lines: list[Text] = field(default_factory=list)
    title: str = ""
    moved: bool = False
    """The step on the screen has changed."""
    quit: bool = False


class Session:
    """A run, and the step of it that is looked at."""

    def __init__(self, run: Run, width: int = 80) -> None:
        self.run = run
        self.history = run.history
        self.step = self.history.first
        self.width = width
        """Of the screen, in cells; who draws keeps it up to date."""
        self.interrupted = False
        """Set by Ctrl-C: a ``next`` of many steps stops after the one that runs."""
        self.on_step: Callable[[], None] = lambda: None
        """Called after each step of a ``next`` of many: whoever draws may show it."""
        self._view: View | None = None

    @property
    def view(self) -> View:
        now = (self.step, self.history.last, self.history.ended)
        shown = self._view
        if shown is None or (shown.step, shown.last, shown.ended) != now:
            shown = self._view = self.history.view(self.step)
        return shown

    def execute(self, line: str) -> Reply:
        """One line; empty means ``next``. Raises VerbError, and whatever a live step raises."""
        words = line.split() or ["next"]
        verb = ALIASES.get(words[0].lower(), words[0].lower())
        if verb not in VERBS:
            near = difflib.get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise VerbError(f"{clean(words[0])!r} is no verb; {hint}there are: {', '.join(VERBS)}")
        return VERBS[verb].run(self, words[1:])

    def script(self, commands: str) -> list[str]:
        """``goto 8; why r4`` → its lines; empty ones are left out."""
        return [line.strip() for line in re.split(r"[;\n]", commands) if line.strip()]

    # --- moving ----------------------------------------------------------------------------------

    def forward(self, n: int) -> int:
        """Look ``n`` steps further; at the newest one, let the engine run. Returns how many."""
        moved = 0
        self.interrupted = False
        while moved < n and not self.interrupted:
            if self.step == self.history.last and not self._advance():
                break
            self.step = min(self.step + 1, self.history.last)
            moved += 1
            self.on_step()
        return moved

    def _advance(self) -> bool:
        if not self.history.ended:
            self.run.advance()
        return self.step < self.history.last

    def next(self, words: list[str]) -> Reply:
        n = _number(words, "next", 1, MAX_STEP, default=1)
        if not self.forward(n):
            raise VerbError(f"step {self.step} is the last; back and goto look at earlier ones")
        return self._moved()

    def back(self, words: list[str]) -> Reply:
        n = _number(words, "back", 1, MAX_STEP, default=1)
        first = self.history.first
        if self.step == first:
            before = "earlier ones were not kept" if first else "nothing has run yet"
            raise VerbError(f"step {first} is the first: {before}; next goes on")
        self.step = max(self.step - n, first)
        return self._moved()

    def goto(self, words: list[str]) -> Reply:
        if words and words[0].lower() in ("last", "end"):
            self.step = self.history.last
            return self._moved()
        most = self.history.last if self.history.ended else MAX_STEP
        n = _number(words, "goto", self.history.first, most)
        if n > self.history.last:
            here, self.step = self.step, self.history.last
            self.forward(n - self.step)
            if self.step < n:
                self.step = here
                raise VerbError(f"goto {n}: the run ended with step {self.history.last}")
        self.step = n
        return self._moved()

    def _moved(self) -> Reply:
        told = self.view.story
        lines = [
            Text().append(f"{self.step:>4}  ", style="dim").append(clean(told.headline), "bold")
        ]
        if told.also:
            lines.append(Text(f"      also: {told.also}", style="dim"))
        return Reply(lines, moved=True)

    # --- asking ----------------------------------------------------------------------------------

    def why(self, words: list[str]) -> Reply:
        state, step = self.view.state, self.step
        if not words:
            answers = why_step(self.history, state, step)
        elif words[0] == "budget":
            answers = [why_budget(self.history, state, step)]
        elif words[0] == "block" or words[0].isdigit():
            block = self._block(words[1:] if words[0] == "block" else words, "why block")
            answers = [why_block(self.history, state, step, block)]
        else:
            answers = [why_request(self.history, state, step, self._request(words[0], "why"))]
        width = min(self.width, ANSWER_WIDTH)
        lines = [line for answer in answers for line in answer_lines(answer, step, width)]
        return Reply(lines, title=f"why, step {step}")

    def request(self, words: list[str]) -> Reply:
        req = self._request(words[0] if words else "", "request")
        life = request_life(self.history.steps, req)
        lines = life_lines(req, self.view.state.requests[req], life, self.step, self.width)
        lines += way_lines(self.run.way(req))
        return Reply(lines, title=f"the life of {req}")

    def block(self, words: list[str]) -> Reply:
        block = self._block(words, "block")
        state, step = self.view.state, self.step
        now = why_block(self.history, state, step, block).now
        lines = [Text().append(f"block {block}  ", style="bold").append(now)]
        lines += block_lines(block_life(self.history.steps, block), step, self.width)
        return Reply(lines, title=f"the history of block {block}")

    def events(self, words: list[str]) -> Reply:
        """Only those whose kind, group or request is named, if one is."""
        lines = [
            event_line(event, hue(self.view, event.req) if event.req else None)
            for event in self._named(words)
        ]
        return Reply(lines, title=f"the events of step {self.step}")

    def _named(self, words: list[str]) -> list[Event]:
        """The step's events of that kind, group or request. Raises VerbError if there is none."""
        told = [event for event in self.view.events if event.kind not in UNTOLD]
        named = [e for e in told if not words or set(words) & {e.kind, e.kind.split(".")[0], e.req}]
        if not named:
            kinds = sorted({e.kind for e in told})
            raise VerbError(
                f"no such event in step {self.step}; there are: {', '.join(kinds) or 'none'}"
            )
        return named

    def tensors(self, words: list[str]) -> Reply:
        batch = batch_of(self.view.before, self.view.events)
        if batch is None:
            raise VerbError(f"no token ran in step {self.step}: it has no batch")
        size = int((self.view.state.config or {}).get("block_size", 1))
        return Reply(batch_lines(batch, size, self.width), title=f"the batch of step {self.step}")

    def where(self, words: list[str]) -> Reply:
        event = decisive(self._named(words))
        if event is None:
            raise VerbError("the trace does not tell which source lines its events come from")
        lines = source_lines(event, self.view.events, self.history.sources, self.width)
        return Reply(lines, title=f"the source of step {self.step}")

    def board(self, words: list[str]) -> Reply:
        return Reply(board(self.view, self.width, PLAIN_HEIGHT))

    def help(self, words: list[str]) -> Reply:
        if words:
            verb = ALIASES.get(words[0], words[0])
            if verb not in VERBS:
                raise VerbError(f"help {clean(words[0])}: there are {', '.join(VERBS)}")
            described = {verb: VERBS[verb]}
        else:
            described = VERBS
        lines = []
        for name, verb_ in described.items():
            line = Text().append(f"{name + ' ' + verb_.takes:<30}", style="bold")
            lines.append(line.append(verb_.does))
            if words:
                lines.append(Text(f"example: {verb_.example}", style="dim"))
        if not words:
            lines += [Text(line, style="dim") for line in LEGEND]
        return Reply(lines, title="help")

    def quit(self, words: list[str]) -> Reply:
        return Reply(quit=True)

    # --- names -----------------------------------------------------------------------------------

    def _request(self, name: str, verb: str) -> str:
        known = self.view.state.requests
        if name in known:
            return name
        there = ", ".join(list(known)[:12]) if known else "none yet"
        what = f"{verb} {clean(name)}: no such request" if name else f"{verb}: which request?"
        raise VerbError(f"{what} at step {self.step}; there are: {there}")

    def _block(self, words: list[str], verb: str) -> int:
        last = max(len(self.view.state.blocks) - 1, 0)
        return _number(words, verb, 0, last)


@dataclass(frozen=True)
class Verb:
    run: Callable[[Session, list[str]], Reply]
    takes: str
    does: str
    example: str


VERBS = {
    "next": Verb(Session.next, "[N]", "one step further, or N (also: n, Enter)", "next 5"),
    "back": Verb(Session.back, "[N]", "one step back, or N; no engine rewinds (also: b)", "back"),
    "goto": Verb(Session.goto, "STEP|last", "to a step (also: g)", "goto 8"),
    "why": Verb(
        Session.why, "[r4|block 6|budget]", "the reason, with its numbers and source", "why r4"
    ),
    "request": Verb(Session.request, "r4", "its life, step by step (also: r)", "request r4"),
    "block": Verb(Session.block, "6", "its history: taken, hashed, shared, evicted", "block 6"),
    "events": Verb(Session.events, "[KIND|r4]", "the events of this step (also: e)", "events kv"),
    "tensors": Verb(
        Session.tensors, "", "the flat batch: ids, positions, slots, tables (also: t)", "tensors"
    ),
    "where": Verb(
        Session.where, "[KIND|r4]", "the source line that decided (also: s)", "where sched.victim"
    ),
    "board": Verb(Session.board, "", "print the board (for -c and logs)", "board"),
    "help": Verb(Session.help, "[VERB]", "this, or one verb with an example (also: ?)", "help why"),
    "quit": Verb(Session.quit, "", "leave (also: q, Ctrl-D)", "quit"),
}
ALIASES = {
    "n": "next",
    "b": "back",
    "g": "goto",
    "w": "why",
    "r": "request",
    "e": "events",
    "t": "tensors",
    "s": "where",
    "h": "help",
    "?": "help",
    "q": "quit",
    "exit": "quit",
}


def _number(words: list[str], verb: str, low: int, high: int, default: int | None = None) -> int:
    """The one number a verb takes."""
    if not words and default is not None:
        return default
    given = " ".join(words)
    if len(words) != 1 or not re.fullmatch(r"[0-9]{1,9}", given) or not low <= int(given) <= high:
        raise VerbError(
            f"{verb} {clean(given)}: takes one number, {low} to {high}".replace(" :", ":")
        )
    return int(given)
