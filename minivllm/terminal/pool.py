"""The pool and its free queue, drawn as large as they fit.

blocks with their slots      12+r3◆   and under it ■■●◉
blocks by name               12+r3◆
a map                        one glyph for a block, or for several: the fuller the darker
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from minivllm.terminal import cells
from minivllm.terminal.cells import hue, token_cell
from minivllm.terminal.scene import BOLD, DIM, PLAIN, Scene, title


def pool(scene: Scene, width: int, height: int, zoom: int | None = None) -> list[Text]:
    """The largest drawing that fits, at most ``zoom``: 2 blocks with their slots, 1 blocks by name,
    0 a map. Where the one that was asked for does not fit whole, its beginning is shown."""
    blocks = scene.view.state.blocks
    usable = max(len(blocks) - 1, 0)
    used = usable - len(scene.view.state.free)
    lines = [title("KV POOL", f"{used} of {usable} blocks in use")]
    if not usable:
        return lines
    room = height - 1
    ids = range(1, usable + 1)
    for level in (2, 1) if zoom is None else (zoom,):
        shape = _Shape.of(scene, width, with_slots=level == 2)
        if not level:
            continue
        if shape.height(usable) <= room and (level == 1 or shape.slot_lines <= 2):
            return lines + grid(scene, width, ids, level == 2)
        if zoom is not None:
            some = range(1, min(max(shape.fits(room - 1), 1), usable) + 1)
            more = Text(f"… {usable - some.stop + 1} more: type blocks, or zoom out", style="dim")
            return [*lines, *grid(scene, width, some, level == 2), more][:height]
    return lines + _map(scene, width, room)


@dataclass(frozen=True)
class _Shape:
    """Of a grid: cells a block, blocks a line, lines for its slots."""

    cell: int
    per_line: int
    slot_lines: int

    @staticmethod
    def of(scene: Scene, width: int, with_slots: bool) -> _Shape:
        state = scene.view.state
        usable, size = len(state.blocks) - 1, int((state.config or {}).get("block_size", 1))
        slot_lines = -(-size // 8) if with_slots else 0
        cell = len(str(usable)) + 9
        if slot_lines:
            cell = max(cell, len(str(usable)) + 3 + -(-size // slot_lines))
        per_line = max(width // cell, 1)
        if per_line > 5 and usable <= 60:
            per_line = per_line // 5 * 5  # counted by fives
        return _Shape(cell, per_line, slot_lines)

    @property
    def _row(self) -> int:
        return 1 + self.slot_lines + (1 if self.slot_lines else 0)

    def height(self, num_blocks: int) -> int:
        return -(-num_blocks // self.per_line) * self._row - (1 if self.slot_lines else 0)

    def fits(self, height: int) -> int:
        return (height + 1) // self._row * self.per_line


def grid(scene: Scene, width: int, ids: range, with_slots: bool) -> list[Text]:
    """Blocks by name, and under each its slots."""
    shape = _Shape.of(scene, width, with_slots)
    owners: dict[int, list[str]] = {}
    for name, request in scene.view.state.requests.items():
        for block_id in request.table:
            owners.setdefault(block_id, []).append(name)
    lines: list[Text] = []
    for first in range(ids.start, ids.stop, shape.per_line):
        rows = [Text() for _ in range(1 + shape.slot_lines)]
        for block_id in range(first, min(first + shape.per_line, ids.stop)):
            parts = _block(scene, block_id, owners.get(block_id, []), shape.slot_lines)
            for row, part in zip(rows, parts, strict=True):
                row.append_text(part).append(" " * (shape.cell - part.cell_len))
        lines += rows
        if shape.slot_lines and first + shape.per_line < ids.stop:
            lines.append(Text())
    return lines


def _block(scene: Scene, block_id: int, owners: list[str], slot_lines: int) -> list[Text]:
    """``12+r3×2◆``, and under it its slots."""
    state = scene.view.state
    block, digits = state.blocks[block_id], len(str(len(state.blocks) - 1))
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
