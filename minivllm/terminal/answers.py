"""Answers as lines: what ``why``, ``request``, ``block`` and ``events`` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.style import Style
from rich.text import Text

from minivllm.terminal.text import clean, tail, wrap
from minivllm.trace.events import Event
from minivllm.trace.fold import RequestState
from minivllm.trace.life import Way, lines_of
from minivllm.trace.lives import BlockEvent, RequestStep
from minivllm.trace.why import Answer
from minivllm.trace.words import count

MAX_LIFE_ROWS = 24
"""A longer life has its stretches of plain decoding folded."""


def answer_lines(answer: Answer, step: int, width: int) -> list[Text]:
    """A Why card: now, why, the enum's word for it, since and next, the source."""
    lines: list[Text] = []
    subject = len(answer.subject) + 2
    for i, line in enumerate(wrap(answer.now, width - subject, 4)):
        head = Text()
        head.append(f"{answer.subject}  " if i == 0 else " " * subject, style="bold")
        lines.append(head.append_text(line))
    for sentence in answer.why:
        lines += [Text("  ").append_text(line) for line in wrap(sentence, width - 2, 6)]
    if answer.reason is not None and answer.meaning is not None:
        meaning = wrap(f"{answer.reason}: {answer.meaning}", width - 2, 3)
        meaning[0].stylize("bold", 0, len(answer.reason))
        lines += [Text("  ").append_text(line) for line in meaning]
    when = []
    if answer.since is not None and answer.since != step:
        when.append(f"since step {answer.since}")
    if answer.next is not None:
        when.append(f"changes in step {answer.next}")
    if answer.source is not None:
        when.append(answer.source)
    if when:
        lines.append(Text("  " + " · ".join(when), style="dim"))
    return lines


def life_lines(
    req: str, request: RequestState, life: Sequence[RequestStep], step: int, width: int
) -> list[Text]:
    """A request step by step; ▸ is the step on the screen."""
    n = request.num_prompt_tokens
    quoted = max((width - 52) // 2, 8)
    prompt = tail(clean("".join(request.texts[:n])), quoted)
    said = tail(clean("".join(request.texts[n:])), quoted)
    state = request.finish_reason or request.status
    head = f'"{prompt}" → "{said}"  {state} · {count(len(request.texts) - n, "token")}'
    if request.num_preemptions:
        head += f" · preempted {_times(request.num_preemptions)}"
    lines = [Text().append(f"{req} ", style="bold").append(head)]
    widest = max((len(_blocks(row)) for row in life), default=0)
    blocks = min(max(widest, 6), max(width // 4, 6))
    columns = f"   step  ran  computed/known  {'blocks':<{blocks}}  what"
    lines.append(Text(columns, style="dim"))
    for row, repeats in _folded(life):
        here = row.step <= step <= row.step + repeats
        steps = f"{row.step}" if not repeats else f"{row.step}–{row.step + repeats}"
        ran = f"{row.ran}" if row.ran else "!" if row.event == "preempt" else "–"
        words = row.words if not repeats else f"{row.ran} token each"
        line = f"{'▸' if here else ' '} {steps:>5} {ran:>4}  {row.computed:>8}/{row.known:<5}  "
        line += f"{tail(_blocks(row), blocks):<{blocks}}  {clean(words)}"
        lines.append(Text(line, style="bold" if here else ""))
    return lines


def way_lines(way: Way | None) -> list[Text]:
    """The hops outside the engine, too, where the trace tells of them."""
    if way is None or all(hop.stream != "api" for hop in way.hops):
        return []
    head, *hops = lines_of(way)
    return [Text(), Text(f"   {clean(head)}", style="dim"), *(Text(clean(hop)) for hop in hops)]


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _blocks(row: RequestStep) -> str:
    return " ".join(map(str, row.table)) or "–"


def _folded(life: Sequence[RequestStep]) -> list[tuple[RequestStep, int]]:
    """(row, how many like it follow): only in a long life, only steps of plain decoding."""
    folded: list[tuple[RequestStep, int]] = []
    for row in life:
        if folded and len(life) > MAX_LIFE_ROWS:
            last, repeats = folded[-1]
            alike = row.event == last.event == "run" and row.ran == last.ran
            if alike and row.step == last.step + repeats + 1:
                folded[-1] = (last, repeats + 1)
                continue
        folded.append((row, 0))
    return folded


def block_lines(life: Sequence[BlockEvent], step: int, width: int) -> list[Text]:
    lines = []
    for entry in life:
        here = entry.event.step == step
        line = f"{'▸' if here else ' '} step {entry.event.step:>3}  {entry.words}"
        lines.append(Text(line, style="bold" if here else ""))
    return lines


def event_line(event: Event, hue: Style | None = None) -> Text:
    """``142 schedule kv.alloc      r4  blocks=[5, 10] logical=1``"""
    line = Text().append(f"{event.seq:>5} {event.phase:<9}", style="dim")
    line.append(f"{event.kind:<16}")
    line.append(f"{event.req or '':<4} ", style=hue or "")
    return line.append(clean(_fields(event.data)), style="dim")


def _fields(data: Any) -> str:
    fields = msgspec.to_builtins(data)
    if not isinstance(fields, dict):
        return str(fields)
    return " ".join(f"{name}={_short(value)}" for name, value in fields.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + _fields(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return str(value)
