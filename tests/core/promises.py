"""What is promised to those who wait and those who run, checked right after each decision.

Between ``schedule`` and the update that follows it stands exactly what the scheduler saw, so a
claim can be examined by its numbers. Nothing here asks the scheduler for its reasons.

Everybody
    Who runs is served before anybody new, in order of admission; who is passed over is so for want
    of budget, and then nobody behind is served either. Somebody gives way only to one that runs,
    never to a newcomer, and never for the sake of a draft. Nobody is admitted in such a step.
    The head of the line is admitted in the first step in which nobody gives way, a seat and some
    budget are left (with chunking off: all that it lacks), and its whole sequence fits in the free
    blocks that need not be kept. So an engine in which nobody runs starts the head at once, and no
    step is idle unless somebody gave way or ended in it.
    Who waits for a grammar is passed over and holds up nobody: the head is the first who does not.
First come, first served
    Those who run, then those who wait: in order of arrival, as long as nobody was passed over for
    a grammar. The oldest gets tokens in every step and never gives way, so it ends; then the next
    is the oldest. Nobody starves.
Priority
    The line is sorted by (priority, arrival). Nobody gives way while a less urgent one runs. Who is
    less urgent may wait for as long as more urgent ones arrive: that is all it is promised.
Strict admission
    When somebody is admitted, the free blocks cover all that those who run still lack of what they
    have now: nobody gives way for the sake of a prompt.
Watermark
    Who joins others leaves its share of the pool free, its own prompt counted as a whole.
Static batching
    Nobody joins a batch that runs.
Chunking off
    Who is admitted runs whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minivllm.core.block_hash import extend_block_hashes
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.request import Request, RequestStatus


@dataclass(frozen=True)
class Decision:
    """A step's batch, and who stood where before it."""

    scheduler: Scheduler
    ran: list[Request]
    waited: list[Request]
    """Without those who wait for a grammar."""
    batch: SchedulerOutput

    @property
    def gave_way(self) -> list[Request]:
        return [r for r in self.ran if r.status is RequestStatus.PREEMPTED]

    @property
    def stayed(self) -> list[Request]:
        return [r for r in self.ran if r.status is RequestStatus.RUNNING]

    @property
    def joined(self) -> list[Request]:
        return [r for r in self.waited if r.status is RequestStatus.RUNNING]

    @property
    def ended(self) -> list[Request]:
        return [r for r in self.ran + self.waited if r.status is RequestStatus.FINISHED]

    @property
    def budget_left(self) -> int:
        return self.scheduler.config.max_num_batched_tokens - sum(self.granted.values())

    @property
    def granted(self) -> dict[str, int]:
        return self.batch.num_scheduled_tokens

    @property
    def free(self) -> int:
        return self.scheduler.kv.pool.num_free_blocks


class Watched(Scheduler):
    """The scheduler, with an eye on each of its decisions."""

    on_decision: Callable[[Decision], None] | None = None
    always_fcfs = True  # no other policy has ever lined anybody up

    def schedule(self) -> SchedulerOutput:
        ran, waited = list(self.running), [r for r in self.waiting if not r.waits_for_grammar]
        self.always_fcfs = self.always_fcfs and self.config.policy == "fcfs"
        decision = Decision(self, ran, waited, super().schedule())
        to_everybody(decision)
        to_the_head(decision)
        by_policy(decision)
        by_knobs(decision)
        if self.on_decision is not None:
            self.on_decision(decision)
        return decision.batch


def urgency(request: Request) -> tuple[int, int]:
    return request.priority, request.ordinal


def lacks(scheduler: Scheduler, request: Request) -> int:
    """Blocks that a running request has yet to get for the tokens that it has now."""
    kv = scheduler.kv
    if not isinstance(kv, KVCacheManager):
        return 0  # it got all at once
    return max(-(-request.num_tokens // kv.block_size) - len(kv.tables[request.req_id]), 0)


def to_everybody(d: Decision) -> None:
    assert d.budget_left >= 0, "more was granted than the budget"
    assert all(n >= 1 for n in d.granted.values()), "an empty grant"
    order = [r.req_id for r in d.stayed + d.joined]
    assert order == [r.req_id for r in d.scheduler.running], "newcomers stand behind those who run"
    assert list(d.granted) == order[: len(d.granted)], "somebody was passed over"
    if len(d.granted) < len(d.stayed):
        assert d.gave_way or d.budget_left == 0, "a running request got nothing"
    assert not (d.gave_way and d.joined), "somebody was admitted in a step that preempted"
    if d.ran or d.waited:
        assert d.granted or d.gave_way or d.ended, "an idle step"
    if d.gave_way:
        assert d.granted or d.stayed or d.ended, "everybody gave way, to nobody"
    for request in d.scheduler.running:
        drafts = d.batch.scheduled_spec_decode_tokens.get(request.req_id, [])
        assert request.num_computed_tokens <= request.num_tokens + len(drafts)
        assert request.num_computed_tokens < d.scheduler.max_model_len


def to_the_head(d: Decision) -> None:
    """Whoever is the first to wait when the decision is taken has something against it."""
    s = d.scheduler
    head = next((r for r in s.waiting if not r.waits_for_grammar), None)
    if head is None or d.gave_way:
        return
    config, kv = s.config, s.kv
    if config.batching == "static" and d.ran:
        return
    if len(s.running) >= config.max_num_seqs or d.budget_left == 0:
        return
    hits = _hits(s, head)
    lacking = head.num_tokens - len(hits) * kv.block_size
    if not config.enable_chunked_prefill and lacking > d.budget_left:
        return
    kept = int(config.watermark * len(kv.pool.blocks)) if d.granted else 0
    if config.admission == "strict":
        kept += sum(lacks(s, r) for r in s.running)
    if isinstance(kv, KVCacheManager):
        fresh = -(-head.num_tokens // kv.block_size) - len(hits)
        assert fresh + sum(b.ref_cnt == 0 for b in hits) > d.free - kept, f"{head} could start"
        return
    size = kv.num_blocks_to_start(head)
    free = "".join("x" if b.ref_cnt else "." for b in kv.pool.blocks)
    assert size > d.free - kept or "." * size not in free, f"{head} could start"


def _hits(s: Scheduler, request: Request) -> list:
    kv, hashes, hits = s.kv, [], []
    if not kv.pool.enable_caching:
        return []
    extend_block_hashes(hashes, request.token_ids, kv.block_size, request.cache_salt)
    for block_hash in hashes[: (request.num_tokens - 1) // kv.block_size]:
        twins = kv.pool.cached.get(block_hash)
        if twins is None:
            break
        hits.append(next(iter(twins.values())))
    return hits


def by_policy(d: Decision) -> None:
    s = d.scheduler
    if s.config.policy == "priority":
        line = [urgency(r) for r in s.waiting]
        assert line == sorted(line), "the line is not by priority"
        if d.gave_way and d.stayed:
            assert min(map(urgency, d.gave_way)) > max(map(urgency, d.stayed)), "the wrong victim"
    elif s.always_fcfs:
        ordinals = [r.ordinal for r in [*s.running, *s.waiting]]
        assert ordinals == sorted(ordinals), "not in order of arrival"
        oldest = next((r for r in d.ran if r not in d.ended), None)
        if oldest is not None:
            assert oldest.req_id in d.granted, "the oldest got nothing"


def by_knobs(d: Decision) -> None:
    s, config = d.scheduler, d.scheduler.config
    threshold = config.long_prefill_token_threshold
    if threshold and config.enable_chunked_prefill and len(d.ran) + len(d.waited) > 1:
        assert all(n <= threshold for n in d.granted.values()), "more than the threshold"
    if not d.joined:
        return
    assert len(s.running) <= config.max_num_seqs, "more run than may"
    assert not (config.batching == "static" and d.ran), "somebody joined a static batch"
    if not config.enable_chunked_prefill:
        assert all(r.num_computed_tokens >= r.num_tokens for r in d.joined), "a prompt was cut"
    if config.admission == "strict":
        assert d.free >= sum(lacks(s, r) for r in s.running), "a prompt will lack blocks"
    if len(d.granted) > 1:
        share = int(config.watermark * len(s.kv.pool.blocks))
        assert d.free - lacks(s, d.joined[-1]) >= share, "the watermark was not kept"
