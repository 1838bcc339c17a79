"""Drives a ModelRunner by hand-made schedules: the scheduler's part, in forty lines."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from minivllm.core.scheduler_output import (
    CachedRequestData,
    ModelRunnerOutput,
    NewRequestData,
    SchedulerOutput,
)
from minivllm.sampling_params import SamplingParams
from minivllm.worker.model_runner import ModelRunner


@dataclass
class Driven:
    """A request as the driver knows it."""

    tokens: list[int]
    num_prompt_tokens: int
    params: SamplingParams
    seed: int
    stop_token_ids: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    known: bool = False
    resumed: bool = False

    @property
    def output(self) -> list[int]:
        return self.tokens[self.num_prompt_tokens :]


class Driver:
    """``add`` requests, then ``step({name: tokens to run})``; blocks come in a shuffled order."""

    def __init__(self, runner: ModelRunner, num_blocks: int = 200, seed: int = 0) -> None:
        self.runner = runner
        self.requests: dict[str, Driven] = {}
        self.finished: list[str] = []
        self.steps = 0
        self.free = list(range(1, num_blocks))
        random.Random(seed).shuffle(self.free)
        runner.initialize_kv_cache(num_blocks)

    def add(
        self,
        name: str,
        prompt: list[int],
        seed: int = 0,
        stop_token_ids: list[int] | None = None,
        hit: tuple[list[int], int] = ([], 0),
        **params: Any,
    ) -> None:
        """``hit``: blocks that already hold the first so many tokens."""
        self.requests[name] = Driven(
            list(prompt),
            len(prompt),
            SamplingParams(**{"temperature": 0, **params}),
            seed,
            stop_token_ids or [],
            blocks=list(hit[0]),
            computed=hit[1],
        )

    def preempt(self, name: str) -> None:
        request = self.requests[name]
        self.free = request.blocks[::-1] + self.free
        request.blocks, request.computed, request.resumed = [], 0, True

    def finish(self, name: str) -> Driven:
        request = self.requests.pop(name)
        self.free += request.blocks
        self.finished.append(name)
        return request

    def step(self, plan: dict[str, int]) -> ModelRunnerOutput:
        self.steps += 1
        new: list[NewRequestData] = []
        cached = CachedRequestData()
        for name, count in plan.items():
            request = self.requests[name]
            block_size = self.runner.block_size
            needed = -(-(request.computed + count) // block_size) - len(request.blocks)
            fresh = [self.free.pop(0) for _ in range(needed)]
            request.blocks += fresh
            if not request.known:
                new.append(
                    NewRequestData(
                        name,
                        request.tokens,
                        request.params,
                        request.seed,
                        request.stop_token_ids,
                        list(request.blocks),
                        request.computed,
                    )
                )
                request.known = True
                continue
            cached.req_ids.append(name)
            cached.num_computed_tokens.append(request.computed)
            cached.new_block_ids.append(list(request.blocks) if request.resumed else fresh)
            if request.resumed:
                cached.resumed_req_ids.add(name)
                request.resumed = False
        total = sum(plan.values())
        finished, self.finished = self.finished, []
        output = self.runner.execute_model(
            SchedulerOutput(self.steps, new, cached, dict(plan), total, finished)
        )
        for name, count in plan.items():
            self.requests[name].computed += count
            self.requests[name].tokens += output.sampled_token_ids.get(name, [])
        return output

    def decode(self, names: list[str], steps: int) -> None:
        for _ in range(steps):
            self.step(dict.fromkeys(names, 1))
