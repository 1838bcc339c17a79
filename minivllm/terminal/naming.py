"""What the arguments of verbs name, at the place that is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.terminal.cells import marks_of
from minivllm.terminal.moves import number
from minivllm.terminal.scene import Scene
from minivllm.terminal.session import Session, VerbError
from minivllm.terminal.text import clean


def request_named(session: Session, words: Sequence[str], verb: str) -> str:
    name = words[0] if words else ""
    known = session.view.state.requests
    if name in known:
        return name
    there = ", ".join(list(known)[:12]) if known else "none yet"
    what = f"{verb} {clean(name)}: no such request" if name else f"{verb}: which request?"
    raise VerbError(f"{what} at step {session.step}; there are: {there}")


def block_named(session: Session, words: list[str], verb: str) -> int:
    last = max(len(session.view.state.blocks) - 1, 0)
    return number(words, verb, 0, last)


def scene_of(session: Session) -> Scene:
    return Scene(session.view, marks_of(session.view.events))
