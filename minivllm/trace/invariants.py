"""Invariants: what must hold of the fold's state at a step's boundary; a breach is one sentence.

The state is believed in nothing: holders are counted from the tables, the free queue is held
against the reference counts, the hash table against the hashes of the blocks, each queue against
what its requests say of themselves. ``viz/static/core/invariants.js`` is the twin; both are held
to ``tests/data/broken-states.json``. A state costs one pass over its requests and its blocks.

Left out is what only a policy promises (that blank blocks are taken before cached ones, that no
table is longer than needed): a KV manager of one's own may choose otherwise. ``tests/core`` holds
the project's own to those, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from minivllm.trace.events import Event
from minivllm.trace.fold import RequestState, State, apply, forget_finished, new_state
from minivllm.trace.words import count

FINISHED_KEPT = 64
"""Finished requests that a live engine's own check goes on looking at."""

_QUEUE_OF = {
    "running": "running",
    "waiting": "waiting",
    "preempted": "waiting",
    "waiting_for_grammar": "waiting",
    "finished": "finished",
}
"""Where a request of each status stands."""


def violations(state: State) -> list[str]:
    """Each invariant that does not hold of the state at a step's boundary."""
    if state.config is None:
        return []
    return [*_queues(state), *_requests(state), *_blocks(state), *_hash_table(state)]


def step_violations(config: dict[str, Any] | None, begin: Any, ledger: Any) -> list[str]:
    """What does not hold of one step: ``begin`` and ``ledger`` are its events' data, or None.

    No grant is negative, and together they stay within the budget: that of the step, and that of
    the configuration.
    """
    if config is None or begin is None or ledger is None:
        return []
    found = [
        f"{row.req} is granted {count(row.granted, 'token')}"
        for row in ledger.rows
        if row.granted < 0
    ]
    granted = sum(row.granted for row in ledger.rows)
    budget = min(begin.budget, config["max_num_batched_tokens"])
    if granted > budget:
        found.append(f"the grants add up to {count(granted, 'token')}, the budget is {budget}")
    return found


class StepChecker:
    """Takes the events of one engine in order and folds them; at a step's end it can say what
    does not hold."""

    def __init__(self) -> None:
        self.state = new_state()
        self._begin: Any = None
        self._ledger: Any = None

    def take(self, event: Event) -> None:
        """Raises what ``apply`` raises for an event that does not fit those before it."""
        if event.kind == "step.begin":
            self._begin, self._ledger = event.data, None
        elif event.kind == "sched.ledger":
            self._ledger = event.data
        apply(self.state, event)

    def breaches(self) -> list[str]:
        """To be asked when the step has ended, or has only its ``step.end`` to tell."""
        step = step_violations(self.state.config, self._begin, self._ledger)
        return step + violations(self.state)


class TraceChecker:
    """Takes the events of one engine in order; says of each what it breaks."""

    def __init__(self) -> None:
        self._steps = StepChecker()
        self._ended = 0  # the last step that has ended
        self._open: int | None = None  # the one that has begun

    def take(self, event: Event) -> list[str]:
        found = self._number(event)
        self._steps.take(event)
        if event.kind == "step.end":
            found += self._steps.breaches()
        elif event.kind == "trace.violation":
            found.append(event.data.message)
        return found

    def _number(self, event: Event) -> list[str]:
        """Steps are numbered 1, 2, 3, …, and each ends before the next begins."""
        step, due = event.step, self._ended + 1
        if event.kind in ("run.start", "run.snapshot"):  # a new life, or what came before is cut
            self._ended, self._open = (0 if event.kind == "run.start" else step), None
            return []
        found = []
        if event.kind == "step.begin":
            if self._open is not None:
                found.append(f"it begins before step {self._open} has ended")
            elif step != due:
                found.append(f"it begins where step {due} was due")
            self._open, self._ended = step, step - 1
        elif event.kind == "step.end":
            if step != self._open:
                found.append("it ends, but has not begun")
            self._open, self._ended = None, step
        elif step not in ((self._ended, due) if self._open is None else (self._open,)):
            now = due if self._open is None else self._open
            found.append(f"event {event.seq} ({event.kind}) is told in step {now}")
        return found


class SelfCheck:
    """A live engine's look at what it tells: each breach when it is new. Never raises."""

    def __init__(self) -> None:
        self._steps = StepChecker()
        self._told: set[str] = set()
        self._lost: str | None = None
        """Why nothing can be said of the state any more."""

    def take(self, event: Event) -> None:
        if self._lost is None:
            try:
                self._steps.take(event)
            except Exception as error:  # a check must not end what it checks
                what = f"event {event.seq} ({event.kind})"
                self._lost = f"{what} does not fit what was told before it ({error})"

    def new_breaches(self) -> list[str]:
        """At a step's end; what was broken before and still is, was told before."""
        found = [self._lost] if self._lost is not None else self._steps.breaches()
        new = [breach for breach in found if breach not in self._told]
        self._told = set(found)
        if self._steps.state.step % 64 == 0:
            forget_finished(self._steps.state, FINISHED_KEPT)
        return new


# --- the four parts ----------------------------------------------------------------------------


def _queues(state: State) -> Iterator[str]:
    """Who lives stands in one place, once, and its status says which."""
    queues = {"waiting": state.waiting, "running": state.running, "finished": state.finished}
    places = Counter(name for queue in queues.values() for name in queue)
    standing = {name: place for place, queue in queues.items() for name in queue}
    for name, n in places.items():
        if n > 1:
            yield f"{name} stands in the queues {n} times"
        if name not in state.requests:
            yield f"{name} stands in {standing[name]}, but never arrived"
    for name, request in state.requests.items():
        if standing.get(name) != _QUEUE_OF.get(request.status):
            yield f"{name} is {request.status}, but stands in {standing.get(name, 'no queue')}"
    most = max(state.config["max_num_seqs"] if state.config else 0, state.running_when_lowered)
    if len(state.running) > most:
        yield f"{count(len(state.running), 'request')} run, max_num_seqs allows {most}"


def _requests(state: State) -> Iterator[str]:
    """A request has as much computed as can be, and blocks for it; who does not run has none."""
    size = int(state.config["block_size"]) if state.config else 1
    for name, request in state.requests.items():
        table, n = request.table, request.num_computed_tokens
        if request.status == "running":
            need = -(-n // size)
            if len(table) < need:
                yield f"{name} has {count(len(table), 'block')}, its computed tokens need {need}"
        elif table:
            yield f"{name} holds {count(len(table), 'block')}, but does not run"
        yield from _counts(name, request)


def _counts(name: str, request: RequestState) -> Iterator[str]:
    n = request.num_computed_tokens
    if n < 0:
        yield f"{name} has {n} tokens computed"
    if request.status == "finished":  # who fails may end with drafts in the count
        return
    if n > len(request.tokens):
        yield f"{name} has more tokens computed than it has"
    if request.status != "running" and (n or request.drafts):
        yield f"{name} waits, but has tokens computed or drafted"


def _blocks(state: State) -> Iterator[str]:
    """A block is free or in use; its reference count is the number of tables that hold it."""
    blocks = state.blocks
    holders = Counter(i for request in state.requests.values() for i in request.table)
    free = Counter(state.free)
    for i in sorted({*holders, *free}):
        if not 0 <= i < len(blocks):
            yield f"block {i} is told of, the pool has {len(blocks)}"
    if blocks[0].ref != 1 or blocks[0].hash is not None or holders[0] or free[0]:
        yield "block 0, the null block, is given out"
    for i, block in enumerate(blocks[1:], start=1):
        if block.ref != holders[i]:
            yield f"block {i}: ref {block.ref}, but it is in {count(holders[i], 'table')}"
        if (block.ref > 0) == (free[i] > 0):
            yield f"block {i}: ref {block.ref}, but it is {'' if free[i] else 'not '}free"
    used = sum(block.ref > 0 for block in blocks[1:])
    if used + len(state.free) != len(blocks) - 1 or len(free) != len(state.free):
        yield f"{used} blocks used + {len(state.free)} free != {len(blocks) - 1}"


def _hash_table(state: State) -> Iterator[str]:
    """The table finds each block that has a hash, once, and no other."""
    hashed = {(block.hash, i) for i, block in enumerate(state.blocks) if block.hash is not None}
    entries = Counter((key, i) for key, twins in state.cached.items() for i in twins)
    for (key, i), n in entries.items():
        if (key, i) not in hashed:
            yield f"hash {key} leads to block {i}, which does not have it"
        if n > 1:
            yield f"hash {key} leads to block {i} {n} times"
    for i, block in enumerate(state.blocks):
        if block.hash is not None and (block.hash, i) not in entries:
            yield f"block {i} cannot be found by its hash {block.hash}"
    if not all(state.cached.values()):
        yield "a hash leads to no block"
    if state.cached and state.config and not state.config["enable_prefix_caching"]:
        yield "blocks are hashed with prefix caching off"
