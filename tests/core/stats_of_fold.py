"""What the engine's statistics must be, told by the fold of its events and the events of one step.

Two ways to the same numbers: ``engine/core_stats.py`` counts as the engine goes along, here they
are read off the trace.
"""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.engine.messages import EngineCoreEvent, SchedulerStats, SpecDecodingStats
from minivllm.trace.events import Event, GrantWhy, Reason
from minivllm.trace.fold import State

STATIONS = {
    "req.enqueue": "queued",
    "req.admit": "scheduled",
    "req.resume": "scheduled",
    "req.preempt": "preempted",
}


def standing(state: State, step: int) -> SchedulerStats:
    """How the engine stands; no step is told of."""
    assert state.config is not None
    deferred = sum(state.requests[r].status == "waiting_for_grammar" for r in state.waiting)
    usable = state.config["num_kv_blocks"] - 1  # without the null block
    return SchedulerStats(
        engine=0,
        step=step,
        num_running_reqs=len(state.running),
        num_waiting_reqs=len(state.waiting) - deferred,
        num_skipped_waiting_reqs=deferred,
        kv_cache_usage=1 - len(state.free) / usable,
    )


def of_step(state: State, events: Sequence[Event]) -> SchedulerStats:
    """``events``: those of the step, after which the fold is ``state``."""

    def of(kind: str) -> list[Event]:
        return [event for event in events if event.kind == kind]

    looked_up = {e.req for e in of("kv.miss") if e.data.reason is not Reason.PROMPT_LOGPROBS}
    admitted = [e.data for e in of("req.admit") if e.req in looked_up]
    rows = [row for e in of("batch.compose") for row in e.data.rows]
    decode = sum(row.n for row in rows if row.why is GrantWhy.DECODE)
    stands = standing(state, events[-1].step)
    return SchedulerStats(
        engine=0,
        step=stands.step,
        num_running_reqs=stands.num_running_reqs,
        num_waiting_reqs=stands.num_waiting_reqs,
        num_skipped_waiting_reqs=stands.num_skipped_waiting_reqs,
        kv_cache_usage=stands.kv_cache_usage,
        prefix_cache_queries=sum(data.tokens for data in admitted),
        prefix_cache_hits=sum(data.hit for data in admitted),
        num_preempted_reqs=len(of("req.preempt")),
        num_prefill_tokens=sum(row.n for row in rows) - decode,
        num_decode_tokens=decode,
        num_generation_tokens=len(of("req.token")),
        spec_decoding_stats=drafts(events),
    )


def drafts(events: Sequence[Event]) -> SpecDecodingStats | None:
    accepted: dict[str | None, int] = {}
    ran: dict[str | None, int] = {}
    for event in events:
        if event.kind == "spec.accept":
            accepted[event.req], ran[event.req] = event.data.n, event.data.of
        elif event.kind == "spec.reject" and event.data.why is Reason.DRAFT_MISMATCH:
            ran[event.req] = accepted.get(event.req, 0) + event.data.n
    if not ran:
        return None
    return SpecDecodingStats(
        num_drafts=len(ran),
        num_draft_tokens=sum(ran.values()),
        num_accepted_tokens=sum(accepted.values()),
        num_accepted_tokens_per_pos=[
            sum(n > position for n in accepted.values()) for position in range(max(ran.values()))
        ],
    )


def stations(events: Sequence[Event], req: str) -> list[str]:
    """What a request went through, in order."""
    return [STATIONS[e.kind] for e in events if e.req == req and e.kind in STATIONS]


def told_stations(told: Sequence[EngineCoreEvent]) -> list[str]:
    return [event.type.value for event in told]
