"""EngineCore: the loop that makes tokens. Take inputs, schedule, execute, update; again.

Counterpart in vLLM: ``vllm/v1/engine/core.py``. Left out: batch queues for pipeline parallelism,
asynchronous scheduling, sleep mode, LoRA and weight updates.

The caller's thread decides who runs this: :class:`~minivllm.engine.inproc_client.InprocClient`
gives it a thread of its own, tests and scenarios call :meth:`EngineCore.step` themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from minivllm.config import STEP_KNOBS, EngineConfig, make_config
from minivllm.core import checked
from minivllm.core.contiguous import ContiguousKVManager
from minivllm.core.interfaces import KVManager, SchedulerInterface
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.own_class import name_of
from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.capture import ArmedStep, TensorCapture
from minivllm.engine.core_stats import CoreStats
from minivllm.engine.grammars import Grammars
from minivllm.engine.messages import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    SchedulerStats,
)
from minivllm.engine.sampled import sample_rows
from minivllm.errors import ConfigError, DuplicateRequestError
from minivllm.executor.base import Executor
from minivllm.request import Request
from minivllm.sampling_params import check_priority
from minivllm.structured_output.interface import GrammarSource
from minivllm.trace import events as ev
from minivllm.trace.events import Reason
from minivllm.trace.texts import texts_of
from minivllm.trace.tracer import OFF, Tracer

SCHEDULERS = {"default": Scheduler}
KV_MANAGERS = {"paged": KVCacheManager, "contiguous": ContiguousKVManager}


class EngineCore:
    """One engine: scheduler, KV bookkeeping and executor, and the inputs between two steps."""

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        trace: Tracer = OFF,
        grammars: GrammarSource | None = None,
        *,
        engine: int = 0,
    ) -> None:
        """``engine``: which of several it is."""
        self.config = config
        self.executor = executor
        self.trace = trace
        self.max_model_len = executor.max_model_len
        config.check_with_model_len(self.max_model_len)
        self.num_kv_blocks = executor.initialize_kv_cache()
        shape = self.num_kv_blocks, config.cache, self.max_model_len, trace
        named = config.cache.kv_manager_cls
        self.kv: KVManager = checked.make("kv_manager_cls", named, KV_MANAGERS, KVManager, *shape)
        if config.cache.enable_prefix_caching and not getattr(self.kv, "prefix_caching", True):
            allowed = "this class only with enable_prefix_caching off (--no-enable-prefix-caching)"
            raise ConfigError("kv_manager_cls", name_of(named), allowed)
        limits = config.scheduler, self.kv, self.max_model_len, trace
        self.scheduler: SchedulerInterface = checked.make(
            "scheduler_cls",
            config.scheduler.scheduler_cls,
            SCHEDULERS,
            SchedulerInterface,
            *limits,
        )
        self._refused: set[str] = set()  # ids of requests that are at fault: their output says so
        self.grammars = Grammars(grammars, trace, self._refused)
        self.stats = CoreStats(engine, self.scheduler, self.kv, self.grammars, config.cache)
        self._idle = checked.IdleWatch.over(self.kv, self.scheduler)
        self.at_phase: Callable[[str], None] | None = None
        """Called before ``execute`` and before ``update``: the gate may hold the engine there."""
        self.capture = TensorCapture(config.trace, trace)
        """Which steps hand their arrays to the trace, too."""
        self._req_ids: dict[str, str] = {}  # the caller's id → core name, while it lives
        self._num_arrived = 0
        trace.emit(ev.RunConfig, None, **self.facts())
        trace.flush()

    def facts(self) -> dict[str, Any]:
        """The numbers that decide what happens, as they stand in the trace."""
        cache, scheduler = self.config.cache, self.config.scheduler
        return {
            "num_kv_blocks": self.num_kv_blocks,
            "block_size": cache.block_size,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_model_len": self.max_model_len,
            "policy": scheduler.policy,
            "enable_chunked_prefill": scheduler.enable_chunked_prefill,
            "enable_prefix_caching": cache.enable_prefix_caching,
            "long_prefill_token_threshold": scheduler.long_prefill_token_threshold,
            "watermark": scheduler.watermark,
            "admission": scheduler.admission,
            "batching": scheduler.batching,
            "scheduler_cls": name_of(scheduler.scheduler_cls),
            "kv_manager_cls": name_of(cache.kv_manager_cls),
            "contiguous_reserve": cache.contiguous_reserve,
            "speculative_ngram": scheduler.speculative_ngram,
            "prompt_lookup_min": scheduler.prompt_lookup_min,
            "prompt_lookup_max": scheduler.prompt_lookup_max,
        }

    # --- inputs, between two steps -------------------------------------------------------------

    def add_request(self, message: EngineCoreRequest) -> str:
        """Take a request in; returns its core name. Raises DuplicateRequestError,
        SamplingParamsError; a request it raises for is not registered anywhere.

        One that could never run ends at once, with an error output: its sender has checked the
        same and refused it (HTTP 400), but nobody's word is taken for it here.
        """
        if message.request_id in self._req_ids:
            raise DuplicateRequestError(f"request id {message.request_id!r} is already in use")
        request = self._make_request(message)
        trace, name = self.trace, request.req_id
        texts = texts_of(trace.text, message.prompt_token_ids) if trace.on else []
        self.begin_input()
        self._num_arrived += 1
        trace.emit(ev.CoreInput, name, op="add")
        if trace.on:
            trace.emit(
                ev.ReqArrive,
                name,
                request_id=message.request_id,
                prompt_token_ids=message.prompt_token_ids,
                texts=texts,
                params=msgspec.to_builtins(message.sampling_params, str_keys=True),
                max_tokens=request.max_tokens,
                priority=message.priority,
                parent=message.parent,
                cache_salt=message.cache_salt,
                eos_token_id=message.eos_token_id,
            )
        self.scheduler.add_request(request)
        self.stats.queued(request)
        self._req_ids[message.request_id] = name
        problem = self._why_it_never_runs(request) or self.grammars.start(request)
        if problem is not None:
            self.scheduler.fail(request, problem, num_unsound=0)
        return name

    def abort_request(self, request_id: str, why: Reason) -> None:
        """End a request early. An id that is unknown or has finished is ignored."""
        name = self._req_ids.pop(request_id, None)
        if name is None or name not in self.scheduler.requests:
            return
        self.begin_input()
        self.trace.emit(ev.CoreInput, name, op="abort", why=why)
        self.trace.emit(ev.ReqAbort, name, why=why)
        request = self.scheduler.requests[name]
        self.grammars.cancel(request)
        self.scheduler.finish(request, "abort", why=why)

    def abort_all(self, why: Reason) -> None:
        """End every request, in order of arrival."""
        for request_id in list(self._req_ids):
            self.abort_request(request_id, why)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks. Refuses (False) while any block is in use."""
        self.begin_input()
        self.trace.emit(ev.CoreInput, None, op="reset_prefix_cache")
        return self.kv.pool.reset_prefix_cache()

    def check_knobs(self, **knobs: Any) -> EngineConfig:
        """The configuration with these knobs. Raises ConfigError for a bad value and for what only
        a start can change. May be called from any thread."""
        for name, value in knobs.items():
            if name not in STEP_KNOBS:
                allowed = f"{', '.join(STEP_KNOBS)} (the rest can change at the start only)"
                raise ConfigError(name, value, f"between two steps: {allowed}")
        config = make_config(self.config, **knobs)
        config.check_with_model_len(self.max_model_len)
        return config

    def set_knobs(self, **knobs: Any) -> None:
        """Change knobs of the scheduler from the next step on (a fork does, and the dashboard).

        Raises ConfigError, and changes nothing then; see :meth:`check_knobs`.
        """
        config = self.check_knobs(**knobs)
        old, self.config = self.config.scheduler, config
        self.begin_input()
        self.trace.emit(ev.CoreInput, None, op="set_knobs")
        self.scheduler.set_config(config.scheduler)
        for name in STEP_KNOBS:
            value = getattr(config.scheduler, name)
            if value != getattr(old, name):
                queue = [r.req_id for r in self.scheduler.waiting] if name == "policy" else None
                self.trace.emit(ev.RunKnob, None, name=name, value=value, waiting=queue)

    def check_arm(self, step: ArmedStep) -> None:
        """May be called from any thread. Raises ConfigError; see :meth:`arm`."""
        self.capture.check(step, self.scheduler.current_step)

    def arm(self, step: ArmedStep = "next") -> None:
        """Capture the arrays of one step to come, whatever the trace level: step number ``step``,
        or the next that runs tokens. They are then in ``trace_log.artifacts``. ``none`` calls back
        what was armed.

        Raises ConfigError where the step has begun, or where nothing would keep the arrays.
        """
        self.check_arm(step)
        self.apply_arm(step)

    def apply_arm(self, step: ArmedStep) -> None:
        """:meth:`arm`, for a step that was checked before; one that has begun since is told of."""
        self.capture.arm(step, self.scheduler.current_step)

    def has_requests(self) -> bool:
        return bool(self.scheduler.requests)

    def can_step(self) -> bool:
        """Is there anything to do? Not while every request waits for its grammar."""
        return self.has_requests() and not self.grammars.all_wait(len(self.scheduler.requests))

    def take_outputs(self) -> EngineCoreOutputs:
        """Outputs that need no step: requests that ended by an input."""
        self.trace.flush()
        return self._wrap(self.scheduler.take_ended_early(), self.stats.of_input())

    # --- one step ------------------------------------------------------------------------------

    def step(self) -> EngineCoreOutputs:
        """Run one step. An error of the executor ends the requests in it, not the engine.

        Where every request waits for its grammar, it waits, too: the core's own loop does not come
        here then (see :meth:`can_step`), and whoever steps by hand has nothing else to do.
        """
        if self.grammars.source is not None and not self.can_step() and self.has_requests():
            self.grammars.source.wait()
        self.begin_input()
        self.grammars.take_in(self.scheduler)
        begin = time.perf_counter_ns()
        trace, scheduler = self.trace, self.scheduler
        trace.step = scheduler.current_step + 1
        trace.phase = "schedule"
        trace.emit(
            ev.StepBegin,
            None,
            budget=self.config.scheduler.max_num_batched_tokens,
            max_num_seqs=self.config.scheduler.max_num_seqs,
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            free_blocks=self.kv.pool.num_free_blocks,
        )
        scheduled = scheduler.schedule()
        if self._idle is not None:
            self._idle.see(scheduled, scheduler)
        schedule_ns = time.perf_counter_ns() - begin
        self.stats.scheduled(scheduled)

        begin = self._begin_phase("execute")
        self.grammars.mask(scheduled, scheduler.requests)
        result = self._execute(scheduled)
        execute_ns = time.perf_counter_ns() - begin

        begin = self._begin_phase("update")
        if isinstance(result, ModelRunnerOutput):
            self.grammars.advance(result, scheduler.requests)
            self._refused |= {scheduler.requests[r].request_id for r in result.refused}
            outputs = scheduler.update_from_output(scheduled, result)
        else:
            outputs = scheduler.fail_step(scheduled, result)
        update_ns = time.perf_counter_ns() - begin
        for breach in trace.breaches():
            trace.emit(ev.TraceViolation, None, message=breach)
        trace.emit(
            ev.StepEnd,
            None,
            schedule_ns=schedule_ns,
            execute_ns=execute_ns,
            update_ns=update_ns,
        )
        trace.flush()
        return self._wrap(outputs, self.stats.of_step(scheduled, result, outputs))

    def _begin_phase(self, phase: str) -> int:
        """Returns the time, in ns; what the gate takes belongs to no phase."""
        if self.at_phase is not None:
            self.at_phase(phase)
        self.trace.phase = phase
        return time.perf_counter_ns()

    def _execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput | str:
        """The step's result, or what went wrong with it, in a sentence."""
        if not scheduled.total_num_scheduled_tokens:
            self.capture.pass_over(scheduled.step)
            return ModelRunnerOutput(sampled_token_ids={})
        scheduled.capture_tensors = self.capture.wants(scheduled.step)
        begin = time.perf_counter_ns()
        try:
            result = self.executor.execute_model(scheduled)
        except Exception as error:
            self.trace.emit(ev.RunError, None, error=type(error).__name__, message=str(error))
            if scheduled.capture_tensors:
                self.capture.leave_out(Reason.NOTHING_RAN)
            return f"the step that ran it failed ({type(error).__name__})"
        if self.trace.on:
            took = time.perf_counter_ns() - begin
            tokens = scheduled.total_num_scheduled_tokens
            self.trace.emit(ev.ExecForward, None, tokens=tokens, ns=took)
            rows = sample_rows(result, self.scheduler.requests, self.trace)
            self.trace.emit(ev.Sample, None, rows=rows)
            if scheduled.capture_tensors:
                self.capture.keep(result.tensors)
        return result

    # --- helpers -------------------------------------------------------------------------------

    def begin_input(self) -> None:
        """What is applied between two steps belongs to the one that follows."""
        self.trace.step = self.scheduler.current_step + 1
        self.trace.phase = "input"

    def _make_request(self, message: EngineCoreRequest) -> Request:
        params, num_prompt = message.sampling_params, len(message.prompt_token_ids)
        room = max(self.max_model_len - num_prompt, 1)
        ordinal = self._num_arrived + 1
        check_priority(message.priority)  # one that has no order breaks the queue for everybody
        return Request(
            req_id=f"r{ordinal}",
            request_id=message.request_id,
            ordinal=ordinal,
            token_ids=list(message.prompt_token_ids),
            num_prompt_tokens=num_prompt,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            sampling_params=params,
            seed=params.seed if params.seed is not None else _seed(self.config.model.seed, ordinal),
            eos_token_id=message.eos_token_id,
            priority=message.priority,
            cache_salt=message.cache_salt,
        )

    def _why_it_never_runs(self, request: Request) -> str | None:
        n, pool = request.num_prompt_tokens, self.kv.pool.num_usable_blocks
        if n == 0:
            return "the prompt is empty"
        if n >= self.max_model_len:
            return f"the prompt has {n} tokens; max_model_len is {self.max_model_len}"
        if (need := self.kv.num_blocks_to_start(request)) > pool:
            return f"the request needs {need} KV blocks to start; the whole pool has {pool}"
        return None

    def _wrap(
        self, outputs: list[EngineCoreOutput], stats: SchedulerStats | None
    ) -> EngineCoreOutputs:
        for output in outputs:
            # An id that was free again at once may belong to a request that lives.
            name = self._req_ids.get(output.request_id)
            if output.request_id in self._refused:
                self._refused.discard(output.request_id)
                output.refused = True
            if output.finish_reason is not None and name not in self.scheduler.requests:
                self._req_ids.pop(output.request_id, None)
        step, engine = self.scheduler.current_step, self.stats.engine
        return EngineCoreOutputs(step=step, outputs=outputs, engine=engine, stats=stats)


def _seed(run_seed: int, ordinal: int) -> int:
    """The seed of a request that has none: one per (run seed, order of arrival).

    The odd constant (2⁶⁴ over the golden ratio) keeps neighbouring runs and requests apart.
    """
    return (run_seed + ordinal * 0x9E3779B97F4A7C15) % 2**63
