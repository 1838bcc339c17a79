"""The lower part of a wide board: events | block tables and tensors | why and source.

How many columns, and what stands in each, follows from the size alone.
"""

from __future__ import annotations

from rich.text import Text

from minivllm.terminal import regions
from minivllm.terminal.arrays import batch_lines, decisive, source_lines
from minivllm.terminal.scene import Scene, title
from minivllm.terminal.text import beside
from minivllm.trace.batch import batch_of

THREE = 180
"""From this width on there are three columns."""
MOST_TABLES = 10
"""Lines of block tables: a region's place does not depend on what happens."""
HIGH = 24
"""From this height on a column has two parts."""


def below(scene: Scene, width: int, height: int) -> list[Text]:
    if width < THREE:
        reasons = max(width // 3, 60)
        told = width - reasons - 3
        parts = [
            (_over(regions.events, tables_and_tensors, scene, told, height), told),
            (_over(regions.reasons, source, scene, reasons, height), reasons),
        ]
        return beside(parts, height)
    third = (width - 6) // 3
    events = width - 6 - 2 * third
    parts = [
        (regions.events(scene, events, height), events),
        (tables_and_tensors(scene, third, height), third),
        (_over(regions.reasons, source, scene, third, height), third),
    ]
    return beside(parts, height)


def _over(upper, lower, scene: Scene, width: int, height: int) -> list[Text]:  # type: ignore[no-untyped-def]
    """Both, if there is room for both."""
    if height < HIGH:
        lines: list[Text] = upper(scene, width, height)
        return lines
    first = height // 2 - 1
    shown = upper(scene, width, first)[:first]
    shown += [Text()] * (first - len(shown)) + [Text()]
    return [*shown, *lower(scene, width, height - len(shown))]


def tables_and_tensors(scene: Scene, width: int, height: int) -> list[Text]:
    num_tables = min(max(height // 3, 3), MOST_TABLES)
    lines = regions.tables(scene, width, num_tables)[:num_tables]
    lines += [Text()] * (num_tables - len(lines)) + [Text()]
    return [*lines, *tensors(scene, width, height - len(lines))]


def tensors(scene: Scene, width: int, height: int) -> list[Text]:
    """The arrays of the batch, request by request."""
    view = scene.view
    head = title("TENSORS", "of the flat batch")
    found = batch_of(view.before, view.events)
    if found is None:
        return [head, Text("no batch yet" if view.event else "nothing ran", style="dim")]
    head = title("TENSORS", f"of the flat batch: {len(found.input_ids)} tokens")
    size = int((view.state.config or {}).get("block_size", 1))
    lines = [head, *batch_lines(found, size, width)]
    if len(lines) > height:
        lines = [*lines[: height - 1], Text("… type tensors", style="dim")]
    return lines


def source(scene: Scene, width: int, height: int) -> list[Text]:
    """The code around the event that decided, or behind which one stands."""
    view = scene.view
    event = view.event or decisive(view.events)
    if event is None or event.src not in view.record.sources:
        return [title("SOURCE"), Text("the trace does not tell it", style="dim")]
    around = max((height - 3) // 2, 1)
    lines = source_lines(event, view.events, view.record.sources, width, around)
    return [title("SOURCE"), *lines[: height - 1]]
