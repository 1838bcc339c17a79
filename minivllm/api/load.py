"""What ``/health`` and ``/load`` say of the engines; a router before several servers reads both.

    /health   200 while an engine works, be it only on what it has (draining). ``ready``: are new
              requests taken? 503 while none works: all are dead, starting or taken out.
    /load     how much there is to do, engine by engine

Neither asks an engine: the front end knows. Counterpart in vLLM: ``/health`` without a body, and
``/load``, whose ``server_load`` is kept.
"""

from __future__ import annotations

from minivllm.api.answers import EngineLoad, Health, Load
from minivllm.api.errors import ApiError
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.client import EngineStatus
from minivllm.engine.messages import SchedulerStats


def health_of(llm: AsyncLLM) -> Health:
    """Raises ApiError where no engine works."""
    engines = llm.engines()
    if all(status.state not in ("ready", "draining") for status in engines):
        states = ", ".join(f"engine {status.engine} is {status.state}" for status in engines)
        raise ApiError(503, f"No engine works: {states}.", code="engine_dead")
    return Health(ready=any(status.state == "ready" for status in engines), engines=engines)


def load_of(llm: AsyncLLM) -> Load:
    stats = llm.stats()
    engines = [_load_of(status, stats.get(status.engine)) for status in llm.engines()]
    ready = sum(engine.state == "ready" for engine in engines)
    return Load(server_load=llm.num_open, ready_engines=ready, engines=engines)


def _load_of(status: EngineStatus, stats: SchedulerStats | None) -> EngineLoad:
    if stats is None or status.state in ("starting", "dead"):  # what its last life did is past
        stats = SchedulerStats.empty(status.engine)
    return EngineLoad(
        engine=status.engine,
        state=status.state,
        epoch=status.epoch,
        open_requests=status.open_requests,
        running=stats.num_running_reqs,
        waiting=stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
        kv_cache_usage=round(stats.kv_cache_usage, 4),
    )
