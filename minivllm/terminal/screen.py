"""What the full screen shows: the board, an answer or what is pinned below it, a message.

What is typed is worked off in order on a thread, so that a live engine's step never blocks the keys
and Ctrl-C reaches a long ``next``; rich draws.
"""

from __future__ import annotations

import asyncio
import contextlib
import io

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import ANSI, AnyFormattedText
from rich.console import Console
from rich.text import Text

from minivllm.errors import MiniVLLMError
from minivllm.terminal.board import MIN_HEIGHT, board
from minivllm.terminal.history import View
from minivllm.terminal.reply import Question, Reply
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean, fit

PROMPT = "step> "
HINT = "Enter next · b back · e event · until preempt · why r4 · pin tables · ? help"
PROMPT_LINES = 2
"""The message and the prompt."""
PINNED_LINES = 10
"""For what is pinned, where the screen is no higher than usual; of a higher one a quarter."""
KEPT_LINES = 5
"""Of the board, the head: an answer never covers the headline."""
LOOK_S = 0.25
"""How often to look whether an engine that others use, too, has told something."""


class Screen:
    """The state of what is drawn around a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.message = Text(HINT, style="dim")
        self.answer: list[Text] = []
        self.answer_title = ""
        self.question: Question | None = None
        self._told = ""  # the news that was told last
        self._pinned_lines: tuple[list[Text], str] = [], ""
        self._pinned_for: tuple[View, int] | None = None
        self._pinned_room = 0
        self._pinned_size: tuple[str, int, int] | None = None
        self.scrolled = 0
        self.status = 0
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.busy = False
        self._console = Console()  # knows what colours this terminal has, and NO_COLOR

    # --- what was typed --------------------------------------------------------------------------

    async def work(self, app: Application[int]) -> None:
        """Work off what was typed, one line after the other."""
        while True:
            line = await self._next_line(app)
            self.busy = True
            app.invalidate()
            leave = await asyncio.to_thread(self.execute, line)
            self.busy = False
            if leave:
                app.exit(result=self.status)
                return
            app.invalidate()

    async def _next_line(self, app: Application[int]) -> str:
        """What is typed next; meanwhile what the engine tells by itself is shown."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(self.lines.get(), LOOK_S)
            steered = self.session.steered or self.session.newer
            if steered is None:
                continue
            seq = self.session.history.seq
            try:
                await asyncio.to_thread(self.session.refresh)
            except MiniVLLMError as error:
                self._tell(str(error))
            if self._tell_news(steered.news) or self.session.history.seq != seq:
                app.invalidate()

    def _tell_news(self, news: str) -> bool:
        """Once, and not over the words of a question."""
        if not news or news == self._told or self.question is not None:
            return False
        self._told = news
        self._tell(f"{news}; live shows it" if self.session.newer is not None else news)
        return True

    def _tell(self, words: str) -> None:
        if words:
            self.message = Text(clean(words).replace("⏎", " "), style="bold")

    def execute(self, line: str) -> bool:
        """True: leave."""
        if self.question is not None:
            return self._answered(line)
        self.answer, self.scrolled, self._pinned_for = [], 0, None
        self.message = Text(HINT, style="dim")
        try:
            reply = self.session.execute(line)
        except MiniVLLMError as error:
            self._tell(str(error))
            return False
        except Exception as error:  # the debugger outlives what it looks at
            self._tell(f"{type(error).__name__}: {error}")
            return False
        if reply.question is not None:
            self.question = reply.question
            self._tell(reply.question.words)
        elif reply.message is not None:
            self.message = reply.message
        elif _is_message(reply):
            self.message = reply.lines[0]
        elif not reply.moved:
            self.answer, self.answer_title = reply.lines, reply.title
        return reply.quit

    def _answered(self, line: str) -> bool:
        """The answer to a question: a word, or its first letter; anything else takes it back."""
        assert self.question is not None
        question, self.question = self.question, None
        given = line.strip().lower()
        for word, then in question.answers.items():
            if given and word.startswith(given):
                leave = [self.execute(one) for one in then]
                return any(leave)
        self.message = Text("nothing was done", style="bold")
        return False

    @property
    def prompt(self) -> str:
        return PROMPT if self.question is None else " or ".join(self.question.answers) + "? "

    # --- drawing ---------------------------------------------------------------------------------

    def draw(self, width: int, height: int) -> AnyFormattedText:
        session = self.session
        session.width = width
        with session.history.lock:
            pinned = [] if self.answer else self._pinned(width, height)
            view, room = session.view, height - len(pinned)
            below = len(pinned) + PROMPT_LINES
            label = session.run.label
            lines = board(view, width, room, zoom=session.zoom, label=label, below=below)
        lines += pinned
        room = height - KEPT_LINES - 1
        if self.answer and room > 0:
            self.scrolled = max(min(self.scrolled, len(self.answer) - room), 0)
            shown = self.answer[self.scrolled : self.scrolled + room]
            more = "PageUp and PageDown scroll · " if len(self.answer) > room else ""
            over = [_rule(f"{self.answer_title} ── {more}Esc closes", width)]
            over += [fit(line, width) for line in shown]
            lines[height - len(over) :] = over
        return self._ansi(lines)

    def _pinned(self, width: int, height: int) -> list[Text]:
        """The answer to what is pinned, below the board: as many lines as it has needed so far, so
        that it does not go up and down from step to step."""
        pinned, room = self.session.pinned, max(PINNED_LINES, height // 4)
        if not pinned or height - room < MIN_HEIGHT:
            return []
        view = self.session.view
        here = (view, width)  # a view is another one whenever anything has changed
        if self._pinned_for is None or self._pinned_for[0] is not view or self._pinned_for != here:
            try:
                reply = self.session.execute(pinned)
                self._pinned_lines = reply.lines, reply.title or pinned
            except MiniVLLMError as error:
                self._pinned_lines = [Text(clean(str(error)), style="dim")], pinned
            self._pinned_for = here
        lines, title = self._pinned_lines
        if self._pinned_size != (pinned, width, height):
            self._pinned_room, self._pinned_size = 0, (pinned, width, height)
        self._pinned_room = max(self._pinned_room, min(len(lines), room - 1))
        shown = _around_here(lines, self._pinned_room, pinned)
        shown = [*shown, *[Text()] * (self._pinned_room - len(shown))]
        return [_rule(f"pinned: {title}", width), *(fit(line, width) for line in shown)]

    def draw_message(self, width: int) -> AnyFormattedText:
        message = Text("running …", style="bold") if self.busy else self.message
        return self._ansi([fit(message, width)])

    def _ansi(self, lines: list[Text]) -> AnyFormattedText:
        out = io.StringIO()
        console = Console(
            file=out,
            force_terminal=True,
            color_system=self._console.color_system,  # type: ignore[arg-type]
            no_color=self._console.no_color,
            width=10_000,  # each line fits already
        )
        console.print(Text("\n").join(lines), end="")
        return ANSI(out.getvalue())


def _rule(words: str, width: int) -> Text:
    rule = Text(f"── {words} ")
    return fit(rule.append("─" * max(width - rule.cell_len, 0)), width)


def _around_here(lines: list[Text], room: int, line: str) -> list[Text]:
    """The head of an answer and what stands around its ▸, where it is longer than the room."""
    if len(lines) <= room:
        return lines
    here = next((i for i, line in enumerate(lines) if line.plain.startswith("▸")), 0)
    first = min(max(here - (room - 2) // 2, 1), len(lines) - (room - 2))
    more = Text(f"… {len(lines) - room + 1} lines more: type {line}", style="dim")
    return [lines[0], *lines[first : first + room - 2], more]


def _is_message(reply: Reply) -> bool:
    """Is its first line for the message line, as the place on the board tells the rest?"""
    if not reply.lines:
        return False
    if reply.moved:
        return reply.reached is False or reply.lines[0].plain.startswith("break ")
    return len(reply.lines) == 1 and not reply.title
