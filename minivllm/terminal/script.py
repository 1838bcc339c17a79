"""A script of verbs: their answers as text, or one JSON object a line; for tests and homework.

The status says how it went: 0 well, FAILED where a verb failed (the rest is not carried out),
NOT_REACHED where all were carried out and an ``until`` was not reached.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console

from minivllm.terminal.reply import Reply, VerbError, told
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean

FAILED = 1
NOT_REACHED = 3


def run_script(session: Session, lines: Sequence[str], *, as_json: bool = False) -> int:
    """Carry them out, one after the other. Ctrl-C stops what runs, and ends the script."""
    console = Console(highlight=False)
    session.width = console.width
    status = 0
    for line in lines:
        line = line.encode(errors="replace").decode()  # half a character can be told to nobody
        try:
            reply = session.execute(line)
            if reply.question is not None:
                raise VerbError(_without_asking(line, reply))
        except Exception as error:
            if as_json:
                _write({"command": line, "ok": False, "error": told(error), **_place(session)})
            print(f"minivllm step: {clean(told(error))}", file=sys.stderr)
            return FAILED
        if reply.reached is False:
            status = NOT_REACHED
        if as_json:
            _write(_object(line, reply, session))
        else:
            for text in reply.lines:
                console.print(text, soft_wrap=True)
        if reply.quit:
            break
    return status


def _without_asking(line: str, reply: Reply) -> str:
    assert reply.question is not None
    ways = " or ".join(f'"{"; ".join(then)}"' for then in reply.question.answers.values())
    return f"{line}: {reply.question.words} In a script, write {ways}"


def _object(line: str, reply: Reply, session: Session) -> dict[str, Any]:
    answer: dict[str, Any] = {"command": line, "ok": True}
    if reply.reached is not None:
        answer["reached"] = reply.reached
    return {**answer, **_place(session), "data": reply.data}


def _place(session: Session) -> dict[str, Any]:
    event = session.view.event
    return {"step": session.step, "event": event.seq if event is not None else None}


def _write(answer: dict[str, Any]) -> None:
    print(msgspec.json.encode(answer).decode(), flush=True)
