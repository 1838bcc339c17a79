"""What one step's scheduling costs: by requests that run, and by blocks in the pool.

The real scheduler over the paged pool, prefix caching on, tracing off, no model. Everybody decodes
one token a step; prompts have 1 to 16 tokens, so that in every step one request in sixteen needs a
new block and fills (and hashes) an old one. All points are measured in turns, round by round, and a
point is the median of its steps, in CPU time of this thread: no step waits for anything, and what
other processes take does not count.

The cost should grow with the batch, since every request is looked at, and not with the pool:
taking, finding and giving back a block are O(1).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from minivllm.config import CacheConfig, SchedulerConfig
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import ModelRunnerOutput
from minivllm.executor.scripted import counting_tokens
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.trace.tracer import OFF

GOAL_MS = 2.0
GOAL_POINT = (256, 10_000)
BATCHES = tuple((batch, 10_000) for batch in (64, 128, 256, 512))
POOLS = tuple((256, pool) for pool in (1_000, 10_000, 100_000))
BLOCK_SIZE, MAX_MODEL_LEN = 16, 4096
STEPS = 32
"""Of decoding in a round: 256 requests then hold 768 blocks at most, and the least pool has 999."""


@dataclass(slots=True)
class Point:
    """Nanoseconds of every measured step."""

    batch: int
    pool: int
    schedule_ns: list[int] = field(default_factory=list)
    update_ns: list[int] = field(default_factory=list)

    @property
    def schedule_ms(self) -> float:
        return median(self.schedule_ns) / 1e6

    @property
    def update_ms(self) -> float:
        return median(self.update_ns) / 1e6


def run(points: Sequence[tuple[int, int]], rounds: int = 5) -> list[Point]:
    """Each (batch, blocks) once per step, in turns."""
    found = [Point(*point) for point in points]
    for _ in range(rounds):
        engines = [_filled(point) for point in found]
        for _ in range(STEPS):
            for point, scheduler in zip(found, engines, strict=True):
                _step(scheduler, point)
    return found


def _filled(point: Point) -> Scheduler:
    """A scheduler whose requests have all run their prompts."""
    kv = KVCacheManager(point.pool, CacheConfig(block_size=BLOCK_SIZE), MAX_MODEL_LEN, OFF)
    config = SchedulerConfig(max_num_batched_tokens=65_536, max_num_seqs=point.batch)
    scheduler = Scheduler(config, kv, MAX_MODEL_LEN)
    for ordinal in range(1, point.batch + 1):
        num_prompt = 1 + ordinal % BLOCK_SIZE
        name = f"r{ordinal}"
        request = Request(
            req_id=name,
            request_id=name,
            ordinal=ordinal,
            token_ids=[counting_tokens(name, 5_000 + i) for i in range(num_prompt)],
            num_prompt_tokens=num_prompt,
            max_tokens=MAX_MODEL_LEN - num_prompt,
            sampling_params=SamplingParams(max_tokens=MAX_MODEL_LEN),
            seed=ordinal,
        )
        scheduler.add_request(request)
    _step(scheduler, Point(point.batch, point.pool))
    return scheduler


def _step(scheduler: Scheduler, point: Point) -> None:
    begin = time.thread_time_ns()
    scheduled = scheduler.schedule()
    end = time.thread_time_ns()
    said = {
        req_id: [counting_tokens(req_id, scheduler.requests[req_id].num_output_tokens)]
        for req_id in scheduled.num_scheduled_tokens
    }
    result = ModelRunnerOutput(sampled_token_ids=said)
    updating = time.thread_time_ns()
    scheduler.update_from_output(scheduled, result)
    point.update_ns.append(time.thread_time_ns() - updating)
    point.schedule_ns.append(end - begin)
