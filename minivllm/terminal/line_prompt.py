"""The debugger as lines, in the manner of pdb: a prompt, and each answer below it.

For where the screen belongs to somebody else, ``minivllm.debug.set_trace`` in a program that
prints, and where there is none: a terminal that takes no control codes (``TERM=dumb``).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.utils import is_dumb_terminal
from rich.console import Console
from rich.text import Text

from minivllm.terminal.completion import VerbCompleter
from minivllm.terminal.moves import moved
from minivllm.terminal.prompt import history_of_lines
from minivllm.terminal.reply import Question, told
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean

PROMPT = "(minivllm) "


def run_lines(session: Session, *, ends_with_engine: bool = True) -> bool:
    """True: it was quit; False: the engine has nothing left to run (unless that is no end)."""
    console = Console(highlight=False)
    ask = input if is_dumb_terminal() else _prompt_of(session)
    _print(console, moved(session).lines)
    question: Question | None = None
    while True:
        session.width = console.width
        prompt = PROMPT if question is None else " or ".join(question.answers) + "? "
        try:
            line = ask(prompt)
        except KeyboardInterrupt:  # clears the line, and takes a question back
            question = None
            console.print()
            continue
        except EOFError:
            return True
        lines = [one for one in line.splitlines() if one.strip()] or [""]  # several: pasted
        if question is not None:
            given, answers = line.strip().lower(), question.answers
            lines = next((then for w, then in answers.items() if given and w.startswith(given)), [])
            question = None
        for one in lines:
            try:
                with _ctrl_c_stops(session):
                    reply = session.execute(one)
            except Exception as error:  # the debugger outlives what it looks at
                _print(console, [Text(clean(told(error)), style="bold")])
                break
            _print(console, reply.lines)
            question = reply.question
            if question is not None:
                _print(console, [Text(question.words, style="bold")])
            if reply.quit:
                return True
        if ends_with_engine and _is_over(session):
            _print(console, [Text("nothing is left to run: the debugger ends", style="dim")])
            return False


def _prompt_of(session: Session) -> Callable[[str], str]:
    """With history and completion."""
    asked: PromptSession[str] = PromptSession(
        completer=VerbCompleter(session),
        history=history_of_lines(),
        complete_while_typing=False,
        key_bindings=KeyBindings(),
    )
    return asked.prompt


def _is_over(session: Session) -> bool:
    steered = session.steered
    return steered is not None and not steered.can_move and not session.originals


@contextlib.contextmanager
def _ctrl_c_stops(session: Session) -> Iterator[None]:
    """What runs, not the debugger. Where this is not the main thread, Ctrl-C is the program's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: session.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _print(console: Console, lines: list[Text]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)
