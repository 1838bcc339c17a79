"""Where the regions stand: in one column, in two, or side by side.

A region's place and height follow from the size of the screen and of the pool, and from what may
run at most, never from what happens: nothing jumps from step to step. Lines that running rows leave
free are not left blank where something else would have had no room.
"""

from __future__ import annotations

from rich.text import Text

from minivllm.terminal import panels, pool, queues, regions
from minivllm.terminal.scene import Scene
from minivllm.terminal.text import beside

TWO, WIDE = 100, 150
"""From this width on there are two columns, or queues, rows and pool side by side."""
LOW = 13
"""Below this height a narrow board has fewer regions."""
HIGH = 20
"""From this height on two columns are worth it."""
FEW, MANY = 6, 9
"""Lines of the running rows: at least, and at most where others want the room."""


def body(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    if width >= WIDE:
        return _wide(scene, width, height, zoom)
    if width >= TWO and height >= HIGH:
        return _two(scene, width, height, zoom)
    return (_narrow if height >= LOW else _low)(scene, width, height, zoom)


def _low(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """What is left of it above something that is pinned: who runs, the budget, the pool."""
    blocks = pool.pool(scene, width, 2, 0 if zoom is None else zoom)
    num_running = max(height - 2 - len(blocks), 1)
    return [*_running(scene, width, num_running), *regions.budget(scene, width), *blocks]


def _narrow(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """One column: who waits, runs, is done, the budget, the pool; below them what else fits."""
    num_waiting, num_free = (3, 1) if height < 24 else (5, 2)
    room = height - num_waiting - num_free - 3
    blocks = pool.pool(scene, width, max(min(room - FEW, height // 3 + 1), 2), zoom)
    num_running, num_rows = room - len(blocks), _most_rows(scene)
    has_below = num_running - num_rows > panels.LEAST
    if has_below:
        num_running = num_rows
    lines = _pad(queues.waiting(scene, width, num_waiting), num_waiting)
    lines += _running(scene, width, num_running, why=not has_below)
    lines += [queues.done_line(scene, width), *regions.budget(scene, width), *blocks]
    lines += _pad(pool.free_queue(scene, width, num_free), num_free)
    if has_below:
        lines.append(_rule(width))
        parts = (regions.events, regions.reasons, panels.tables, panels.source, panels.tensors)
        lines += panels.stack(parts, scene, width, height - len(lines))
    return lines


def _two(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """Requests, their tables and the events | budget and pool, why, and the source."""
    right = width * 7 // 15
    left = width - right - 3
    requests = _pad(queues.waiting(scene, left, 4), 4)
    num_rows = _most_rows(scene)
    rows = queues.running(scene, left, num_rows, two_lines=False)
    requests += _filled(panels.flat(scene, left, num_rows - len(rows)), rows, num_rows)
    requests += [queues.done_line(scene, left), Text()]
    parts = (regions.events, panels.tables, panels.tensors)
    requests += panels.stack(parts, scene, left, height - len(requests))
    step = [*regions.budget(scene, right), Text(), *pool.pool(scene, right, height // 3, zoom)]
    step += [*pool.free_queue(scene, right, 1), Text()]
    step += panels.explained(scene, right, height - len(step))
    return beside([(requests, left), (step, right)], height)


def _wide(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """Queues | budget and running | pool; below them events, tables and tensors, why and source."""
    left = 42 if width >= 180 else 34
    right = min(max(width // 3, 52), 68)
    middle = width - left - right - 6
    blocks = pool.pool(scene, right, max(height * 11 // 20, 12), zoom)
    top = min(max(len(blocks) + 2, min(20, height * 9 // 20)), height)
    has_below = height - top - 1 > panels.LEAST
    if not has_below:
        top = height
    if top - len(blocks) > 2:
        blocks.append(Text())
    blocks += pool.free_queue(scene, right, min(max(top - len(blocks), 1), 4))
    num_done = max(top // 3, 4)
    waiting = _pad(queues.waiting(scene, left, top - num_done), top - num_done)
    work = [*regions.budget(scene, middle), Text()]
    rows = queues.running(scene, middle, top - len(work), two_lines=top >= 16)
    free = top - len(work) - len(rows)
    work += _filled([] if has_below else panels.gist(scene, middle, free), rows, top - len(work))
    columns = [(waiting + queues.done(scene, left, num_done), left), (work, middle)]
    lines = beside([*columns, (blocks, right)], top)
    if not has_below:
        return lines
    return [*lines, _rule(width), *panels.below(scene, width, height - top - 1)]


def _most_rows(scene: Scene) -> int:
    """Lines that the running rows may need, or ought to do with: title and rows."""
    most = int((scene.view.state.config or {}).get("max_num_seqs", MANY))
    return 1 + min(max(most, FEW - 1), MANY - 1)


def _running(scene: Scene, width: int, height: int, why: bool = True) -> list[Text]:
    rows = queues.running(scene, width, height, two_lines=False)
    return _filled(panels.gist(scene, width, height - len(rows), why), rows, height)


def _filled(told: list[Text], rows: list[Text], height: int) -> list[Text]:
    """Below the rows what else there is to say, a blank line between if there is room."""
    if len(rows) + len(told) < height:
        rows = [*rows, Text()]
    return _pad(rows + told, height)


def _pad(lines: list[Text], height: int) -> list[Text]:
    return lines[:height] + [Text()] * (height - len(lines))


def _rule(width: int) -> Text:
    return Text("─" * width, style="dim")
