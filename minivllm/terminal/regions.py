"""The regions of the board that tell of the step: block tables, budget, events, reasons.

Each is a pure function of a step's view that gives lines of at most the width it was offered, and
at most as many as it was allowed. What does not fit is counted, never dropped in silence. Queues
and running rows stand in ``queues.py``, the pool in ``pool.py``.
"""

from __future__ import annotations

from rich.style import Style
from rich.text import Text

from minivllm.terminal import cells
from minivllm.terminal.answers import answer_lines, event_line
from minivllm.terminal.cells import hue
from minivllm.terminal.history import UNTOLD
from minivllm.terminal.queues import first_of, name_of
from minivllm.terminal.scene import BOLD, DIM, PLAIN, Scene, title
from minivllm.terminal.text import fit
from minivllm.trace.events import GrantWhy, Reason, SchedLedger
from minivllm.trace.why import why_step

MAX_BAR_CELLS = 64
"""Up to so many tokens the budget bar has a cell for each; then it is drawn to scale."""
MAX_DECODES, MIN_DECODES = 12, 1
"""More decodes than this are one segment of the bar; where it would be too long, all are."""
RULES = 12
"""Cells of the bar for the rules between grants, and for what each is rounded up by."""
Segment = tuple[str, int, str, Style]
"""Of the bar: label, tokens, glyphs, style."""


# --- block tables --------------------------------------------------------------------------------


def tables(scene: Scene, width: int, height: int) -> list[Text]:
    """Which physical block each logical one is: those that run first, then who else has any."""
    state = scene.view.state
    size = int((state.config or {}).get("block_size", 1))
    have = [req for req in state.running if state.requests[req].table]
    have += [req for req, r in state.requests.items() if r.table and req not in have]
    lines = [title("BLOCK TABLES", f"logical 0, 1, 2 … → physical; {size} tokens each")]
    for req in first_of(have, height - 1):
        line = name_of(scene, req).append(" ")
        for shown, block_id in enumerate(state.requests[req].table):
            mark = scene.marks.blocks.get(block_id, "")
            shared = f"×{ref}" if (ref := state.blocks[block_id].ref) > 1 else ""
            piece = f"{block_id}{mark}{shared} "
            left = len(state.requests[req].table) - shown
            if line.cell_len + len(piece) + (8 if left > 1 else 0) > width:
                line.append(f"… {left} more", style="dim")
                break
            line.append(piece, style=BOLD if mark else PLAIN)
        lines.append(line)
    if len(have) > height - 1:
        lines.append(Text(f"… {len(have) - (height - 2)} more: type tables", style="dim"))
    return lines if have else [*lines, Text("nobody has a block", style="dim")]


# --- budget --------------------------------------------------------------------------------------


def budget(scene: Scene, width: int) -> list[Text]:
    """Two lines: the bar, cut by request in the order of the grants; who got how much, and why
    the rest is unused. Its scale follows from the width and the budget alone."""
    total = (scene.view.state.config or {}).get("max_num_batched_tokens", 0)
    ledger = next((e.data for e in scene.view.of("sched.ledger")), None)
    if ledger is None:  # no step has run, or this one still hands out
        used = sum(n for _, n in scene.marks.ran.values())
        ledger = SchedLedger(budget=total, used=used, unused_reason=None, rows=[])
    head = title("BUDGET", f"{ledger.used} of {ledger.budget} ")
    scale = _scale(ledger.budget, width - len(f"BUDGET {ledger.budget} of {ledger.budget} "))
    if scale > 1:
        head.append(f"{cells.PROMPT} = {scale}  ", style="dim")
    left = ledger.budget - ledger.used
    unused = cells.UNUSED * (left // scale or min(left, 1))
    segments = _segments(scene, scale)
    bar = _bar(segments, unused)
    if head.cell_len + bar.cell_len > width:
        segments = _segments(scene, scale, MIN_DECODES)
        bar = _bar(segments, unused)
    legend = Text()
    for label, n, _, style in segments:
        legend.append(label, style=style + BOLD).append(f" {n}  ")
    legend.append_text(_unused(scene, left, ledger.unused_reason))
    line = head.append_text(bar)
    return [line if line.cell_len <= width else fit(line, width), legend]


def _scale(budget: int, room: int) -> int:
    """Tokens that are one cell: the whole budget has room, whoever shares it."""
    room = min(room - RULES, MAX_BAR_CELLS)
    scale = max(-(-budget // max(room, 1)), 1)
    if scale > 1:  # that is said, which takes room, too
        scale = -(-budget // max(room - len(f"{cells.PROMPT} = {scale}  "), 1))
    return scale


def _bar(segments: list[Segment], unused: str) -> Text:
    bar = Text()
    for _, _, glyphs, style in segments:
        bar.append(glyphs, style=style).append("│", style="dim")
    return bar.append(unused, style="dim")


def _segments(scene: Scene, scale: int, most_decodes: int = MAX_DECODES) -> list[Segment]:
    """Of each grant; more decodes than those are one."""
    grants = [e for e in scene.view.of("sched.grant") if str(e.req) in scene.marks.ran]
    decodes = [e for e in grants if e.data.why is GrantWhy.DECODE]
    segments: list[Segment] = []
    merged = len(decodes) > most_decodes
    if merged:
        n = max(len(decodes) // scale, 1)
        segments.append((f"decode ×{len(decodes)}", len(decodes), cells.OUTPUT * n, DIM))
    for event in grants:
        if merged and event.data.why is GrantWhy.DECODE:
            continue
        req, (start, n) = str(event.req), scene.marks.ran[str(event.req)]
        prompt = scene.view.state.requests[req].num_prompt_tokens
        glyphs = "".join(
            cells.PROMPT if p < prompt else cells.OUTPUT for p in range(start, start + n, scale)
        )
        segments.append((req, n, glyphs, hue(scene.view, req)))
    return segments


def _unused(scene: Scene, left: int, reason: Reason | None) -> Text:
    if not scene.view.of("sched.ledger"):
        return Text("so far" if scene.view.event else f"{left} to be used", style="dim")
    if not left or reason is None:
        return Text("the budget is full", style="dim")
    words = f"{left} unused: {reason.value}"
    if reason == Reason.NOTHING_WAITS:
        words = f"{left} unused: nothing waits"
    for event in scene.view.of("sched.skip"):
        if event.data.reason == reason:
            words += f" ({event.req}: need {event.data.need}, have {event.data.have})"
    if reason == Reason.PREEMPTED_THIS_STEP:
        victims = ", ".join(str(e.req) for e in scene.view.of("sched.victim"))
        words += f" ({victims})"
    return Text(words, style="dim")


# --- events and reasons --------------------------------------------------------------------------


def events(scene: Scene, width: int, height: int) -> list[Text]:
    """In the middle of a step the newest ones, that is: those right before this place."""
    told = [e for e in scene.view.events if e.kind not in UNTOLD]
    shown, more = told, 0
    if len(told) > height - 1:
        more = len(told) - (height - 2)
        shown = told[more:] if scene.view.event else told[: len(told) - more]
    lines = [event_line(e, hue(scene.view, e.req) if e.req else None) for e in shown]
    if more:
        where, words = (0, "before") if scene.view.event else (len(lines), "more")
        lines.insert(where, Text(f"… {more} {words}: type events", style="dim"))
    return [title("EVENTS", f"{len(told)} in this step"), *lines]


def reasons(scene: Scene, width: int, height: int) -> list[Text]:
    """What ``why`` without a name would answer."""
    lines = [title("WHY")]
    step = scene.view.step
    for answer in why_step(scene.view.record, scene.view.state, step):
        lines += [*answer_lines(answer, step, width), Text()]
    return lines[:height]
