"""The regions of the board: queues, running rows, budget, events, reasons (the pool: pool.py).

Each is a pure function of a step's view that gives lines of at most the width it was offered, and
at most as many as it was allowed. What does not fit is counted, never dropped in silence.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from minivllm.terminal import cells
from minivllm.terminal.answers import answer_lines, event_line
from minivllm.terminal.cells import hue, token_cell
from minivllm.terminal.history import UNTOLD
from minivllm.terminal.scene import BOLD, CHIP, DIM, PLAIN, Scene, title
from minivllm.terminal.text import clean
from minivllm.trace.events import GrantWhy, Reason, SchedLedger
from minivllm.trace.fold import RequestState
from minivllm.trace.why import why_step
from minivllm.trace.words import are, count

MAX_BAR_CELLS = 64
"""Up to so many tokens the budget bar has a cell for each; then it is drawn to scale."""
MAX_DECODES = 12
"""More decodes than this are one segment of the bar."""


def name_of(scene: Scene, req: str) -> Text:
    mark = scene.marks.requests.get(req, "")
    line = Text().append(f" {req} ", style=hue(scene.view, req) + CHIP)
    return line.append(mark, style="bold") if mark else line


# --- queues --------------------------------------------------------------------------------------


def waiting(scene: Scene, width: int, height: int) -> list[Text]:
    queue = scene.view.state.waiting
    lines = [title("WAITING", str(len(queue)))]
    for req in _first(queue, height - 1):
        request = scene.view.state.requests[req]
        line = name_of(scene, req).append(" ")
        line.append(f"{request.num_computed_tokens} of {len(request.tokens)}  ", style="dim")
        lines.append(line.append(_why_it_waits(scene, req, request)))
    if len(queue) > height - 1:
        hidden = len(queue) - (height - 2)
        lines.append(Text(f"… {hidden} more, the last is {queue[-1]}", style="dim"))
    return lines


def _why_it_waits(scene: Scene, req: str, request: RequestState) -> str:
    for event in scene.view.of("sched.victim"):
        if event.req == req:
            who = "itself" if event.data.for_req == req else event.data.for_req
            return f"preempted for {who} in this step"
    wait = request.wait
    if wait is None:
        return "has just arrived"
    policy = (scene.view.state.config or {}).get("policy", "fcfs")
    if wait.behind is not None:
        return f"behind {wait.behind} ({policy})"
    have = f"{wait.have} {are(wait.have)} free"
    words = {
        Reason.NO_FREE_BLOCKS: f"needs {count(wait.need, 'block')}, {have}",
        Reason.NO_BUDGET: "the budget is used up",
        Reason.MAX_NUM_SEQS: "as many run as may run",
        Reason.CHUNKING_OFF: f"needs {wait.need} tokens at once, {wait.have} are left",
        Reason.STATIC_BATCH: f"{wait.need} of the batch must end first",
        Reason.FRAGMENTED: f"needs {wait.need} neighbours, at most {have} in a row",
    }
    return words.get(Reason(wait.reason), wait.reason)


def done(scene: Scene, width: int, height: int) -> list[Text]:
    """The last to finish come first."""
    finished = scene.view.state.finished[::-1]
    lines = [title("DONE", str(len(finished)))]
    for req in _first(finished, height - 1):
        request = scene.view.state.requests[req]
        line = name_of(scene, req).append(" ")
        lines.append(line.append(_end_of(request), style="dim"))
    if len(finished) > height - 1:
        lines.append(Text(f"… {len(finished) - (height - 2)} more", style="dim"))
    return lines


def done_line(scene: Scene, width: int) -> Text:
    finished = scene.view.state.finished[::-1]
    line = title("DONE", str(len(finished)))
    for shown, req in enumerate(finished):
        piece = Text("   ").append_text(name_of(scene, req))
        piece.append(f" {_end_of(scene.view.state.requests[req])}", style="dim")
        if line.cell_len + piece.cell_len > width - 8:
            line.append(f"   … {len(finished) - shown} more", style="dim")
            break
        line.append_text(piece)
    return line


def _end_of(request: RequestState) -> str:
    output = len(request.tokens) - request.num_prompt_tokens
    reason = "" if request.finish_reason in ("length", "stop") else f" ({request.finish_reason})"
    return count(output, "token") + reason


def _first(items: list[str], room: int) -> list[str]:
    return items if len(items) <= room else items[: max(room - 1, 0)]


# --- running -------------------------------------------------------------------------------------


def running(scene: Scene, width: int, height: int, two_lines: bool) -> list[Text]:
    """In the scheduler's order: under fcfs the lowest row is the next to be preempted."""
    state = scene.view.state
    config = state.config or {}
    rest = f"{len(state.running)}, at most {config.get('max_num_seqs', 0)}"
    if len(state.running) > 1 and config.get("policy") == "fcfs":
        rest += " · the lowest would give way first"
    per_row = 2 if two_lines else 1
    shown = _first(state.running, (height - 1) // per_row)
    requests = [state.requests[req] for req in shown]
    names = max((len(req) for req in shown), default=2) + 4
    room = width - names - 9
    rows = _token_rows(scene, shown, room if two_lines else max(room * 3 // 5, 12))
    wide = max((cell_len(row.plain) for row in rows), default=0)
    lines = [title("RUNNING", rest)]
    for req, request, row in zip(shown, requests, rows, strict=True):
        line = name_of(scene, req)
        line.append(" " * (names - line.cell_len)).append_text(row)
        line.append(" " * (wide - row.cell_len + 1)).append(f"{len(request.tokens):>4} ")
        if two_lines:
            lines.append(line)
            indent = Text(" " * names)
            lines.append(indent.append_text(text_tail(scene, request, width - names)))
        else:
            lines.append(line.append_text(text_tail(scene, request, width - line.cell_len)))
    if len(shown) < len(state.running):
        lines.append(Text(f"… {len(state.running) - len(shown)} more run", style="dim"))
    return lines


def _token_rows(scene: Scene, reqs: list[str], room: int) -> list[Text]:
    """One scale for all rows, so that lengths compare: tokens by block, tokens, or blocks."""
    state = scene.view.state
    size = int((state.config or {}).get("block_size", 1))
    longest = max((len(state.requests[req].tokens) for req in reqs), default=0)
    if longest + longest // size <= room:
        step, gap = 1, size
    elif longest <= room:
        step, gap = 1, 0
    else:
        step, gap = max(size, -(-longest // max(room, 1))), 0
    rows: list[Text] = []
    for req in reqs:
        request, ran = state.requests[req], scene.marks.ran.get(req)
        row, colour = Text(), hue(scene.view, req)
        for start in range(0, len(request.tokens), step):
            if gap and start and start % gap == 0:
                row.append(" ")
            end = min(start + step, len(request.tokens))
            kinds = [token_cell(request, p, ran) for p in range(start, end)]
            glyph = cells.RAN if cells.RAN in kinds else kinds[0]
            row.append(glyph, style=colour + (BOLD if glyph == cells.RAN else PLAIN))
        rows.append(row)
    return rows


def text_tail(scene: Scene, request: RequestState, width: int) -> Text:
    """The end of what it reads and says: prompt dim, output plain, this step's piece underlined."""
    new = {e.data.index for e in scene.view.of("req.token") if _is(scene, e.req, request)}
    pieces: list[tuple[str, str]] = []
    used = 1
    for i in range(len(request.texts) - 1, -1, -1):
        piece = clean(request.texts[i])
        used += cell_len(piece)
        if used > width:
            pieces.append(("…", "dim"))
            break
        prompt = i < request.num_prompt_tokens
        fresh = not prompt and i - request.num_prompt_tokens in new
        pieces.append((piece, "dim" if prompt else "underline" if fresh else ""))
    line = Text()
    for piece, style in reversed(pieces):
        line.append(piece, style=style)
    return line


def _is(scene: Scene, req: str | None, request: RequestState) -> bool:
    return req is not None and scene.view.state.requests.get(req) is request


# --- block tables --------------------------------------------------------------------------------


def tables(scene: Scene, width: int, height: int) -> list[Text]:
    """Which physical block each logical one is: those that run first, then who else has any."""
    state = scene.view.state
    size = int((state.config or {}).get("block_size", 1))
    have = [req for req in state.running if state.requests[req].table]
    have += [req for req, r in state.requests.items() if r.table and req not in have]
    lines = [title("BLOCK TABLES", f"logical 0, 1, 2 … → physical; {size} tokens each")]
    for req in _first(have, height - 1):
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
    the rest is unused."""
    total = (scene.view.state.config or {}).get("max_num_batched_tokens", 0)
    ledger = next((e.data for e in scene.view.of("sched.ledger")), None)
    if ledger is None:  # no step has run, or this one still hands out
        used = sum(n for _, n in scene.marks.ran.values())
        ledger = SchedLedger(budget=total, used=used, unused_reason=None, rows=[])
    head = title("BUDGET", f"{ledger.used} of {ledger.budget} ")
    room = min(width - head.cell_len - 2 * len(scene.marks.ran), MAX_BAR_CELLS)
    scale = max(-(-ledger.budget // max(room, 1)), 1)
    if scale > 1:  # say so, and leave room for saying it
        scale = -(-ledger.budget // max(room - len(f"{cells.PROMPT} = {scale}  "), 1))
        head.append(f"{cells.PROMPT} = {scale}  ", style="dim")
    bar, legend = Text(), Text()
    for label, n, glyphs, style in _segments(scene, scale):
        bar.append(glyphs, style=style).append("│", style="dim")
        legend.append(label, style=style + BOLD).append(f" {n}  ")
    left = ledger.budget - ledger.used
    bar.append(cells.UNUSED * (left // scale or min(left, 1)), style="dim")
    legend.append_text(_unused(scene, left, ledger.unused_reason))
    return [head.append_text(bar), legend]


def _segments(scene: Scene, scale: int) -> list[tuple[str, int, str, Style]]:
    """(label, tokens, glyphs, style) of each grant; many decodes are one."""
    grants = [e for e in scene.view.of("sched.grant") if str(e.req) in scene.marks.ran]
    decodes = [e for e in grants if e.data.why is GrantWhy.DECODE]
    segments: list[tuple[str, int, str, Style]] = []
    merged = len(decodes) > MAX_DECODES
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
    told = [e for e in scene.view.events if e.kind not in UNTOLD]
    lines = [title("EVENTS", f"{len(told)} in this step")]
    for event in told[: height - 1]:
        lines.append(event_line(event, hue(scene.view, event.req) if event.req else None))
    if len(told) > height - 1:
        lines[-1] = Text(f"… {len(told) - (height - 2)} more: type events", style="dim")
    return lines


def reasons(scene: Scene, width: int, height: int) -> list[Text]:
    """What ``why`` without a name would answer."""
    lines = [title("WHY")]
    step = scene.view.step
    for answer in why_step(scene.view.record, scene.view.state, step):
        lines += [*answer_lines(answer, step, width), Text()]
    return lines[:height]
