"""Admission: may a waiting request start in this step, and with how many tokens?

Counterpart in vLLM: the second half of ``Scheduler.schedule`` and the first of
``KVCacheManager.allocate_slots`` (``full_sequence_must_fit``). The answer is a value, either
:class:`Admitted` or :class:`Refused`; nothing is taken here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minivllm.config import SchedulerConfig
from minivllm.core.interfaces import KVManager, PrefixHit
from minivllm.core.step import Step
from minivllm.request import Request
from minivllm.trace.events import Reason


@dataclass(frozen=True, slots=True)
class Admitted:
    """``num_new_tokens`` run now, after the ``hit`` that needs no running."""

    hit: PrefixHit
    num_new_tokens: int
    limited_by: Reason | None


@dataclass(frozen=True, slots=True)
class Refused:
    """``need`` and ``have`` are blocks, tokens, requests or grammars, as the reason says."""

    reason: Reason
    need: int
    have: int
    num_hit_tokens: int = 0
    num_kept: int = 0  # free blocks that ``have`` leaves out

    def told(self) -> dict[str, Any]:
        """As ``sched.skip`` tells it."""
        return {
            "reason": self.reason,
            "need": self.need,
            "have": self.have,
            "hit": self.num_hit_tokens,
            "kept": self.num_kept,
        }


class Admission:
    def __init__(self, config: SchedulerConfig, kv: KVManager) -> None:
        self.config = config
        self.kv = kv

    def examine(self, request: Request, running: list[Request], step: Step) -> Admitted | Refused:
        """The checks, cheapest first."""
        budget = step.budget  # tokens that are left
        if request.waits_for_grammar:
            return Refused(Reason.WAITING_FOR_GRAMMAR, need=1, have=0)
        if self.config.batching == "static" and step.num_running_before:
            return Refused(Reason.STATIC_BATCH, need=step.num_running_before, have=0)
        if len(running) >= self.config.max_num_seqs:
            return Refused(Reason.MAX_NUM_SEQS, need=1, have=0)
        if budget == 0:
            return Refused(Reason.NO_BUDGET, need=request.num_tokens, have=0)

        # The look-up comes before the count: how much there is to run depends on it.
        hit = self.kv.find_prefix(request)
        # num_tokens, not num_prompt_tokens: a resumed one replays its output.
        lacking = request.num_tokens - hit.num_tokens
        wanted, limited_by = limit_tokens(lacking, step.long_prefill_threshold, budget)
        if not self.config.enable_chunked_prefill and lacking > budget:
            return Refused(Reason.CHUNKING_OFF, lacking, budget, hit.num_tokens)

        # The whole sequence must fit, not just this step's chunk: otherwise several long prompts
        # would be let in together and preempt one another half-way (vllm issue 16832).
        others_scheduled = bool(step.grants)
        # No more can be kept than is free: "have" is then 0, and nobody starts.
        kept = min(self._kept_free(running, others_scheduled), self.kv.pool.num_free_blocks)
        short = self.kv.shortage(request, request.num_tokens, hit, kept)
        if short is not None:
            return Refused(short.reason, short.need, short.have, hit.num_tokens, kept)
        return Admitted(hit, wanted, limited_by)

    def _kept_free(self, running: Iterable[Request], others_scheduled: bool) -> int:
        """Free blocks that an admission must leave.

        The watermark holds only beside others: alone, a request may use the whole pool, else one
        that needs it all would wait for ever.
        """
        kept = int(self.config.watermark * len(self.kv.pool.blocks)) if others_scheduled else 0
        if self.config.admission == "strict":
            kept += sum(self.kv.num_blocks_needed(r, r.num_tokens) for r in running)
        return kept


def long_prefill_threshold(config: SchedulerConfig, num_requests: int) -> int:
    """Most tokens of one prompt in a step; 0 = no limit but the budget.

    It keeps a long prompt from taking the budget of others: alone, a request has it all.
    """
    limited = config.enable_chunked_prefill and num_requests > 1
    return config.long_prefill_token_threshold if limited else 0


def limit_tokens(lacking: int, threshold: int, budget: int) -> tuple[int, Reason | None]:
    """How many of the ``lacking`` tokens may run, and which limit cut them, if any did."""
    n, limited_by = lacking, None
    if 0 < threshold < n:
        n, limited_by = threshold, Reason.LONG_PREFILL_THRESHOLD
    if budget < n:
        n, limited_by = budget, Reason.NO_BUDGET
    return n, limited_by
