"""The verbs that ask why and where, and what is different.

Each answers with lines for a reader and with data for a program, from the fold and the events.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from minivllm.terminal.answers import (
    answer_lines,
    event_line,
)
from minivllm.terminal.arrays import decisive, held_lines, local_lines, source_lines
from minivllm.terminal.board import board as draw_board
from minivllm.terminal.cells import hue
from minivllm.terminal.history import UNTOLD
from minivllm.terminal.naming import block_named, no_more, number, request_named
from minivllm.terminal.reply import Reply, VerbError
from minivllm.terminal.session import Session
from minivllm.terminal.text import clean, within
from minivllm.trace.answer import Answer
from minivllm.trace.events import KINDS, Event
from minivllm.trace.state_diff import state_diff
from minivllm.trace.why import why_block, why_budget, why_request, why_step

ANSWER_WIDTH = 100
"""Answers are not wrapped wider than this: long lines read badly."""
PLAIN_HEIGHT = 24
"""Lines of a board that is printed, not shown on a screen."""

# --- why, and where ------------------------------------------------------------------------------


def why(session: Session, words: list[str]) -> Reply:
    view = session.view
    state, step, record = view.state, view.step, view.record
    no_more(words, "why", "one of r4, block 6 or budget", 2 if words[:1] == ["block"] else 1)
    if not words:
        answers = why_step(record, state, step)
    elif words[0] == "budget":
        answers = [why_budget(record, state, step)]
    elif words[0] == "block" or words[0].isdigit():
        block_id = block_named(session, words[1:] if words[0] == "block" else words, "why block")
        answers = [why_block(record, state, step, block_id)]
    else:
        answers = [why_request(record, state, step, request_named(session, words, "why"))]
    width = min(session.width, ANSWER_WIDTH)
    lines = [line for answer in answers for line in answer_lines(answer, step, width)]
    return Reply(lines, [_plain(answer) for answer in answers], title=f"why, step {step}")


def _plain(answer: Answer) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(answer)
    return plain


def where(session: Session, words: list[str]) -> Reply:
    view = session.view
    code = view.code if not words else None
    event = view.event if view.event is not None and not words else decisive(_named(session, words))
    if event is None:
        raise VerbError("the trace does not tell which source lines its events come from")
    sources = session.history.sources
    lines = source_lines(event, view.events, sources, session.width)
    source = sources.get(event.src)
    data: dict[str, Any] = {"event": msgspec.to_builtins(event)}
    if source is not None:
        data |= {"file": source.file, "line": source.line, "function": source.function}
        data["text"] = source.text
    if code is not None:
        names = Text(f"locals: {', '.join(code.locals) or 'none'}", style="dim")
        lines = [*held_lines(code, session.width), names, Text(), *lines]
        data |= msgspec.to_builtins(code)
    return Reply(lines, data, title=f"the source of step {view.step}")


def locals_(session: Session, words: list[str]) -> Reply:
    """Of the frame that has called set_trace, as they were then."""
    code = session.held_code
    if code is None:
        told = "no code holds the engine here; set_trace() in a scheduler of your own does"
        return Reply([Text(told)], {}, title="locals")
    if words and words[0] not in code.locals:
        raise VerbError(f"locals {clean(words[0])}: there are: {', '.join(code.locals) or 'none'}")
    chosen = {name: code.locals[name] for name in words or code.locals}
    lines = local_lines(chosen)
    shown = within(lines, session.width) if not words else lines
    return Reply(shown or [Text("there are none")], chosen, title=f"the locals of {code.place}")


def events(session: Session, words: list[str]) -> Reply:
    """Only those whose kind, group or request is named, if one is."""
    known = {*KINDS, *(kind.split(".")[0] for kind in KINDS), *session.view.state.requests}
    try:
        named = _named(session, words)
    except VerbError as error:
        if words and not set(words) <= known:
            raise
        return Reply([Text(str(error), style="dim")], [])
    lines = [event_line(e, hue(session.view, e.req) if e.req else None) for e in named]
    return Reply(lines, msgspec.to_builtins(named), title=f"the events of step {session.step}")


def _named(session: Session, words: list[str]) -> list[Event]:
    """The step's events of that kind, group or request. Raises VerbError if there is none."""
    told = [event for event in session.view.events if event.kind not in UNTOLD]
    names = [{e.kind, e.kind.split(".")[0], str(e.req)} for e in told]
    named = [e for e, of in zip(told, names, strict=True) if not words or of & set(words)]
    if not named or set(words) - set().union(*names):
        kinds = sorted({e.kind for e in told})
        raise VerbError(
            f"no such event in step {session.step}; there are: {', '.join(kinds) or 'none'}"
        )
    return named


# --- the whole -----------------------------------------------------------------------------------


def diff(session: Session, words: list[str]) -> Reply:
    """What is different between two steps of this run; with one step, between it and this place."""
    history = session.history
    steps = [number([word], "diff", history.first, history.head) for word in words[:2]]
    if not steps or len(words) > 2:
        raise VerbError(f"diff: takes one or two steps, {history.first} to {history.head}")
    a = history.view(steps[0]).state
    b = history.view(steps[1]).state if len(steps) > 1 else session.view.state
    end = steps[1] if len(steps) > 1 else session.step
    changes = state_diff(a, b)
    lines: list[Text] = []
    for change in changes:
        line = Text().append(f"{change.subject:<10} ", style="bold")
        lines.append(line.append(clean(change.words)))
    title = f"from step {steps[0]} to step {end}"
    nothing = [Text("nothing is different")]
    return Reply(lines or nothing, msgspec.to_builtins(changes), title=title)


def board(session: Session, words: list[str]) -> Reply:
    lines = draw_board(session.view, session.width, PLAIN_HEIGHT, zoom=session.zoom)
    return Reply(lines, msgspec.to_builtins(session.view.state))
