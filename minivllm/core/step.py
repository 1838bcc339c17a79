"""Step: what one call of ``Scheduler.schedule`` has decided so far, and the batch it becomes.

Counterpart in vLLM: the local variables of ``Scheduler.schedule`` (``num_scheduled_tokens``,
``token_budget``, ``req_to_new_blocks``, …) and ``_make_cached_request_data``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minivllm.core.interfaces import KVManager
from minivllm.core.scheduler_output import CachedRequestData, NewRequestData, SchedulerOutput
from minivllm.request import Request, RequestStatus
from minivllm.trace import events as ev
from minivllm.trace.events import GrantWhy, LedgerRow, Reason


@dataclass(slots=True)
class Grant:
    """``n`` tokens of one request, from position ``start``."""

    request: Request
    start: int
    n: int
    why: GrantWhy
    new_block_ids: list[int]
    drafts: list[int]
    """Its last tokens, where they are guesses."""


def kind_of_work(request: Request, n: int) -> GrantWhy:
    """A name for what ``n`` more tokens are, for people; the scheduler makes no difference."""
    lacking = request.num_tokens - request.num_computed_tokens
    if n < lacking:
        return GrantWhy.CHUNK
    if lacking == 1 and request.num_output_tokens:
        return GrantWhy.DECODE
    started = request.status is RequestStatus.RUNNING
    return GrantWhy.LAST_CHUNK if started else GrantWhy.PREFILL


@dataclass(slots=True)
class Step:
    """The budget, who got how much of it, and why nobody got more."""

    total_budget: int
    budget: int  # tokens left
    num_running_before: int = 0  # requests that ran when the step began
    long_prefill_threshold: int = 0  # most tokens of one prompt; 0 = no limit but the budget
    grants: dict[str, Grant] = field(default_factory=dict)  # in batch order
    preempted: list[Request] = field(default_factory=list)
    stopped_by: Reason | None = None  # why the waiting queue was not looked at further
    rows: dict[str, tuple[int, int, Reason | None]] = field(default_factory=dict)
    """The ledger: asked, granted, limited by."""

    def add(self, grant: Grant, limited_by: Reason | None) -> None:
        self.grants[grant.request.req_id] = grant
        self.budget -= grant.n
        self.account(grant.request, grant.n, limited_by)

    def take_back(self, request: Request) -> int:
        """Refund a victim's grant of this step; returns its tokens (0 if it had none)."""
        grant = self.grants.pop(request.req_id, None)
        if grant is None:
            return 0
        self.budget += grant.n
        return grant.n

    def account(self, request: Request, granted: int, limited_by: Reason | None) -> None:
        """Note what a request asked for and got: its row in the ledger."""
        asked = request.num_tokens_with_spec - request.num_computed_tokens
        self.rows[request.req_id] = (asked, granted, limited_by)

    def ledger(self) -> dict[str, object]:
        """The fields of this step's ``sched.ledger``."""
        unused: Reason | None = None
        if self.budget > 0:
            limits = [limited_by for *_, limited_by in self.rows.values() if limited_by]
            unused = self.stopped_by or (limits[0] if limits else Reason.NOTHING_WAITS)
        return {
            "budget": self.total_budget,
            "used": self.total_budget - self.budget,
            "unused_reason": unused,
            "rows": [
                LedgerRow(req=req_id, asked=asked, granted=granted, limited_by=limited_by)
                for req_id, (asked, granted, limited_by) in self.rows.items()
            ],
        }

    def batch_rows(self) -> list[ev.BatchRow]:
        return [
            ev.BatchRow(req=req_id, why=grant.why, start=grant.start, n=grant.n)
            for req_id, grant in self.grants.items()
        ]

    def to_output(
        self, number: int, kv: KVManager, finished_req_ids: list[str], num_padding_tokens: int
    ) -> SchedulerOutput:
        """The batch for the worker: all of what it does not know yet, else only what changed."""
        new_reqs: list[NewRequestData] = []
        cached = CachedRequestData()
        for req_id, grant in self.grants.items():
            request = grant.request
            if request.known_to_worker:
                cached.req_ids.append(req_id)
                cached.new_block_ids.append(grant.new_block_ids)
                cached.num_computed_tokens.append(grant.start)
                if grant.why is GrantWhy.RESUME:
                    cached.resumed_req_ids.add(req_id)
                continue
            request.known_to_worker = True
            new_reqs.append(
                NewRequestData(
                    req_id=req_id,
                    prompt_token_ids=request.token_ids[: request.num_prompt_tokens],
                    sampling_params=request.sampling_params,
                    seed=request.seed,
                    stop_token_ids=request.stop_token_ids,
                    block_ids=kv.block_ids(request),
                    num_computed_tokens=grant.start,
                )
            )
        num_scheduled_tokens = {req_id: grant.n for req_id, grant in self.grants.items()}
        return SchedulerOutput(
            step=number,
            scheduled_new_reqs=new_reqs,
            scheduled_cached_reqs=cached,
            num_scheduled_tokens=num_scheduled_tokens,
            total_num_scheduled_tokens=sum(num_scheduled_tokens.values()),
            finished_req_ids=finished_req_ids,
            preempted_req_ids=[request.req_id for request in self.preempted],
            num_decode_tokens=sum(
                grant.n for grant in self.grants.values() if grant.why is GrantWhy.DECODE
            ),
            num_padding_tokens=num_padding_tokens,
            scheduled_spec_decode_tokens={
                req_id: grant.drafts for req_id, grant in self.grants.items() if grant.drafts
            },
        )
