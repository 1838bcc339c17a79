"""KV memory, step by step: what holds tokens, what is held for nothing. Pure, from the events.

Measured while the batch runs (``batch.compose``): blocks are taken, this step's tokens counted.
All of the pool is one of six things, in tokens:

    token states      K and V of tokens that are computed; a shared block counts once
    reserved          in somebody's table, and it will be filled before the table is given back
    never used        in somebody's table, and it will not be: internal fragmentation
    scattered         free, enough for who waits, but in gaps too short: external fragmentation
    too few           free, but fewer than who waits needs
    free              free, and nobody waits for memory

"Will be" is known since the whole run is at hand. The words are those of the PagedAttention paper
(Kwon et al., SOSP 2023, section 3.1). A block that is free keeps what it held, for a prefix to
hit; here it is free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from minivllm.trace.events import Event, Reason
from minivllm.trace.fold import State, apply, new_state


@dataclass(slots=True)
class StepMemory:
    """One step; all but ``step`` in tokens. The six add up to ``pool``."""

    step: int
    pool: int
    token_states: int
    reserved: int = 0
    never_used: int = 0
    scattered: int = 0
    too_few: int = 0
    free: int = 0

    @property
    def taken(self) -> int:
        return self.token_states + self.reserved + self.never_used

    @property
    def short(self) -> bool:
        """Somebody waits for memory."""
        return bool(self.scattered or self.too_few) or self.taken == self.pool


@dataclass(slots=True)
class _Stay:
    """One request's table, from its first block until it is given back."""

    steps: list[tuple[StepMemory, int, int]] = field(default_factory=list)
    """Step, slots of the table, slots filled."""

    def end(self, filled: int) -> None:
        for memory, slots, filled_then in self.steps:
            later = max(min(filled, slots) - filled_then, 0)
            memory.reserved += later
            memory.never_used += slots - filled_then - later


def memory_by_step(events: Iterable[Event]) -> list[StepMemory]:
    """One entry for each step with a batch, from one engine's events in order."""
    state, found = new_state(), list[StepMemory]()
    stays: dict[str, _Stay] = {}
    lack: Reason | None = None
    for event in events:
        if event.kind == "step.begin":
            lack = None
        elif event.kind == "sched.skip":
            lack = event.data.reason
        elif event.kind == "sched.stop" and event.data.reason is Reason.PREEMPTED_THIS_STEP:
            lack = Reason.NO_FREE_BLOCKS  # whoever waits was not even looked at
        elif event.kind == "kv.free" and event.req in stays:
            stays.pop(event.req).end(state.requests[event.req].num_computed_tokens)
        apply(state, event)
        if event.kind == "batch.compose" and state.config is not None:
            found.append(_measure(state, event.step, stays, lack))
    for req, stay in stays.items():  # the trace ends before they do
        stay.end(state.requests[req].num_computed_tokens)
    return found


def _measure(state: State, step: int, stays: dict[str, _Stay], lack: Reason | None) -> StepMemory:
    assert state.config is not None
    size = int(state.config["block_size"])
    pool, free = (len(state.blocks) - 1) * size, len(state.free) * size
    memory = StepMemory(step, pool, token_states=0)
    unfilled = 0
    for req in state.running:
        request = state.requests[req]
        slots = len(request.table) * size
        filled = min(request.num_computed_tokens, slots)
        unfilled += slots - filled
        stays.setdefault(req, _Stay()).steps.append((memory, slots, filled))
    # Whatever two tables share is full, so what is not filled is nobody else's.
    memory.token_states = pool - free - unfilled
    if lack is Reason.FRAGMENTED:
        memory.scattered = free
    elif lack is Reason.NO_FREE_BLOCKS:
        memory.too_few = free
    else:
        memory.free = free
    return memory
