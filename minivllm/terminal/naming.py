"""What the arguments of verbs name, at the place that is looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence

from minivllm.terminal.cells import marks_of
from minivllm.terminal.reply import VerbError
from minivllm.terminal.scene import Scene
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean


def number(words: list[str], verb: str, low: int, high: int, default: int | None = None) -> int:
    """The one number a verb takes."""
    if not words and default is not None:
        return default
    given = " ".join(words)
    if len(words) != 1 or not re.fullmatch(r"-?[0-9]{1,9}", given) or not low <= int(given) <= high:
        raise VerbError(
            f"{verb} {clean(given)}: takes one number, {low} to {high}".replace(" :", ":")
        )
    return int(given)


def no_more(words: Sequence[str], verb: str, takes: str, most: int) -> None:
    """Words that a verb would pass over are refused: they were meant to say something."""
    if len(words) > most:
        raise VerbError(f"{verb} {clean(' '.join(words))}: {verb} takes {takes or 'nothing'}")


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
