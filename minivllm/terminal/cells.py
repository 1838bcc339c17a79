"""The visual language in glyphs; the dashboard uses the same.

Hue says which request and nothing else; the glyph says the state; a mark says what happened in
this step. Whatever a colour says, a name or a glyph beside it says as well.

    token   ■ prompt · ● output · ▨ reused · ◉ ran in this step · ○ known, not computed
    block   r1 in use · r1×2 shared · ▒▒ free and cached · ·· free and blank · ◆ full and hashed
    marks   + taken · ↺ hit · ✕ evicted · − given back · ! preempted · ✓ finished
            ⊘ failed
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rich.style import Style

from minivllm.terminal.history import View
from minivllm.trace.events import Event
from minivllm.trace.fold import RequestState
from minivllm.trace.hues import GREY

PROMPT, OUTPUT, REUSED, RAN, KNOWN, UNUSED = "■", "●", "▨", "◉", "○", "·"
HASHED = "◆"
TAKEN, HIT, EVICTED, GIVEN_BACK, PREEMPTED, FINISHED = "+", "↺", "✕", "−", "!", "✓"
FAILED = "⊘"

LEGEND = (
    f"{PROMPT} prompt  {OUTPUT} output  {REUSED} reused  {RAN} ran in this step  "
    f"{KNOWN} known, not computed",
    f"{HASHED} full and hashed  ▒▒ free, cached  ·· free, blank  ×2 shared by two",
    f"{TAKEN} taken  {HIT} hit  {EVICTED} evicted  {GIVEN_BACK} given back  "
    f"{PREEMPTED} preempted  {FINISHED} finished  {FAILED} failed",
)

# The page's palette (viz/static/palette.json): contrast and colour-blind distances are
# tested there, and a test holds these to it.
HUES = {
    "dark": [
        "#6fccff",
        "#daa348",
        "#48bc8a",
        "#b794eb",
        "#eae17c",
        "#c46f41",
        "#2487cc",
        "#aa61a6",
    ],
    "light": [
        "#047cb5",
        "#904e00",
        "#007950",
        "#492b7d",
        "#847603",
        "#7a2600",
        "#005591",
        "#7d3364",
    ],
}
GREYS = {"dark": "#8b95a3", "light": "#6b7480"}


def theme() -> str:
    """``light`` where the terminal says that its background is (COLORFGBG), else ``dark``."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if background in ("7", "15") else "dark"


def hue(view: View, req: str | None) -> Style:
    number = view.hues.get(req, GREY) if req is not None else GREY
    name = theme()
    return Style(color=GREYS[name] if number == GREY else HUES[name][number])


@dataclass(frozen=True)
class Marks:
    """What happened in the step, by request and by block."""

    ran: dict[str, tuple[int, int]]
    """Request → first position that ran, and how many."""
    requests: dict[str, str]
    blocks: dict[int, str]
    newly_hashed: frozenset[int]


def marks_of(events: list[Event]) -> Marks:
    ran: dict[str, tuple[int, int]] = {}
    requests: dict[str, str] = {}
    blocks: dict[int, str] = {}
    hashed: set[int] = set()
    for event in events:
        req, data = str(event.req), event.data
        if event.kind == "sched.grant":
            ran[req] = (data.start, data.n)
        elif event.kind == "sched.refund":
            ran.pop(req, None)
        elif event.kind == "req.preempt":
            requests[req] = PREEMPTED
        elif event.kind == "req.finish":
            requests[req] = FAILED if data.reason == "error" else FINISHED
        elif event.kind == "kv.touch":
            blocks[data.block] = HIT
        elif event.kind == "kv.evict":
            blocks[data.block] = EVICTED
        elif event.kind in ("kv.alloc", "kv.reserve"):
            for block in data.blocks:  # an eviction is told right before the block is taken
                if blocks.get(block) != EVICTED:
                    blocks[block] = TAKEN
        elif event.kind == "kv.free":
            blocks.update(dict.fromkeys(data.front + data.back, GIVEN_BACK))
        elif event.kind == "kv.cache":
            hashed.add(data.block)
        elif event.kind == "kv.uncache":
            hashed.discard(data.block)
    return Marks(ran, requests, blocks, frozenset(hashed))


def token_cell(request: RequestState, position: int, ran: tuple[int, int] | None) -> str:
    """The glyph of the token at ``position`` of its sequence."""
    if ran is not None and ran[0] <= position < ran[0] + ran[1]:
        return RAN
    if position >= request.num_computed_tokens:
        return KNOWN
    if position < request.num_cached_tokens:
        return REUSED
    return PROMPT if position < request.num_prompt_tokens else OUTPUT
