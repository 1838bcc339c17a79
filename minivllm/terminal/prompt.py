"""The full screen: the board, the answer over its lower part, a prompt in the last line.

prompt_toolkit owns the keys and the terminal's state (it restores that however the program
leaves); rich draws. What is typed is worked off in order on a thread, so that a live engine's
step never blocks the keys and Ctrl-C reaches a long ``next``.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterable

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI, AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import Float, FloatContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput
from rich.console import Console
from rich.text import Text

from minivllm.errors import MiniVLLMError
from minivllm.models.source import cache_dir
from minivllm.terminal.board import board
from minivllm.terminal.text import fit
from minivllm.terminal.verbs import ALIASES, VERBS, Session

PROMPT = "step> "
HINT = "Enter next · b back · g 8 goto · why r4 · request r4 · block 6 · ? help"
KEPT_LINES = 5
"""Of the board, the head: an answer never covers the headline."""


class Screen:
    """The state of what is drawn around a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.message = Text(HINT, style="dim")
        self.answer: list[Text] = []
        self.answer_title = ""
        self.scrolled = 0
        self.status = 0
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.busy = False
        self._console = Console()  # knows what colours this terminal has, and NO_COLOR

    # --- what was typed --------------------------------------------------------------------------

    async def work(self, app: Application[int]) -> None:
        """Work off what was typed, one line after the other."""
        while True:
            line = await self.lines.get()
            self.busy = True
            app.invalidate()
            if await asyncio.to_thread(self.execute, line):
                app.exit(result=self.status)
                return
            self.busy = False
            app.invalidate()

    def execute(self, line: str) -> bool:
        """True: leave."""
        self.answer, self.scrolled = [], 0
        self.message = Text(HINT, style="dim")
        try:
            reply = self.session.execute(line)
        except MiniVLLMError as error:
            self.message = Text(str(error).replace("\n", " "), style="bold")
            return False
        if not reply.moved:
            self.answer, self.answer_title = reply.lines, reply.title
        return reply.quit

    # --- drawing ---------------------------------------------------------------------------------

    def draw(self, width: int, height: int) -> AnyFormattedText:
        self.session.width = width
        with self.session.history.lock:
            lines = board(self.session.view, width, height)
        room = height - KEPT_LINES - 1
        if self.answer and room > 0:
            self.scrolled = max(min(self.scrolled, len(self.answer) - room), 0)
            shown = self.answer[self.scrolled : self.scrolled + room]
            more = "PageUp and PageDown scroll · " if len(self.answer) > room else ""
            rule = Text(f"── {self.answer_title} ── {more}Esc closes ")
            rule.append("─" * (width - rule.cell_len))
            over = [fit(line, width) for line in [rule, *shown]]
            lines[height - len(over) :] = over
        return self._ansi(lines)

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


class VerbCompleter(Completer):
    """Verbs first, then what the verb takes."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        words = document.text_before_cursor.split(" ")
        for choice in self._choices(words):
            if choice.startswith(words[-1]):
                yield Completion(choice, start_position=-len(words[-1]))

    def _choices(self, words: list[str]) -> list[str]:
        if len(words) == 1:
            return list(VERBS)
        view, verb = self.session.view, ALIASES.get(words[0], words[0])
        requests = list(view.state.requests)
        if len(words) == 2:
            return {
                "why": [*requests, "block", "budget"],
                "request": requests,
                "events": [*requests, *dict.fromkeys(e.kind for e in view.events)],
                "help": list(VERBS),
                "goto": ["last"],
            }.get(verb, [])
        return []


def run_screen(session: Session) -> int:
    """Show the session until it is left; the exit status (130 after Ctrl-C)."""
    screen = Screen(session)

    def accept(buffer: Buffer) -> bool:
        screen.lines.put_nowait(buffer.text)
        return False  # the line is cleared, and kept in the history

    buffer = Buffer(
        completer=VerbCompleter(session),
        history=_history(),
        accept_handler=accept,
        multiline=False,
    )
    app: Application[int] = Application(
        layout=_layout(screen, buffer),
        key_bindings=_keys(screen, buffer),
        full_screen=True,
    )
    session.on_step = app.invalidate
    return app.run(pre_run=lambda: _start(app, screen))


def _start(app: Application[int], screen: Screen) -> None:
    app.create_background_task(screen.work(app))


def _layout(screen: Screen, buffer: Buffer) -> Layout:
    from prompt_toolkit.application import get_app

    def size() -> tuple[int, int]:
        now = get_app().output.get_size()
        return now.columns, now.rows

    def draw() -> AnyFormattedText:
        width, height = size()
        return screen.draw(width, max(height - 2, 1))

    prompt = Window(
        BufferControl(buffer, input_processors=[BeforeInput(PROMPT, style="bold")]), height=1
    )
    body = HSplit(
        [
            Window(FormattedTextControl(draw), wrap_lines=False),
            Window(FormattedTextControl(lambda: screen.draw_message(size()[0])), height=1),
            prompt,
        ]
    )
    menu = Float(CompletionsMenu(max_height=8), xcursor=True, ycursor=True)
    return Layout(FloatContainer(body, floats=[menu]), focused_element=prompt)


def _keys(screen: Screen, buffer: Buffer) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        """Stop what runs; else clear what is typed; else leave."""
        if screen.busy:
            screen.session.interrupted = True
        elif buffer.text:
            buffer.reset()
        else:
            event.app.exit(result=130)

    @keys.add("c-d")
    def _(event: KeyPressEvent) -> None:
        if not buffer.text:
            event.app.exit(result=screen.status)

    @keys.add("escape", eager=True)
    def _(event: KeyPressEvent) -> None:
        screen.answer = []

    @keys.add("pageup")
    def _(event: KeyPressEvent) -> None:
        screen.scrolled = max(screen.scrolled - 5, 0)

    @keys.add("pagedown")
    def _(event: KeyPressEvent) -> None:
        screen.scrolled += 5

    return keys


def _history() -> History:
    """Kept with the cached models; where that cannot be written, for this run only."""
    with contextlib.suppress(OSError):
        path = cache_dir() / "step_history"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        return FileHistory(str(path))
    return InMemoryHistory()
