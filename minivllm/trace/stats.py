"""Statistics of a run, counted from its events: work, budget, waits, cache, pool, victims.

What ``minivllm trace stats`` prints and ``--json`` gives. Numbers that times would enter are kept
apart (``times_ms``): all others are equal for two runs of one scenario.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from minivllm.trace.events import Event
from minivllm.trace.file import Trace
from minivllm.trace.fold import apply, new_state


class Victim(msgspec.Struct, frozen=True, kw_only=True):
    step: int
    req: str
    for_req: str = msgspec.field(name="for")
    tokens_lost: int


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that steps might have run, and what became of them."""

    total: int
    used: int
    unused: dict[str, int]
    """Reason → tokens of budget that were left over for it."""
    refused: dict[str, int]
    """Reason → tokens that requests asked for and were not granted. May exceed what was unused:
    the same token is asked for again in the next step."""


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """What the prefix cache gave to those who were admitted or resumed."""

    asked_tokens: int
    hit_tokens: int
    evicted_blocks: int
    hit_rate: float | None
    """``hit_tokens / asked_tokens``; None if nobody was admitted."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks in use at the ends of steps."""

    usable: int
    p50: int
    max: int
    taken: int
    """Over the whole run: how often a block was taken from the free queue."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    stream: str
    life: int
    """The engine that it is about, and which time it was started."""
    schema: str
    engine_version: str
    first_step: int
    steps: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    ended: dict[str, int]
    """Finish reason → requests."""
    first_token_steps: dict[str, int]
    """``p50`` and ``max`` of steps from arrival to the first token, both ends included."""
    budget: Budget
    waits: dict[str, int]
    """Reason → how often a request waited through a step for it, itself or behind another."""
    cache: Cache
    pool: Pool
    victims: list[Victim]
    times_ms: dict[str, float]
    """Median milliseconds of each phase of a step."""
    events: dict[str, int]
    """Kind → how many."""


def make_stats(trace: Trace) -> Stats:
    """All statistics of the trace's first engine in its last life, from the first step that it
    has; of another, give that one of ``trace.lives()``."""
    of: dict[str, list[Event]] = {}
    for event in trace.engine_events:
        of.setdefault(event.kind, []).append(event)

    def data(*kinds: str) -> list[Any]:
        return [event.data for kind in kinds for event in of.get(kind, [])]

    arrivals, first = data("req.arrive"), [d.steps_since_arrival for d in data("req.first_token")]
    ends = data("step.end")
    phases = ("schedule", "execute", "update")
    return Stats(
        name=trace.header.name,
        stream=trace.engines[0] if trace.engines else "",
        life=max(trace.epochs(trace.engines[0])) if trace.engines else 1,
        schema=trace.header.schema,
        engine_version=trace.header.engine_version,
        first_step=trace.first_step,
        steps=len(data("step.begin")),
        requests=len(arrivals),
        prompt_tokens=sum(len(d.prompt_token_ids) for d in arrivals),
        output_tokens=len(data("req.token")),
        ended=_sorted(Counter(d.reason for d in data("req.finish"))),
        first_token_steps={"p50": _median(first), "max": max(first)} if first else {},
        budget=_budget(data("sched.ledger")),
        waits=_waits(trace.steps.values()),
        cache=_cache(data("req.admit", "req.resume"), len(data("kv.evict"))),
        pool=_pool(trace, sum(len(d.blocks) for d in data("kv.alloc", "kv.reserve"))),
        victims=[
            Victim(
                step=e.step,
                req=str(e.req),
                for_req=e.data.for_req,
                tokens_lost=e.data.tokens_lost,
            )
            for e in of.get("sched.victim", [])
        ],
        times_ms={
            phase: round(statistics.median(getattr(d, f"{phase}_ns") for d in ends) / 1e6, 3)
            for phase in (phases if ends else ())
        },
        events=_sorted(Counter({kind: len(events) for kind, events in of.items()})),
    )


def _budget(ledgers: list[Any]) -> Budget:
    unused: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for ledger in ledgers:
        if ledger.unused_reason is not None:
            unused[ledger.unused_reason.value] += ledger.budget - ledger.used
        for row in ledger.rows:
            if row.limited_by is not None and row.asked > row.granted:
                refused[row.limited_by.value] += row.asked - row.granted
    return Budget(
        total=sum(ledger.budget for ledger in ledgers),
        used=sum(ledger.used for ledger in ledgers),
        unused=_sorted(unused),
        refused=_sorted(refused),
    )


def _waits(steps: Iterable[list[Event]]) -> dict[str, int]:
    """``sched.stop`` names all who wait; a ``sched.skip`` of somebody else stands for itself."""
    waits: Counter[str] = Counter()
    for events in steps:
        stops = [event.data for event in events if event.kind == "sched.stop"]
        heads = {stop.head for stop in stops}
        for stop in stops:
            waits[stop.reason.value] += 1 + len(stop.behind)
        for event in events:
            if event.kind == "sched.skip" and event.req not in heads:
                waits[event.data.reason.value] += 1
    return _sorted(waits)


def _cache(admissions: list[Any], evicted: int) -> Cache:
    asked, hit = sum(d.tokens for d in admissions), sum(d.hit for d in admissions)
    rate = round(hit / asked, 4) if asked else None
    return Cache(asked_tokens=asked, hit_tokens=hit, evicted_blocks=evicted, hit_rate=rate)


def _pool(trace: Trace, taken: int) -> Pool:
    state, in_use = new_state(), []
    for event in trace.engine_events:
        apply(state, event)
        if event.kind == "step.end":
            in_use.append(len(state.blocks) - 1 - len(state.free))
    usable = max(len(state.blocks) - 1, 0)
    return Pool(usable=usable, p50=_median(in_use), max=max(in_use, default=0), taken=taken)


def _median(numbers: list[int]) -> int:
    return statistics.median_high(numbers) if numbers else 0


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
