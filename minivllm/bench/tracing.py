"""What the trace costs: three engines take turns, step by step, in one process.

    removed      the calls are not in the source (``stripped.py``)
    off          the calls are there, and nobody listens
    structure    level ``structure``: every decision is written to a file

All three run the same requests: first with given tokens, which shows the cost itself, in CPU time
of this thread; then with the model, which shows its share of a step, in time by the clock. Who
begins changes from step to step. The claims: off is within the noise of removed; structure takes
at most 5 % of a step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from minivllm.bench.stripped import stripped_engine_core
from minivllm.config import EngineConfig, make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.executor.base import Executor
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import make_header
from minivllm.scenario_file import made_up_ids
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.texts import text_after
from minivllm.trace.tracer import OFF

VARIANTS = ("removed", "off", "structure")
GOAL_SHARE = 0.05
BATCH = 16
PROMPT_TOKENS = 32
SKIPPED = 4  # first steps: the prompts, and what a process does once

ExecutorOf = Callable[[EngineConfig], Executor]


@dataclass(slots=True)
class Cost:
    """Nanoseconds of each decode step of each variant."""

    batch: int
    ns: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in VARIANTS})

    def median_ns(self, variant: str) -> float:
        return median(self.ns[variant])

    def extra_ns(self, variant: str) -> float:
        """Over ``removed``: the median of the differences of steps that ran side by side."""
        pairs = zip(self.ns[variant], self.ns["removed"], strict=True)
        return median(one - other for one, other in pairs)

    def quartiles_ns(self, variant: str) -> tuple[float, float]:
        """Of those differences: half of them lie between."""
        pairs = zip(self.ns[variant], self.ns["removed"], strict=True)
        ordered = sorted(one - other for one, other in pairs)
        return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]

    def within_noise(self, variant: str) -> bool:
        """Is it as often faster than ``removed`` as slower, as far as half of the steps tell?"""
        low, high = self.quartiles_ns(variant)
        return low <= 0 <= high


def run(
    steps: int,
    executor: ExecutorOf = ScriptedExecutor,
    batch: int = BATCH,
    clock: Callable[[], int] = time.thread_time_ns,
    **knobs: Any,
) -> Cost:
    """``steps`` decode steps of ``batch`` requests with each variant, in turns."""
    blocks = 1 + batch * -(-(PROMPT_TOKENS + steps + SKIPPED + 2) // 16)
    config = make_config(
        **{"num_kv_blocks": blocks, "max_num_seqs": batch, "max_model_len": 2048, **knobs}
    )
    cost = Cost(batch)
    with tempfile.TemporaryDirectory() as directory:
        engines = {
            name: _engine(name, config, executor(config), Path(directory)) for name in VARIANTS
        }
        for engine in engines.values():
            _fill(engine, batch, steps + SKIPPED + 2)
        for number in range(steps + SKIPPED):
            turn = number % len(VARIANTS)
            for name in VARIANTS[turn:] + VARIANTS[:turn]:
                begin = clock()
                engines[name].step()
                took = clock() - begin
                if number >= SKIPPED:
                    cost.ns[name].append(took)
        engines["structure"].trace.close()
    return cost


def _engine(name: str, config: EngineConfig, executor: Executor, directory: Path) -> EngineCore:
    if name == "removed":
        core: EngineCore = stripped_engine_core().EngineCore(config, executor)
        return core
    if name == "off":
        return EngineCore(config, executor, OFF)
    log = TraceLog(make_header(config, executor), str(directory / "bench.trace.jsonl"))
    # As a real run has it: each token's text is made of its bytes and those of the tokens before.
    text = partial(text_after, lambda token_id: b" word")
    return EngineCore(config, executor, Recorder(log, token_text=text))


def _fill(engine: EngineCore, batch: int, max_tokens: int) -> None:
    params = SamplingParams(
        temperature=0.0, max_tokens=max_tokens, min_tokens=max_tokens, ignore_eos=True
    )
    for number in range(1, batch + 1):
        message = EngineCoreRequest(
            request_id=f"bench-{number}",
            prompt_token_ids=made_up_ids(f"request {number}", PROMPT_TOKENS),
            sampling_params=params,
        )
        engine.add_request(message)
