"""Carry plans out with our scheduler, through the engine core's own inputs, and note the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minivllm.config import make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Data, Reason
from minivllm.trace.tracer import P, Tracer
from tests.faithful.plans import EOS, Plan, PlannedRequest
from tests.faithful.records import MAX_STEPS, Record

Told = tuple[str, str | None, dict[str, Any]]


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


def drive(plan: Plan, keep_refunded_hashes: bool = False) -> Driven:
    """``keep_refunded_hashes``: do not un-register what a victim of the same step had hashed, as
    vLLM does not (see README.md)."""
    return _Drive(plan, keep_refunded_hashes).run()


class _Drive:
    def __init__(self, plan: Plan, keep_refunded_hashes: bool) -> None:
        self.plan = plan
        self.listener = Listener()
        config = make_config(**plan.knobs)
        self.core = EngineCore(config, ScriptedExecutor(config), self.listener)
        if keep_refunded_hashes:
            self.core.kv.withdraw_hashes = lambda *_: None  # type: ignore[method-assign]
        self.planned: dict[str, PlannedRequest] = {}

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
        """Whoever's last token has run says the next one."""
        sampled = {}
        for req_id in scheduled.num_scheduled_tokens:
            request = self.core.scheduler.requests[req_id]
            if request.num_computed_tokens == request.num_tokens:
                sampled[req_id] = [self.planned[req_id].output[request.num_output_tokens]]
        return ModelRunnerOutput(sampled_token_ids=sampled)

    # --- what the engine holds -----------------------------------------------------------------

    def tables(self) -> dict[str, list[int]]:
        tables = sorted(self.core.kv.tables.items())
        return {name: [block.block_id for block in table] for name, table in tables if table}

    def free(self) -> list[int]:
        return [block.block_id for block in self.core.kv.pool.free_queue]

    def cached(self) -> list[list[int]]:
        return sorted(list(twins) for twins in self.core.kv.pool.cached.values())
