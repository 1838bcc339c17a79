"""Traces to run again: scripted scenarios, and a served run in which much goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from minivllm.config import EngineConfig, make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.replay.fork import Fork, fork
from minivllm.replay.recording import Recording, read_recording
from minivllm.replay.verify import Verdict, verify
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import load_scenario, start
from minivllm.trace.events import Event
from minivllm.trace.file import Trace, decode_event, read_trace
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, SMALL
from tests.helpers import trace_of
from tests.serve.fakes import FakeTokenizer

TEXT = "one two three four five six seven"


def tiny_pressure(**knobs: Any) -> Trace:
    return trace_of(start(load_scenario("tiny-pressure"), **knobs).run())


def recording_of(trace: Trace) -> Recording:
    return read_recording(trace, "engine0")


def verified(trace: Trace) -> Verdict:
    """Run again; it must be the same."""
    verdict = verify(recording_of(trace))
    assert verdict.difference is None, verdict.difference.lines()
    return verdict


def changed(trace: Trace, kind: str, **fields: Any) -> Trace:
    """The trace with the first event of a kind altered."""
    events = list(trace.events)
    at = next(i for i, event in enumerate(events) if event.kind == kind)
    data = msgspec.structs.replace(events[at].data, **fields)
    events[at] = msgspec.structs.replace(events[at], data=data)
    return Trace(trace.header, events, trace.name)


def as_trace(made: Fork) -> Trace:
    lines = made.log.lines("engine0", 1, 10**9)
    return Trace(made.log.header, [decode_event(line) for line in lines], "fork")


def forked(trace: Trace, at_step: int = 1, **knobs: Any) -> Trace:
    """A fork, whose own trace must verify."""
    made = as_trace(fork(recording_of(trace), knobs, at_step))
    verified(made)
    return made


def of_kind(trace: Trace, kind: str) -> list[Event]:
    return [event for event in trace.events if event.kind == kind]


def output_of(trace: Trace, req: str) -> list[int]:
    return [e.data.token_id for e in of_kind(trace, "req.token") if e.req == req]


def end_of(trace: Trace, req: str) -> tuple[str, str | None, int]:
    """Reason, why, output tokens."""
    data = next(e.data for e in of_kind(trace, "req.finish") if e.req == req)
    return data.reason, data.why.value if data.why else None, data.output_tokens


class Spelling(ScriptedExecutor):
    """Everybody says :data:`TEXT`, over and over; ``accidents`` may interfere with a step."""

    def __init__(
        self,
        config: EngineConfig,
        accidents: Callable[[SchedulerOutput, ModelRunnerOutput], None] = lambda *_: None,
    ) -> None:
        super().__init__(config, lambda req, index: ord(TEXT[index % len(TEXT)]))
        self.accidents = accidents

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        time.sleep(0.001)  # or a caller that goes away would always be too late
        result = super().execute_model(scheduler_output)
        self.accidents(scheduler_output, result)
        return result


def served_run(path: Path) -> Trace:
    """A served engine: a stop string, callers who go away, NaN, a failed step, a reset."""

    def accidents(scheduled: SchedulerOutput, result: ModelRunnerOutput) -> None:
        if "r3" in result.sampled_token_ids:
            del result.sampled_token_ids["r3"]
            result.errors["r3"] = "the logits are NaN"
        if "r6" in scheduled.num_scheduled_tokens:
            raise RuntimeError("the device is gone")

    # Long outputs, so that whoever goes away goes in good time.
    roomy = {"num_kv_blocks": 300, "max_model_len": 512, "max_num_batched_tokens": 12}
    config = make_config(**{**SMALL, **roomy})
    recorder = Recorder(TraceLog(HEADER, str(path)), token_text=FakeTokenizer().text_after)
    client = InprocClient(EngineCore(config, Spelling(config, accidents), recorder))
    llm = AsyncLLM.from_parts(client, FakeTokenizer(), recorder.sibling("api"))
    long, short = SamplingParams(max_tokens=400), SamplingParams(max_tokens=30)
    try:
        until_three = SamplingParams(max_tokens=400, stop=["three"])
        stopped = llm.stream_many(["a" * 9, "b" * 14], until_three)
        nan = llm.stream("c" * 5, short)
        gone = llm.stream("d" * 6, long)
        next(gone)
        gone.close()
        assert list(stopped) and list(nan)
        client.reset_prefix_cache()
        assert list(llm.stream("e" * 20, short)) and list(llm.stream("f" * 20, short))
        assert list(llm.stream("g" * 20, short))
    finally:
        llm.close()
    return read_trace(path)
