"""The batch and the source as lines: what ``tensors`` and ``where`` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from minivllm.terminal.text import clean, tail
from minivllm.trace.batch import Batch
from minivllm.trace.code import HeldCode
from minivllm.trace.events import Event, RunSource
from minivllm.trace.source_map import SourceLine, source_map

AROUND = 6
"""Source lines shown before and after the one that is lit."""
MAX_CELL = 12
DECISIVE = (
    "trace.violation",
    "sched.victim",
    "req.error",
    "req.abort",
    "sched.skip",
    "req.resume",
    "req.admit",
    "req.finish",
    "sched.chunk",
    "sched.grant",
)
"""What of a step is told first; ``decisive`` in viz/static/core/why.js."""


def batch_lines(batch: Batch, block_size: int, width: int) -> list[Text]:
    """Request by request: its row of the block table, and under it its tokens."""
    lines: list[Text] = []
    for i, req in enumerate(batch.requests):
        first, last = batch.query_start_loc[i], batch.query_start_loc[i + 1]
        table = " ".join(map(str, batch.block_table[i]))
        head = f"{batch.why[i]}  query_start_loc {first} … {last}  seq_len {batch.seq_lens[i]}"
        line = Text().append(f"{req}  ", style="bold").append(head)
        lines.append(line)
        lines.append(Text(f"    block_table   {tail(table, max(width - 18, 8))}", style="dim"))
        lines += _columns(batch, range(first, last), block_size, width)
    if batch.padding:
        lines.append(Text(f"and {batch.padding} of padding: token 0, position 0, slot -1"))
    return lines


def _columns(batch: Batch, tokens: range, block_size: int, width: int) -> list[Text]:
    names = ("text", "input_ids", "positions", "slot_mapping", "block:offset")
    rows: list[list[str]] = [[] for _ in names]
    room = width - 18
    for done, i in enumerate(tokens):
        slot = batch.slot_mapping[i]
        cells = [
            clean(batch.texts[i]).strip()[:MAX_CELL] or "·",
            str(batch.input_ids[i]),
            str(batch.positions[i]),
            str(slot),
            f"{slot // block_size}:{slot % block_size}",
        ]
        cell = max(map(len, cells)) + 1
        if room < cell + 10 and done < len(tokens) - 1:
            rows[0].append(f" … {len(tokens) - done} more")
            break
        room -= cell
        for row, text in zip(rows, cells, strict=True):
            row.append(text.rjust(cell))
    return [
        Text().append(f"    {name:<13}", style="dim").append("".join(row))
        for name, row in zip(names, rows, strict=True)
    ]


def decisive(events: Sequence[Event]) -> Event | None:
    """The event of a step whose source one would want to see first."""
    for kind in DECISIVE:
        for event in events:
            if event.kind == kind and event.src:
                return event
    return next((e for e in reversed(events) if e.src and e.kind != "run.source"), None)


def source_lines(
    event: Event,
    events: Sequence[Event],
    sources: Mapping[int, RunSource],
    width: int,
    around: int = AROUND,
) -> list[Text]:
    """The function that emitted ``event``, ▸ at its line, beside each line its hits in the step."""
    source = sources.get(event.src)
    if source is None:
        return [Text(f"the trace does not tell the source of {event.kind}")]
    told = (e for e in events if e.kind != "run.source")
    for function in source_map(sources, told):
        numbers = [line.number for line in function.lines]
        if function.file == source.file and source.line in numbers:
            break
    else:
        return [Text(f"{source.file}:{source.line} {source.function}: its text was not kept")]
    head = f"{source.file}:{source.line} {source.function}, {event.kind}"
    head += f" {event.req}" if event.req else ""
    return [Text(head, style="bold"), *_around(function.lines, source.line, width, around)]


def held_lines(code: HeldCode, width: int, around: int = AROUND) -> list[Text]:
    """The function whose code has asked for the engine to be held, ▸ at that line."""
    text = enumerate(code.text.splitlines(), start=code.first_line)
    lines = [SourceLine(number, line, 0) for number, line in text]
    head = Text(f"{clean(code.place)}, where the code asked to be held", style="bold")
    return [head, *_around(lines, code.line, width, around)]


def local_lines(values: Mapping[str, str]) -> list[Text]:
    longest = max((len(name) for name in values), default=0)
    return [
        Text().append(f"{name:<{longest}}  ", style="bold").append(clean(value))
        for name, value in values.items()
    ]


def _around(function: Sequence[SourceLine], at: int, width: int, around: int) -> list[Text]:
    lines: list[Text] = []
    shown = [line for line in function if abs(line.number - at) <= around]
    indents = [len(line.text) - len(line.text.lstrip()) for line in shown if line.text.strip()]
    cut = min(indents, default=0)
    for line in shown:
        here = line.number == at
        hits = f"{line.hits}×" if line.hits else ""
        text = f"{'▸' if here else ' '} {hits:>4} {line.number:>5}  {clean(line.text[cut:])}"
        lines.append(Text(text[:width], style="bold" if here else ""))
    return lines
