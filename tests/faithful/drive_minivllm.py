"""Carry plans out with our scheduler, through the engine core's own inputs, and note the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minivllm.config import make_config
from minivllm.core.interfaces import Shortage
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Data, Reason
from minivllm.trace.tracer import P, Tracer
from tests.faithful.plans import EOS, Plan, PlannedRequest, say
from tests.faithful.records import MAX_STEPS, Record

Told = tuple[str, str | None, dict[str, Any]]
DRAFTS_GIVEN_UP = "drafts given up"


class Listener(Tracer):
    """Keeps what the scheduler tells: (kind, request, fields)."""

    on = True

    def __init__(self) -> None:
        self.told: list[Told] = []

    def emit(
        self, kind: Callable[P, Data], req: str | None, /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self.told.append((kind.__name__, req, kwargs))


@dataclass
class Driven:
    steps: list[Record]
    told: list[list[Told]]
    """The events of each step, those of its inputs included."""


def drive(plan: Plan, as_vllm: bool = False) -> Driven:
    """``as_vllm``: with two intended differences switched off (README.md), so that a plan in which
    they show can be compared to its end."""
    return _Drive(plan, as_vllm).run()


def goes_its_own_way(told: list[Told]) -> bool:
    """Does one of these two differences show in a step that tells this?"""
    return any(kind in ("KvUncache", DRAFTS_GIVEN_UP) for kind, _, _ in told)


class _Drive:
    def __init__(self, plan: Plan, as_vllm: bool) -> None:
        self.plan = plan
        self.listener = Listener()
        config = make_config(**plan.knobs)
        self.core = EngineCore(config, ScriptedExecutor(config), self.listener)
        self.planned: dict[str, PlannedRequest] = {}
        self.core.scheduler._drafts.propose = self.draft  # type: ignore[attr-defined]
        if as_vllm:
            self.core.kv.withdraw_hashes = lambda *_: None  # type: ignore[method-assign]
        self._watch_room_for_drafts(as_vllm)

    def _watch_room_for_drafts(self, as_vllm: bool) -> None:
        """Before it grants drafts the scheduler asks whether there is room (without a word of hits,
        unlike whoever allocates or admits). ``as_vllm`` there always is; else we note a no."""
        shortage = self.core.kv.shortage

        def watched(request: Request, num_tokens: int, *hit: Any) -> Shortage | None:
            if not hit and as_vllm:
                return None
            short = shortage(request, num_tokens, *hit)
            if not hit and short is not None:
                self.listener.told.append((DRAFTS_GIVEN_UP, request.req_id, {}))
            return short

        self.core.kv.shortage = watched  # type: ignore[method-assign]

    def run(self) -> Driven:
        driven = Driven([], [])
        for step in range(1, MAX_STEPS):
            self.listener.told = told = []
            record = self.put_in(step)
            if self.core.has_requests():
                record |= self.step()
            elif step > self.plan.last_input:
                break
            driven.steps.append(record)
            driven.told.append(told)
        return driven

    def put_in(self, step: int) -> Record:
        for number, planned in enumerate(self.plan.requests, start=1):
            if planned.arrive == step:
                self.add(number, planned)
        for when, number in self.plan.aborts:
            if when == step:
                self.core.abort_request(f"r{number}", Reason.CLIENT)
        self.core.take_outputs()  # vLLM's core answers no abort
        return {"reset": [self.core.reset_prefix_cache() for s in self.plan.resets if s == step]}

    def add(self, number: int, planned: PlannedRequest) -> None:
        name = self.core.add_request(
            EngineCoreRequest(
                request_id=f"r{number}",
                prompt_token_ids=planned.prompt,
                sampling_params=SamplingParams(
                    max_tokens=planned.max_tokens,
                    min_tokens=planned.min_tokens,
                    ignore_eos=planned.ignore_eos,
                    stop_token_ids=planned.stop_token_ids,
                ),
                eos_token_id=EOS,
                priority=planned.priority,
                cache_salt=planned.cache_salt,
            )
        )
        assert name == f"r{number}"
        self.planned[name] = planned

    def step(self) -> Record:
        scheduler, told = self.core.scheduler, self.listener.told
        scheduled = scheduler.schedule()
        cached = scheduled.scheduled_cached_reqs
        starts = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        record = {
            "grants": [[r, starts[r], n] for r, n in scheduled.num_scheduled_tokens.items()],
            "new": [new.req_id for new in scheduled.scheduled_new_reqs],
            "resumed": sorted(cached.resumed_req_ids),
            "preempted": [req for kind, req, _ in told if kind == "ReqPreempt"],
            "tables": self.tables(),
            "running": [request.req_id for request in scheduler.running],
            "waiting": [request.req_id for request in scheduler.waiting],
            "free": self.free(),
            "cached": self.cached(),
        }
        first = {r.req_id for r in scheduler.running if r.num_output_tokens == 0}
        outputs = scheduler.update_from_output(scheduled, self.execute(scheduled))
        record["outputs"] = [
            self.output(one, one.request_id in first) for one in outputs if one.new_token_ids
        ]
        running = [request.req_id for request in scheduler.running]
        record["after"] = [running, self.free(), self.cached()]
        return record

    @staticmethod
    def output(one: EngineCoreOutput, first: bool) -> list[Any]:
        num_cached = one.num_cached_tokens if first else None
        return [
            one.request_id, list(one.new_token_ids), one.finish_reason, one.stop_reason, num_cached
        ]  # fmt: skip

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Whoever's last known token has run says the next one."""
        sampled = {}
        for req_id in scheduled.num_scheduled_tokens:
            request = self.core.scheduler.requests[req_id]
            guessed = scheduled.scheduled_spec_decode_tokens.get(req_id, [])
            if request.num_computed_tokens - len(guessed) == request.num_tokens:
                sampled[req_id] = say(self.planned[req_id], request.num_output_tokens, guessed)
        return ModelRunnerOutput(sampled_token_ids=sampled)

    def draft(self, request: Request) -> None:
        """In the place of the n-gram proposer."""
        guess = self.planned[request.req_id].drafts.get(str(request.num_output_tokens), [])
        request.spec_token_ids = list(guess)

    # --- what the engine holds -----------------------------------------------------------------

    def tables(self) -> dict[str, list[int]]:
        tables = sorted(self.core.kv.tables.items())
        return {name: [block.block_id for block in table] for name, table in tables if table}

    def free(self) -> list[int]:
        return [block.block_id for block in self.core.kv.pool.free_queue]

    def cached(self) -> list[list[int]]:
        return sorted(list(twins) for twins in self.core.kv.pool.cached.values())
