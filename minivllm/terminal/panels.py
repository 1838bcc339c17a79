"""What tells of the step at length: why, events, block tables, source, tensors.

As many as fit, in parts whose size follows from the room alone. Where no room is left for any, the
lines that the running rows leave free tell the most of it (:func:`gist`, :func:`flat`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from minivllm.terminal import regions
from minivllm.terminal.arrays import batch_lines, decisive, held_lines, local_lines, source_lines
from minivllm.terminal.queues import table_of
from minivllm.terminal.scene import Scene, title
from minivllm.terminal.text import beside, flow, wrap
from minivllm.trace.batch import batch_of
from minivllm.trace.why import why_step

THREE = 180
"""From this width on there are three columns."""
LEAST = 6
"""Lines below which a part is not worth its title."""
MOST_TABLES = 10
"""Lines of block tables: a region's place does not depend on what happens."""

Part = Callable[[Scene, int, int], list[Text]]


def below(scene: Scene, width: int, height: int) -> list[Text]:
    """The lower part of a wide board: events | block tables and tensors | why and source."""
    if width < THREE:
        reasons = max(width // 3, 60)
        told = width - reasons - 3
        left = stack((regions.events, tables, tensors), scene, told, height)
        return beside([(left, told), (explained(scene, reasons, height), reasons)], height)
    third = (width - 6) // 3
    first = width - 6 - 2 * third
    parts = [
        (regions.events(scene, first, height), first),
        (stack((tables, tensors), scene, third, height), third),
        (explained(scene, third, height), third),
    ]
    return beside(parts, height)


def explained(scene: Scene, width: int, height: int) -> list[Text]:
    return stack((regions.reasons, source), scene, width, height)


def stack(parts: Sequence[Part], scene: Scene, width: int, height: int) -> list[Text]:
    """The first of them that fit, each as high as the others, a blank line between."""
    fits = min(max((height + 1) // (LEAST + 1), 1), len(parts))
    lines: list[Text] = []
    for shown, part in enumerate(parts[:fits]):
        left = fits - shown
        room = (height - len(lines) - (left - 1)) // left
        if part is tables and left > 1:
            room = min(room, MOST_TABLES)
        drawn = part(scene, width, room)[:room]
        lines += drawn + [Text()] * (room - len(drawn))
        if left > 1:
            lines.append(Text())
    return lines


def tables(scene: Scene, width: int, height: int) -> list[Text]:
    return regions.tables(scene, width, height)


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
    if view.code is not None:
        lines = [*held_lines(view.code, width, around), *local_lines(view.code.locals)]
        return [title("SOURCE"), *lines[: height - 1]]
    lines = source_lines(event, view.events, view.record.sources, width, around)
    return [title("SOURCE"), *lines[: height - 1]]


def flat(scene: Scene, width: int, height: int) -> list[Text]:
    """The tensors of the batch, a line each."""
    found = batch_of(scene.view.before, scene.view.events)
    if found is None:
        return []
    names = ("input_ids", "positions", "slot_mapping", "seq_lens", "query_start_loc")
    lines: list[Text] = []
    for name in names[:height]:
        head = Text(" " * 9 if lines else "TENSORS  ", style="bold").append(f"{name:<15}", "dim")
        numbers = [Text(str(number)) for number in getattr(found, name)]
        lines += flow(head, numbers, width, 1, gap=" ")
    return lines


def gist(scene: Scene, width: int, height: int, why: bool = True) -> list[Text]:
    """The block tables of those who run, the reasons of the step, the tensors, as far as the lines
    go. ``why``: False where the reasons stand elsewhere."""
    state = scene.view.state
    pieces = [table_of(scene, req) for req in state.running]
    lines = flow(title("TABLES"), pieces, width, height) if pieces and height > 0 else []
    if why and scene.view.of("step.begin") and height > len(lines):
        words = [
            f"{answer.subject}: {' '.join([answer.now, *answer.why])}"
            for answer in why_step(scene.view.record, state, scene.view.step)
        ]
        told = wrap(f"WHY {' '.join(words)}", width, height - len(lines)) if words else []
        for line in told[:1]:
            line.stylize("bold", 0, 3)
        lines += told
    return lines + flat(scene, width, max(height - len(lines), 0))
