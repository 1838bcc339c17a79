"""The pool and its free queue, drawn as large as they fit.

blocks with their slots      12+r3◆   and under it ■■●◉
blocks by name               12+r3◆
a map                        one glyph for a block, or for several: the fuller the darker
"""

from __future__ import annotations

from rich.text import Text

from minivllm.terminal import cells
from minivllm.terminal.cells import hue, token_cell
from minivllm.terminal.scene import BOLD, DIM, PLAIN, Scene, title


def pool(scene: Scene, width: int, height: int) -> list[Text]:
    """The largest drawing that fits: blocks with their slots, blocks by name, or a map."""
    blocks = scene.view.state.blocks
    usable = max(len(blocks) - 1, 0)
    used = usable - len(scene.view.state.free)
    lines = [title("KV POOL", f"{used} of {usable} blocks in use")]
    if not usable:
        return lines
    size = int((scene.view.state.config or {}).get("block_size", 1))
    room = height - 1
    slot_lines = -(-size // 8)
    cell = len(str(usable)) + 9
    per_line = max(width // cell, 1)
    if per_line > 5 and usable <= 60:
        per_line = per_line // 5 * 5  # counted by fives
    grid_lines = -(-usable // per_line)
    if slot_lines <= 2 and grid_lines * (slot_lines + 2) - 1 <= room:
        return lines + _grid(scene, per_line, cell, slot_lines)
    if grid_lines <= room:
        return lines + _grid(scene, per_line, cell, 0)
    return lines + _map(scene, width, room)


def _grid(scene: Scene, per_line: int, cell: int, slot_lines: int) -> list[Text]:
    lines: list[Text] = []
    last = len(scene.view.state.blocks)
    for first in range(1, last, per_line):
        ids = range(first, min(first + per_line, last))
        rows = [Text() for _ in range(1 + slot_lines)]
        for block_id in ids:
            for row, part in zip(rows, _block(scene, block_id, slot_lines), strict=True):
                row.append_text(part).append(" " * (cell - part.cell_len))
        lines += rows
        if slot_lines and first + per_line < last:
            lines.append(Text())
    return lines


def _block(scene: Scene, block_id: int, slot_lines: int) -> list[Text]:
    """``12+r3×2◆``, and under it its slots."""
    state = scene.view.state
    block, digits = state.blocks[block_id], len(str(len(state.blocks) - 1))
    owners = [name for name, r in state.requests.items() if block_id in r.table]
    colour = hue(scene.view, owners[0]) if owners else DIM
    mark = scene.marks.blocks.get(block_id, " ")
    head = Text().append(f"{block_id:>{digits}}", style="dim").append(mark, style="bold")
    if owners:
        head.append(owners[0], style=colour + BOLD)
        if len(owners) > 1:
            head.append(f"×{len(owners)}", style=hue(scene.view, owners[1]) + BOLD)
    else:
        head.append("▒▒" if block.hash else "··", style="dim")
    if block.hash:
        head.append(cells.HASHED, style="bold" if block_id in scene.marks.newly_hashed else "dim")
    size = int((state.config or {}).get("block_size", 1))
    slots = _slots(scene, block_id, owners, size)
    per = -(-size // max(slot_lines, 1))
    pad = Text(" " * (digits + 1))
    return [head] + [
        pad.copy().append(slots[i * per : (i + 1) * per], style=colour) for i in range(slot_lines)
    ]


def _slots(scene: Scene, block_id: int, owners: list[str], size: int) -> str:
    state = scene.view.state
    if owners:
        request = state.requests[owners[0]]
        start = request.table.index(block_id) * size
        positions = range(start, min(start + size, len(request.tokens)))
        ran = scene.marks.ran.get(owners[0])
        slots = "".join(token_cell(request, p, ran) for p in positions)
        return slots.ljust(size, cells.UNUSED)
    held = state.blocks[block_id].held
    filled = held.filled if held is not None and state.blocks[block_id].hash else 0
    return ("▒" * filled).ljust(size, cells.UNUSED)


def _map(scene: Scene, width: int, height: int) -> list[Text]:
    """A glyph for each block, or for several: the fuller the darker."""
    state = scene.view.state
    owner = {b: name for name, r in reversed(state.requests.items()) for b in r.table}
    usable = len(state.blocks) - 1
    per_glyph = -(-usable // max(width * height, 1))
    line, lines = Text(), []
    for first in range(1, usable + 1, per_glyph):
        ids = range(first, min(first + per_glyph, usable + 1))
        if per_glyph == 1:
            glyph = scene.marks.blocks.get(first) or (
                cells.PROMPT if first in owner else "▒" if state.blocks[first].hash else "·"
            )
            style = hue(scene.view, owner[first]) if first in owner else DIM
        else:
            share = sum(state.blocks[b].ref > 0 for b in ids) / len(ids)
            glyph, style = "·░▒▓█"[-(-int(share * 100) // 25)], PLAIN
        line.append(glyph, style=style)
        if line.cell_len >= width:
            lines.append(line)
            line = Text()
    return lines + ([line] if line.cell_len else [])


def free_queue(scene: Scene, width: int, height: int = 1) -> list[Text]:
    """In the order in which the blocks will be taken."""
    state = scene.view.state
    line = title("FREE", "next to be taken → ")
    if not state.free:
        return [line.append("none", style="dim")]
    lines = [line]
    for shown, block_id in enumerate(state.free):
        block = state.blocks[block_id]
        piece = f"{block_id}{cells.HASHED if block.hash else ''} "
        last = len(lines) == height
        if lines[-1].cell_len + len(piece) + (8 if last else 0) > width:
            if last:
                lines[-1].append(f"… {len(state.free) - shown} more", style="dim")
                break
            lines.append(Text("  "))
        lines[-1].append(piece)
    return lines
