"""The full screen: keys, layout, and the prompt in the last line.

prompt_toolkit owns the keys and the terminal's state (it restores that however the program
leaves); what stands on it is ``screen.py``'s.
"""

from __future__ import annotations

import contextlib
import re

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Float, FloatContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput

from minivllm.models.source import cache_dir
from minivllm.terminal.completion import VerbCompleter
from minivllm.terminal.screen import PROMPT_LINES, Screen
from minivllm.terminal.session import Session


def run_screen(session: Session) -> int:
    """Show the session until it is left; the exit status (130 after Ctrl-C)."""
    screen = Screen(session)

    def accept(buffer: Buffer) -> bool:
        screen.lines.put_nowait(buffer.text)
        return False  # the line is cleared, and kept in the history

    buffer = Buffer(
        completer=VerbCompleter(session),
        history=history_of_lines(),
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
        return screen.draw(width, max(height - PROMPT_LINES, 1))

    prompt = Window(
        BufferControl(buffer, input_processors=[BeforeInput(lambda: screen.prompt, style="bold")]),
        height=1,
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
        """Stop what runs; else clear what is typed; else take a question back; else leave."""
        if screen.busy:
            screen.session.interrupt()
        elif buffer.text:
            buffer.reset()
        elif screen.question is not None:
            screen.lines.put_nowait("")
        else:
            event.app.exit(result=130)

    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        """From outside (``kill -INT``): no key sends it here. Leave, whatever runs."""
        screen.session.interrupt()
        event.app.exit(result=130)

    @keys.add("c-d")
    def _(event: KeyPressEvent) -> None:
        if not buffer.text:
            event.app.exit(result=screen.status)

    @keys.add("escape", eager=True)
    def _(event: KeyPressEvent) -> None:
        screen.answer = []

    @keys.add(Keys.BracketedPaste)
    def _(event: KeyPressEvent) -> None:
        """Each pasted line is as one that was typed; the last waits for its Enter."""
        first, *more = re.split(r"\r\n|\r|\n", event.data)
        buffer.insert_text(first)
        for line in more:
            if buffer.text.strip():
                buffer.validate_and_handle()
            buffer.insert_text(line)

    @keys.add("pageup")
    def _(event: KeyPressEvent) -> None:
        screen.scrolled = max(screen.scrolled - 5, 0)

    @keys.add("pagedown")
    def _(event: KeyPressEvent) -> None:
        screen.scrolled += 5

    return keys


def history_of_lines() -> History:
    """Kept with the cached models; where that cannot be written, for this run only."""
    with contextlib.suppress(OSError):
        path = cache_dir() / "step_history"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        return FileHistory(str(path))
    return InMemoryHistory()
