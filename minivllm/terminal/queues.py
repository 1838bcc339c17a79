"""A row for each request: who waits and why, who runs, token by token, who is done."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from minivllm.terminal import cells
from minivllm.terminal.cells import hue, token_cell
from minivllm.terminal.scene import BOLD, CHIP, PLAIN, Scene, title
from minivllm.terminal.text import clean
from minivllm.trace.events import Reason
from minivllm.trace.fold import RequestState
from minivllm.trace.words import are, count


def name_of(scene: Scene, req: str) -> Text:
    mark = scene.marks.requests.get(req, "")
    line = Text().append(f" {req} ", style=hue(scene.view, req) + CHIP)
    return line.append(mark, style="bold") if mark else line


# --- queues --------------------------------------------------------------------------------------


def waiting(scene: Scene, width: int, height: int) -> list[Text]:
    queue = scene.view.state.waiting
    lines = [title("WAITING", str(len(queue)))]
    if not queue and height > 1:
        lines.append(Text("nobody waits", style="dim"))
    for req in first_of(queue, height - 1):
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
    for req in first_of(finished, height - 1):
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


def first_of(items: list[str], room: int) -> list[str]:
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
    shown = first_of(state.running, (height - 1) // per_row)
    requests = [state.requests[req] for req in shown]
    names = max((len(req) for req in shown), default=2) + 4
    room = width - names - 9
    rows = _token_rows(scene, shown, room if two_lines else max(room * 3 // 5, 12))
    wide = max((cell_len(row.plain) for row in rows), default=0)
    lines = [title("RUNNING", rest)]
    if not shown and height > 1:
        lines.append(Text("nobody runs", style="dim"))
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


def table_of(scene: Scene, req: str) -> Text:
    """``r3 7 8 9 11 6+``: the physical blocks of a request."""
    line = Text().append(req, style=hue(scene.view, req) + BOLD)
    for block_id in scene.view.state.requests[req].table:
        mark = scene.marks.blocks.get(block_id, "")
        line.append(f" {block_id}{mark}", style=BOLD if mark else PLAIN)
    return line


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
