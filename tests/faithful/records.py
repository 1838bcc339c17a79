"""Records: what both drivers note of a step, in words that belong to neither engine.

A record is a dict of JSON values; ``first_difference`` says where two runs part.

    reset       result of each reset_prefix_cache before the step
    grants      [request, first token, number of tokens], in batch order
    new         who is sent to the worker for the first time; resumed: who returns to it
    preempted   who gave way in this step, in this order
    tables      the block table of everybody who holds blocks, after scheduling
    running     in order; waiting: the head first
    free        the free queue, the next block to be taken first
    cached      of every hash that can be hit the blocks under it, the first to be hit first
    outputs     [request, tokens, finish reason, stop reason, prompt tokens found in the cache
                (with the first output only)], after the tokens are known
    after       running, free and cached once more, when those who ended have left
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]

FIELDS = (
    *("reset", "grants", "new", "resumed", "preempted", "tables", "running", "waiting", "free"),
    *("cached", "outputs", "after"),
)
"""In this order: a difference is named by the first of them."""

MAX_STEPS = 600
"""No plan is that long: whoever gets there is stuck."""


@dataclass(frozen=True)
class Difference:
    step: int
    field: str
    vllm: Any
    minivllm: Any

    def __str__(self) -> str:
        return f"step {self.step}: {self.field}\n  vLLM     {self.vllm}\n  minivllm {self.minivllm}"


def first_difference(theirs: list[Record], ours: list[Record]) -> Difference | None:
    """Where two runs of one plan part: the first step, and in it the first field."""
    for step, (one, other) in enumerate(zip(theirs, ours, strict=False), start=1):
        for field in FIELDS:
            if one.get(field) != other.get(field):
                return Difference(step, field, one.get(field), other.get(field))
    if len(theirs) != len(ours):
        return Difference(min(len(theirs), len(ours)) + 1, "steps", len(theirs), len(ours))
    return None
