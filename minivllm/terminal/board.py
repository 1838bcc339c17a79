"""The board: one step of a run as lines of a terminal, whatever its size.

A region's place and height follow from the size of the screen and of the pool, never from what
happens: nothing jumps from step to step.
"""

from __future__ import annotations

from rich.text import Text

from minivllm.terminal import panels, pool, regions
from minivllm.terminal.cells import marks_of
from minivllm.terminal.history import View
from minivllm.terminal.scene import Scene
from minivllm.terminal.text import beside, clean, fit, wrap

MIN_WIDTH, MIN_HEIGHT = 40, 12
WIDE = 130
"""From this width on queues, rows and pool stand side by side."""
ONE_LINE_HEADLINE = 170
LOW = 13
"""Below this height of its body a narrow board has fewer regions."""


def board(
    view: View, width: int, height: int, *, zoom: int | None = None, label: str = "", below: int = 0
) -> list[Text]:
    """Exactly ``height`` lines of ``width`` cells. ``zoom``: see :func:`pool.pool`. ``label``: what
    kind of run it is. ``below``: lines of the terminal that are not the board's."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        words = f"{view.step}: {clean(view.story.headline)}"
        needs, has = f"{MIN_WIDTH}×{MIN_HEIGHT + below}", f"{width}×{height + below}"
        small = f"(the board needs {needs}, this is {has})"
        lines = [*wrap(words, max(width, 8), max(height - 1, 1)), Text(small, style="dim")]
        return _exactly(lines, width, height)
    scene = Scene(view, marks_of(view.events))
    lines = _header(view, width, label)
    body = _wide_body if width >= WIDE else _narrow_body
    return _exactly(lines + body(scene, width, height - len(lines), zoom), width, height)


def _exactly(lines: list[Text], width: int, height: int) -> list[Text]:
    lines = lines[:height] + [Text()] * (height - len(lines))
    return [fit(line, width) for line in lines]


def _header(view: View, width: int, label: str) -> list[Text]:
    """Run and place; two lines for the headline (one where it always fits); what else; a rule."""
    header = view.header
    what = "given tokens" if header.fidelity == "given" else header.model
    left = Text().append(f"{label or 'minivllm'} ", style="bold reverse" if label else "dim")
    left.append(f"{' ' if label else ''}{clean(header.name or 'run')}", style="bold")
    left.append(f" · {clean(what)}", style="dim")
    of = f" of {view.last}"
    if not view.ended:
        of = " · next runs on" if view.step == view.last else f" of {view.last} so far"
    right = Text()
    if (event := view.event) is not None:
        right.append(f"{event.phase}, event {event.seq} · ", style="dim")
    right.append(f"step {view.step}", style="bold").append(of, style="dim")
    top = fit(left, width - right.cell_len).append_text(right)
    room = 1 if width >= ONE_LINE_HEADLINE else 2
    headline = wrap(clean(view.story.headline), width, room, style="bold")
    headline += [Text()] * (room - len(headline))
    also = view.story.also if event is not None else f"also: {view.story.also}"
    told = Text(clean(also) if view.story.also else "", style="dim")
    return [top, *headline, told, Text("─" * width, style="dim")]


def _narrow_body(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """One column. Heights: what the pool needs, two waiting rows, the rest for the running ones."""
    if height < LOW:
        return _low_body(scene, width, height, zoom)
    blocks = pool.pool(scene, width, max(height // 3, 2), zoom)
    num_waiting = 3 if height < 24 else 6
    num_free = 1 if height < 24 else 2
    num_running = height - num_waiting - len(blocks) - num_free - 3
    num_events = 0
    if num_running > 12:  # a tall screen: the rest tells the events
        num_running, num_events = 12, num_running - 12
    lines = _pad(regions.waiting(scene, width, num_waiting), num_waiting)
    lines += _pad(regions.running(scene, width, num_running, two_lines=False), num_running)
    lines += [regions.done_line(scene, width), *regions.budget(scene, width), *blocks]
    lines += _pad(pool.free_queue(scene, width, num_free), num_free)
    if num_events > 4:
        tables = min(num_events // 3, panels.MOST_TABLES)
        lines += [Text("─" * width, style="dim")]
        lines += _pad(regions.tables(scene, width, tables), tables)
        lines += regions.events(scene, width, num_events - tables - 1)
    return lines


def _low_body(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """What is left of it above something that is pinned: who runs, the budget, the pool."""
    blocks = pool.pool(scene, width, 2, 0 if zoom is None else zoom)
    num_running = max(height - 2 - len(blocks), 1)
    lines = _pad(regions.running(scene, width, num_running, two_lines=False), num_running)
    return [*lines, *regions.budget(scene, width), *blocks]


def _wide_body(scene: Scene, width: int, height: int, zoom: int | None) -> list[Text]:
    """Queues | budget and running | pool; below them events, tables and tensors, why and source."""
    left = 42 if width >= 180 else 34
    right = min(max(width // 3, 52), 68)
    middle = width - left - right - 6
    blocks = [*pool.pool(scene, right, height - 5, zoom), Text()]
    top = min(max(len(blocks) + 4, 20), height)
    blocks += pool.free_queue(scene, right, min(max(top - len(blocks), 1), 4))
    num_done = max(top // 3, 4)
    queues = _pad(regions.waiting(scene, left, top - num_done), top - num_done)
    queues += regions.done(scene, left, num_done)
    work = [*regions.budget(scene, middle), Text()]
    work += regions.running(scene, middle, top - len(work), two_lines=top >= 20)
    lines = beside([(queues, left), (work, middle), (blocks, right)], top)
    below = height - top - 1
    if below < 4:
        return lines
    lines.append(Text("─" * width, style="dim"))
    return lines + panels.below(scene, width, below)


def _pad(lines: list[Text], height: int) -> list[Text]:
    return lines[:height] + [Text()] * (height - len(lines))
