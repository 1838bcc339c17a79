"""Replay: the recorded inputs, at their steps, with the recorded tokens, on a fresh engine.

What it takes to run a trace again is the trace alone: the knobs are in ``run.config``, the
requests in ``req.arrive``, the rest of the inputs in ``core.input``, the model's part in
``sample``, ``run.error`` and ``req.error``.
"""

from __future__ import annotations

import msgspec

from minivllm.config import EngineConfig, make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput, TokenLogprobs
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Event, ReqArrive
from minivllm.trace.file import Trace
from minivllm.trace.recorder import Recorder, TraceLog
from tests.helpers import events_of


class RecordedExecutor:
    """Gives each step's recorded result, whatever the batch: a wrong batch shows in the trace."""

    def __init__(self, config: EngineConfig, steps: dict[int, list[Event]]) -> None:
        self.config = config
        self.steps = steps

    def describe(self) -> dict[str, object]:
        return {}

    @property
    def max_model_len(self) -> int:
        assert self.config.model.max_model_len is not None
        return self.config.model.max_model_len

    def initialize_kv_cache(self) -> int:
        assert self.config.cache.num_kv_blocks is not None
        return self.config.cache.num_kv_blocks

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        result = ModelRunnerOutput(sampled_token_ids={})
        for event in self.steps[scheduler_output.step]:
            if event.kind == "run.error":
                raise type(event.data.error, (Exception,), {})(event.data.message)
            if event.kind == "req.error" and event.phase == "update":
                assert event.req is not None
                result.errors[event.req] = event.data.message
            if event.kind == "sample":
                for row in event.data.rows:
                    result.sampled_token_ids.setdefault(row.req, []).append(row.token_id)
                    if row.logprob is not None:
                        known = TokenLogprobs(row.token_id, row.logprob, row.rank)
                        result.logprobs.setdefault(row.req, []).append(known)
        return result

    def shutdown(self) -> None:
        pass


def replay(trace: Trace) -> list[Event]:
    """Run the trace's inputs again; returns the new events."""
    recorded = next(e.data for e in trace.engine_events if e.kind == "run.config")
    config = make_config(**msgspec.to_builtins(recorded))
    texts = _texts(trace.engine_events)
    recorder = Recorder(TraceLog(trace.header), token_text=lambda token_id: texts[token_id])
    core = EngineCore(config, RecordedExecutor(config, trace.steps), recorder)
    for events in trace.steps.values():
        for event, following in zip(events, [*events[1:], None], strict=True):
            if event.kind == "core.input":
                _apply(core, trace, event, following)
        if any(event.kind == "step.begin" for event in events):
            core.step()
    return events_of(recorder)


def _apply(core: EngineCore, trace: Trace, event: Event, following: Event | None) -> None:
    if event.data.op == "add":
        while following is not None and following.kind == "run.source":
            following = trace.events[following.seq]  # seq counts from 1: the one after it
        assert following is not None and following.kind == "req.arrive"
        core.add_request(_message(following.data))
    elif event.data.op == "abort":
        name = event.req
        arrive = next(e for e in trace.events if e.kind == "req.arrive" and e.req == name)
        core.abort_request(arrive.data.request_id, event.data.why)
    elif event.data.op == "reset_prefix_cache":
        core.reset_prefix_cache()
    core.take_outputs()


def _message(arrive: ReqArrive) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=arrive.request_id,
        prompt_token_ids=arrive.prompt_token_ids,
        sampling_params=msgspec.convert(arrive.params, SamplingParams, str_keys=True),
        eos_token_id=arrive.eos_token_id,
        priority=arrive.priority,
        cache_salt=arrive.cache_salt,
        parent=arrive.parent,
    )


def _texts(events: list[Event]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events:
        if event.kind == "req.arrive":
            texts.update(zip(event.data.prompt_token_ids, event.data.texts, strict=True))
        elif event.kind == "sample":
            texts.update((row.token_id, row.text) for row in event.data.rows)
    return texts
