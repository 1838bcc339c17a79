"""A fork that the page asks for: what it names, and that run's events as a trace.

The page names a run by its id, never a file, and knobs by name and value; what may be set is the
workbench's to say (``viz.commands.Workbench``). A live run is taken as far as it has come.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minivllm.trace.events import Header
from minivllm.trace.file import Trace, decode_event
from viz.commands import BadCommand
from viz.runs import Run


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the page sends."""

    run: str
    step: int
    knobs: dict[str, bool | int | float | str]
    stream: str = "engine0"
    life: int | None = None


def read_wish(given: Any) -> Wish:
    """Raises BadCommand."""
    try:
        return msgspec.convert(given, Wish)
    except msgspec.ValidationError as error:
        raise BadCommand(
            f"fork: got {given!r} ({error}); allowed: a run, a step, knobs, and its stream and life"
        ) from error


def trace_of(run: Run, stream: str, life: int | None) -> Trace:
    """One life of one engine (None: its newest). Raises BadCommand, TraceError."""
    lives = [each for each in run.lives() if each.stream == stream and stream.startswith("engine")]
    named = [each for each in lives if life in (None, each.epoch)]
    if not named:
        raise BadCommand(f"fork: run {run.id} has no life {life} of an engine {stream!r}")
    lines = run.lines(stream, named[-1].first, named[-1].head, named[-1].epoch)
    header = msgspec.convert(run.header(), Header)
    return Trace(header, [decode_event(line) for line in lines], run.id)
