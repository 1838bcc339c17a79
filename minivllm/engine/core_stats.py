"""CoreStats: how the engine stands after each step, and when its requests passed their stations.

Always on, at a few microseconds a step: metrics, routing and ``/load`` read these, never the trace.
A test holds them against the fold of the events, so the two cannot tell different stories.

    after schedule()    events: who was admitted, who gave way; tokens that run, prefix hits
    after execute       drafts that were right
    after update        how the engine stands: queues and pool, as the next step will find them

Counterpart in vLLM: ``make_stats`` and ``make_spec_decoding_stats`` in
``vllm/v1/core/sched/scheduler.py``, where the scheduler itself keeps the clock. Left out: LoRA,
KV connectors, CUDA graphs.
"""

from __future__ import annotations

import time

from msgspec.structs import replace

from minivllm.config import CacheConfig
from minivllm.core.interfaces import KVManager, SchedulerInterface
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.grammars import Grammars
from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    SchedulerStats,
    SpecDecodingStats,
)
from minivllm.request import Request


class CoreStats:
    """Used on the core's thread."""

    def __init__(
        self,
        engine: int,
        scheduler: SchedulerInterface,
        kv: KVManager,
        grammars: Grammars,
        cache: CacheConfig,
    ) -> None:
        self.engine = engine
        self._scheduler, self._pool, self._grammars = scheduler, kv.pool, grammars
        self._prefix_caching = cache.enable_prefix_caching
        self._told = self._standing()  # what the front end knows
        self._queries = self._hits = 0  # tokens, of the current step

    # --- a request's stations ------------------------------------------------------------------

    def queued(self, request: Request) -> None:
        queued = EngineCoreEvent(EngineCoreEventType.QUEUED, time.perf_counter_ns())
        request.events.append(queued)

    def scheduled(self, step: SchedulerOutput) -> None:
        """The step's batch is decided. Note who begins with it, goes on again, or gave way."""
        t_ns = time.perf_counter_ns()
        self._queries = self._hits = 0
        for new in step.scheduled_new_reqs:
            self._note(new.req_id, EngineCoreEventType.SCHEDULED, t_ns)
            # As in vLLM, only first admissions count, and no prompt that was not looked up.
            if self._prefix_caching and new.sampling_params.prompt_logprobs is None:
                self._queries += len(new.prompt_token_ids)
                self._hits += new.num_computed_tokens
        for req_id in step.scheduled_cached_reqs.resumed_req_ids:
            self._note(req_id, EngineCoreEventType.SCHEDULED, t_ns)
        for req_id in step.preempted_req_ids:
            self._note(req_id, EngineCoreEventType.PREEMPTED, t_ns)

    def _note(self, req_id: str, what: EngineCoreEventType, t_ns: int) -> None:
        request = self._scheduler.requests.get(req_id)
        if request is not None:
            request.events.append(EngineCoreEvent(what, t_ns))

    # --- the statistics ------------------------------------------------------------------------

    def of_step(
        self,
        step: SchedulerOutput,
        result: ModelRunnerOutput | str,
        outputs: list[EngineCoreOutput],
    ) -> SchedulerStats:
        """What the step did, and how the engine stands after it."""
        self._told = self._standing()
        return replace(
            self._told,
            prefix_cache_queries=self._queries,
            prefix_cache_hits=self._hits,
            num_preempted_reqs=len(step.preempted_req_ids),
            num_prefill_tokens=step.total_num_scheduled_tokens - step.num_decode_tokens,
            num_decode_tokens=step.num_decode_tokens,
            num_generation_tokens=sum(len(output.new_token_ids) for output in outputs),
            spec_decoding_stats=_drafts(step, result),
        )

    def of_input(self) -> SchedulerStats | None:
        """How the engine stands after an input; None if the front end knows it already."""
        stands = self._standing()
        if stands == self._told:
            return None
        self._told = stands
        return stands

    def _standing(self) -> SchedulerStats:
        scheduler, pool = self._scheduler, self._pool
        deferred = self._grammars.num_waiting
        return SchedulerStats(
            engine=self.engine,
            step=scheduler.current_step,
            num_running_reqs=len(scheduler.running),
            num_waiting_reqs=len(scheduler.waiting) - deferred,
            num_skipped_waiting_reqs=deferred,
            kv_cache_usage=1 - pool.num_free_blocks / pool.num_usable_blocks,
        )


def _drafts(step: SchedulerOutput, result: ModelRunnerOutput | str) -> SpecDecodingStats | None:
    """None where no draft was judged."""
    if not step.scheduled_spec_decode_tokens or isinstance(result, str):
        return None
    num_drafts = num_draft_tokens = num_accepted = 0
    per_pos: list[int] = []
    for req_id, drafts in step.scheduled_spec_decode_tokens.items():
        sampled = result.sampled_token_ids.get(req_id)
        if not sampled or req_id in result.errors:
            continue
        accepted = len(sampled) - 1
        num_drafts += 1
        num_draft_tokens += len(drafts)
        num_accepted += accepted
        per_pos += [0] * (len(drafts) - len(per_pos))
        for position in range(accepted):
            per_pos[position] += 1
    if not num_drafts:
        return None
    return SpecDecodingStats(
        num_drafts=num_drafts,
        num_draft_tokens=num_draft_tokens,
        num_accepted_tokens=num_accepted,
        num_accepted_tokens_per_pos=per_pos,
    )
