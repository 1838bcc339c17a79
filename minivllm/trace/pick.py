"""One engine's life out of a trace with several: what ``--engine N --life N`` choose.

A server with N engines writes a stream for each, and one more life of it each time the engine is
started anew. Most commands look at one; which, and that there are others, is said.
"""

from __future__ import annotations

from typing import NamedTuple

from minivllm.errors import ConfigError, TraceError
from minivllm.trace.file import Trace
from minivllm.trace.words import join


class Picked(NamedTuple):
    trace: Trace
    """Of this life alone."""
    stream: str
    life: int
    which: str
    """``engine0 of 2 engines, life 2 of 2``; empty where the trace holds one life only."""
    others: str
    """How to see the rest: ``--engine 0 to 1 shows the others``; empty where this is all."""


def pick(trace: Trace, engine: int | None = None, life: int | None = None) -> Picked:
    """The first engine's last life, where none is named.

    Raises TraceError for a trace without an engine, ConfigError for one that it has not.
    """
    if not trace.engines:
        raise TraceError(
            f"{trace.name} has no event of an engine: nothing ran, or all but its header was cut "
            "off; record it again"
        )
    numbers = [int(stream.removeprefix("engine") or 0) for stream in trace.engines]
    if engine is not None and engine not in numbers:
        raise ConfigError("--engine", engine, join(numbers, most=12))
    stream = trace.engines[0 if engine is None else numbers.index(engine)]
    lives = trace.epochs(stream)
    if life is not None and life not in lives:
        had = "1: its engine was started once" if list(lives) == [1] else _span(list(lives))
        raise ConfigError("--life", life, had)
    life = max(lives) if life is None else life
    named, options = [], []
    if len(numbers) > 1:
        named.append(f"{stream} of {len(numbers)} engines")
        options.append(f"--engine {numbers[0]} to {numbers[-1]}")
    if len(lives) > 1:
        named.append(f"life {life} of {len(lives)}")
        options.append(f"--life {_span(list(lives))}")
    which = ", ".join(named)
    others = f"{' and '.join(options)} shows the others" if which else ""
    picked = Trace(trace.header, lives[life], trace.name, trace.index)
    return Picked(picked, stream, life, which, others)


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
