"""What ``/health`` and ``/load`` say of the engines; a router before several servers reads both.

    /health   200 while an engine works, be it only on what it has (draining). ``ready``: are new
              requests taken, by one that gives signs of life? 503 while none works: all are dead,
              starting or taken out.
    /load     how much there is to do, engine by engine

While the server ends it is healthy and takes nothing new. Neither asks an engine: the front end
knows. A process's number and how an engine died are told to those who may steer the server only.
Counterpart in vLLM: ``/health`` without a body, and ``/load``, whose ``server_load`` is kept.
"""

from __future__ import annotations

import msgspec

from minivllm.api.answers import EngineLoad, Health, Load
from minivllm.api.errors import ApiError
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.client import EngineStatus
from minivllm.engine.messages import SchedulerStats


def health_of(llm: AsyncLLM, *, ending: bool = False, in_full: bool = False) -> Health:
    """Raises ApiError where no engine works."""
    engines = llm.engines()
    if llm.is_dead:  # engines may live, and nobody takes what they say
        raise ApiError(503, "The server has failed, and its log says why.", code="engine_dead")
    if all(status.state not in ("ready", "draining") for status in engines):
        states = ", ".join(f"engine {status.engine} is {status.state}" for status in engines)
        dead = any(status.state == "dead" for status in engines)
        code = "engine_dead" if dead else "no_engine"
        raise ApiError(503, f"No engine works: {states}.", code=code)
    ready = not ending and any(map(_is_ready, engines))
    if not in_full:
        engines = [msgspec.structs.replace(each, pid=None, message="") for each in engines]
    return Health(ready=ready, engines=engines)


def load_of(llm: AsyncLLM, *, ending: bool = False) -> Load:
    stats = llm.stats()
    statuses = llm.engines()
    engines = [_load_of(status, stats.get(status.engine)) for status in statuses]
    ready = 0 if ending else sum(map(_is_ready, statuses))
    return Load(server_load=llm.num_open, ready_engines=ready, engines=engines)


def _is_ready(status: EngineStatus) -> bool:
    return status.state == "ready" and status.responsive


def _load_of(status: EngineStatus, stats: SchedulerStats | None) -> EngineLoad:
    if stats is None or status.state in ("starting", "dead"):  # what its last life did is past
        stats = SchedulerStats.empty(status.engine)
    return EngineLoad(
        engine=status.engine,
        state=status.state,
        epoch=status.epoch,
        open_requests=status.open_requests,
        stalled_s=round(status.stalled_s, 3),
        responsive=status.responsive,
        running=stats.num_running_reqs,
        waiting=stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
        kv_cache_usage=round(stats.kv_cache_usage, 4),
    )
