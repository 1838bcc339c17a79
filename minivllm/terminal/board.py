"""The board: one step of a run as lines of a terminal, whatever its size.

The head tells which run and step it is and its story; ``layouts.py`` says what stands below.
"""

from __future__ import annotations

from rich.text import Text

from minivllm.terminal.cells import marks_of
from minivllm.terminal.history import View
from minivllm.terminal.layouts import body
from minivllm.terminal.scene import Scene
from minivllm.terminal.text import clean, fit, wrap

MIN_WIDTH, MIN_HEIGHT = 40, 12
ONE_LINE_HEADLINE = 170


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
    return _exactly(lines + body(scene, width, height - len(lines), zoom), width, height)


def _exactly(lines: list[Text], width: int, height: int) -> list[Text]:
    lines = lines[:height] + [Text()] * (height - len(lines))
    return [fit(line, width) for line in lines]


def _header(view: View, width: int, label: str) -> list[Text]:
    """Run and place; three lines for the story (two where its first always fits in one); a rule."""
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
    top = fit(left, width - right.cell_len - 2).append("  ").append_text(right)
    room = 2 if width >= ONE_LINE_HEADLINE else 3
    told = wrap(clean(view.story.headline), width, room - 1, style="bold")
    if view.story.also:
        also = view.story.also if event is not None else f"also: {view.story.also}"
        told += wrap(clean(also), width, room - len(told), style="dim")
    told += [Text()] * (room - len(told))
    return [top, *told, Text("─" * width, style="dim")]
