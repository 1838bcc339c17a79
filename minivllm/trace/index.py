"""The index beside a trace (``FILE.index``): it makes a long one seekable.

Where each step begins, and the state before every 64th. It can be rebuilt from the file, and is,
when the file has changed (:func:`minivllm.trace.file.load_index`). No counterpart in vLLM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from minivllm.trace.events import Event
from minivllm.trace.fold import apply, new_state, to_json

if TYPE_CHECKING:
    from minivllm.trace.file import Trace

SNAPSHOT_EVERY = 64
"""Steps between two snapshots of a trace's index."""


class LifeIndex(msgspec.Struct):
    """Where to start reading one engine's life."""

    steps: dict[int, int]
    """Step → number of the life's events before its first one."""
    snapshots: dict[int, Any]
    """Every 64th step → the state before it, as ``to_json`` gives it."""


class Index(msgspec.Struct):
    """Written beside the trace, rebuilt when it does not fit it."""

    size: int
    """Bytes of the trace file that it was made for."""
    lives: dict[str, LifeIndex]
    """By the names that :meth:`Trace.lives` gives them."""


def build_index(trace: Trace, size: int) -> Index:
    lives = {name: _index_life(life.events) for name, life in trace.lives().items()}
    return Index(size=size, lives=lives)


def _index_life(events: list[Event]) -> LifeIndex:
    steps: dict[int, int] = {}
    snapshots: dict[int, Any] = {}
    state = new_state()
    for count, event in enumerate(events):
        if event.step not in steps:
            steps[event.step] = count
            if event.step and event.step % SNAPSHOT_EVERY == 0:
                snapshots[event.step] = to_json(state)
        apply(state, event)
    return LifeIndex(steps=steps, snapshots=snapshots)


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + ".index")


def fitting_sidecar(path: Path) -> Index | None:
    """The index beside the file, if it was made for the file as it is now."""
    sidecar = sidecar_of(path)
    try:
        index = msgspec.json.decode(sidecar.read_bytes(), type=Index)
        now, made = path.stat(), sidecar.stat()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return index if index.size == now.st_size and made.st_mtime_ns >= now.st_mtime_ns else None
