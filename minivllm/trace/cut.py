"""Cut: a part of a run, from one step to another, that reads as a trace of its own.

It begins as a trace with retention does (``retention.py``): a ``run.snapshot`` stands for all that
came before. No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minivllm.trace.events import Event
from minivllm.trace.file import decode_event
from minivllm.trace.fold import new_state
from minivllm.trace.front import Front
from minivllm.trace.retention import Beginning


def cut_steps(lines: Sequence[bytes], first: int, last: int) -> list[bytes]:
    """One life of an engine: its steps ``first`` to ``last``, and what came in before the first.
    Empty where it ran none of them."""

    def is_early(event: Event) -> bool:
        return event.step < first and first > 1  # the first step's part begins at the beginning

    def is_late(event: Event) -> bool:
        return event.step > last

    kept = _cut(lines, Beginning(new_state()), is_early, is_late)
    ran = (decode_event(line) for line in kept)
    return kept if any(event.kind == "step.begin" for event in ran) else []


def cut_time(lines: Sequence[bytes], first_ns: int, last_ns: int) -> list[bytes]:
    """The front end's stream, by the clock that all streams of a run share."""

    def is_early(event: Event) -> bool:
        return event.t_ns < first_ns

    def is_late(event: Event) -> bool:
        return event.t_ns > last_ns

    return _cut(lines, Beginning(Front()), is_early, is_late)


def _cut(
    lines: Sequence[bytes],
    beginning: Beginning,
    is_early: Callable[[Event], bool],
    is_late: Callable[[Event], bool],
) -> list[bytes]:
    at = 0
    while at < len(lines) and is_early(decode_event(lines[at])):
        beginning.take(lines[at])
        at += 1
    end = at
    while end < len(lines) and not is_late(decode_event(lines[end])):
        end += 1
    head = [beginning.line()] if at else []
    return [*head, *lines[at:end]]
