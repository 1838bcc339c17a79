"""Short ways to make what the core's tests need: requests, pools, engines with given tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from minivllm.config import CacheConfig, make_config
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.executor.base import Executor
from minivllm.executor.scripted import NextToken, ScriptedExecutor, counting_tokens
from minivllm.request import Request
from minivllm.sampling_params import SamplingParams
from minivllm.structured_output.interface import GrammarSource
from minivllm.trace.events import Event, Header
from minivllm.trace.fold import State, fold
from minivllm.trace.invariants import violations
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.tracer import OFF, Tracer
from tests.helpers import engine_view, events_of, fold_view

SMALL = {
    "num_kv_blocks": 17,
    "block_size": 4,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 8,
    "max_model_len": 64,
}
"""16 usable blocks of 4 tokens; a step may run more than anything that fits in them."""

HEADER = Header(run_id="test", created="", engine_version="")


def recorder(path: str | None = None, **options: Any) -> Recorder:
    return Recorder(TraceLog(HEADER, path, **options))


def tokens(n: int, first: int = 100) -> list[int]:
    return list(range(first, first + n))


def request(ordinal: int, prompt: list[int] | int, **fields: Any) -> Request:
    """``r<ordinal>``; a number stands for a prompt of so many tokens that nobody shares."""
    ids = tokens(prompt, 1000 * ordinal) if isinstance(prompt, int) else list(prompt)
    given: dict[str, Any] = {"max_tokens": 16, "sampling_params": SamplingParams(), "seed": 0}
    return Request(
        req_id=f"r{ordinal}",
        request_id=f"caller-{ordinal}",
        ordinal=ordinal,
        token_ids=ids,
        num_prompt_tokens=len(ids),
        **{**given, **fields},
    )


def kv_manager(
    usable_blocks: int = 16, block_size: int = 4, caching: bool = True, trace: Tracer = OFF
) -> KVCacheManager:
    config = CacheConfig(block_size=block_size, enable_prefix_caching=caching)
    return KVCacheManager(usable_blocks + 1, config, max_model_len=64, trace=trace)


def compute(kv: KVCacheManager, one: Request, n: int | None = None) -> list[int]:
    """Give a request its blocks for ``n`` tokens (all by default) and count them as computed."""
    n = one.num_tokens - one.num_computed_tokens if n is None else n
    added = kv.allocate_slots(one, n)
    assert isinstance(added, list), added
    one.num_computed_tokens += n
    return added


class Scheduling:
    """A scheduler alone: its batches in short form, its events, and tokens given by hand."""

    def __init__(self, **knobs: Any) -> None:
        config = make_config(**{**SMALL, **knobs})
        cache = config.cache
        assert cache.num_kv_blocks is not None and config.model.max_model_len is not None
        self.trace = recorder()
        self.kv = KVCacheManager(cache.num_kv_blocks, cache, config.model.max_model_len, self.trace)
        self.scheduler = Scheduler(
            config.scheduler, self.kv, config.model.max_model_len, self.trace
        )
        self.batch: SchedulerOutput | None = None

    def add(self, ordinal: int, prompt: list[int] | int, **fields: Any) -> Request:
        one = request(ordinal, prompt, **fields)
        self.scheduler.add_request(one)
        return one

    def configure(self, **knobs: Any) -> None:
        """Change the limits between two steps, to bring about what takes long to grow."""
        config = dataclasses.replace(self.scheduler.config, **knobs)
        self.scheduler.config = self.scheduler.admission.config = config

    def schedule(self) -> dict[str, int]:
        """Who runs in the next step, and how many tokens."""
        self.trace.step += 1
        self.batch = self.scheduler.schedule()
        return self.batch.num_scheduled_tokens

    def update(self, token_id: int = 7) -> list[EngineCoreOutput]:
        """Every request whose last known token has run says ``token_id``."""
        assert self.batch is not None
        sampled = {}
        for req_id in self.batch.num_scheduled_tokens:
            one = self.scheduler.requests[req_id]
            if one.num_computed_tokens == one.num_tokens:
                sampled[req_id] = [token_id]
        return self.scheduler.update_from_output(self.batch, ModelRunnerOutput(sampled))

    def step(self, token_id: int = 7) -> dict[str, int]:
        batch = self.schedule()
        self.update(token_id)
        return batch

    @property
    def running(self) -> list[str]:
        return [one.req_id for one in self.scheduler.running]

    @property
    def waiting(self) -> list[str]:
        return [one.req_id for one in self.scheduler.waiting]

    def told(self, kind: str, step: int | None = None) -> list[Event]:
        """The events of one kind in a step (by default the newest)."""
        step = self.trace.step if step is None else step
        return [e for e in events_of(self.trace) if e.kind == kind and e.step == step]


class Engine:
    """An EngineCore whose tokens are given, with its trace; checks itself against the fold."""

    def __init__(
        self,
        next_token: NextToken = counting_tokens,
        executor: Callable[..., Executor] = ScriptedExecutor,
        grammars: GrammarSource | None = None,
        trace: Recorder | None = None,
        **knobs: Any,
    ) -> None:
        config = make_config(**{**SMALL, **knobs})
        self.trace = trace or recorder()
        self.executor = executor(config, next_token)
        self.core = EngineCore(config, self.executor, self.trace, grammars)
        self.outputs: dict[str, list[EngineCoreOutput]] = {}

    def add(self, request_id: str, prompt: list[int] | int, **fields: Any) -> str:
        return self.core.add_request(message(request_id, prompt, **fields))

    def step(self) -> list[EngineCoreOutput]:
        return self._keep(self.core.step().outputs)

    def take(self) -> list[EngineCoreOutput]:
        return self._keep(self.core.take_outputs().outputs)

    def _keep(self, outputs: list[EngineCoreOutput]) -> list[EngineCoreOutput]:
        for output in outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        self.check()
        return outputs

    def run(self, max_steps: int = 1000) -> Engine:
        for _ in range(max_steps):
            if not self.core.has_requests():
                return self
            self.step()
        raise AssertionError(f"not done after {max_steps} steps: {engine_view(self.core)}")

    def check(self) -> None:
        """The fold of the trace is the engine's own state, and no invariant is broken."""
        state = self.state()
        assert fold_view(state) == engine_view(self.core)
        assert violations(state) == []

    def state(self) -> State:
        return fold(events_of(self.trace))

    def events(self, kind: str) -> list[Event]:
        return [event for event in events_of(self.trace) if event.kind == kind]

    def said(self, request_id: str) -> list[int]:
        """All output tokens that the caller got."""
        return [t for output in self.outputs.get(request_id, []) for t in output.new_token_ids]

    def ended(self, request_id: str) -> str | None:
        return next(
            (o.finish_reason for o in self.outputs.get(request_id, []) if o.finish_reason), None
        )

    def assert_nothing_leaked(self) -> None:
        """No request is left, and every block is free."""
        pool = self.core.kv.pool
        assert not self.core.scheduler.requests and not self.core.kv.tables
        assert not self.core._req_ids
        assert pool.num_free_blocks == pool.num_usable_blocks
        assert [b.ref_cnt for b in pool.blocks] == [1] + [0] * pool.num_usable_blocks


def message(request_id: str, prompt: list[int] | int, **fields: Any) -> EngineCoreRequest:
    """``max_tokens`` and the like are sampling parameters, the rest the message's own fields."""
    own = {"eos_token_id", "priority", "cache_salt", "parent"}
    params = {"ignore_eos": True, **{k: v for k, v in fields.items() if k not in own}}
    return EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=tokens(prompt) if isinstance(prompt, int) else prompt,
        sampling_params=SamplingParams(**params),
        **{k: v for k, v in fields.items() if k in own},
    )
