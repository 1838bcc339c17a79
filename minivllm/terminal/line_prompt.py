"""The debugger as lines, in the manner of pdb: a prompt, and each answer below it.

For where the screen belongs to somebody else: ``minivllm.debug.set_trace`` in a program that prints
and shows its own progress. Ends by itself when the engine has nothing left to run.
"""

from __future__ import annotations

from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings
from rich.console import Console
from rich.text import Text

from minivllm.errors import MiniVLLMError
from minivllm.terminal.completion import VerbCompleter
from minivllm.terminal.moves import moved
from minivllm.terminal.prompt import history_of_lines
from minivllm.terminal.reply import Question
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean

PROMPT = "(minivllm) "


def run_lines(session: Session) -> bool:
    """True: it was quit; False: the engine has nothing left to run."""
    console = Console(highlight=False)
    asked: PromptSession[str] = PromptSession(
        completer=VerbCompleter(session),
        history=history_of_lines(),
        complete_while_typing=False,
        key_bindings=KeyBindings(),
    )
    _print(console, moved(session).lines)
    question: Question | None = None
    while True:
        session.width = console.width
        prompt = PROMPT if question is None else " or ".join(question.answers) + "? "
        try:
            line = asked.prompt(prompt)
        except KeyboardInterrupt:  # clears the line, and takes a question back
            question = None
            continue
        except EOFError:
            return True
        lines = [line]
        if question is not None:
            given, answers = line.strip().lower(), question.answers
            lines = next((then for w, then in answers.items() if given and w.startswith(given)), [])
            question = None
        for one in lines:
            try:
                reply = session.execute(one)
            except MiniVLLMError as error:
                _print(console, [Text(clean(str(error)), style="bold")])
                break
            _print(console, reply.lines)
            question = reply.question
            if question is not None:
                _print(console, [Text(question.words, style="bold")])
            if reply.quit:
                return True
        if session.steered is not None and not session.steered.can_move and not session.originals:
            _print(console, [Text("nothing is left to run: the debugger ends", style="dim")])
            return False


def _print(console: Console, lines: list[Text]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)
