"""What an engine decides and says does not depend on where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minivllm import LLM, SamplingParams
from minivllm.config import make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.parts import build
from minivllm.errors import ConfigError
from minivllm.outputs import RequestOutput
from minivllm.replay.recording import read_recording
from minivllm.replay.verify import verify
from minivllm.serving.live import DashboardEngine
from minivllm.trace.events import Event
from minivllm.trace.file import Trace, decode_event, read_trace
from minivllm.trace.fold import fold
from minivllm.trace.gate import Gate
from minivllm.trace.invariants import violations
from minivllm.trace.structural import structural
from tests.engine_process.helpers import KNOBS, until
from tests.engine_process.scripted import HERE
from viz.commands import perform

NAMES = {"executor_factory": f"{HERE}:executor", "tokenizer": f"{HERE}:tokenizer"}
PROMPTS = [{"prompt_token_ids": list(range(10 * i, 10 * i + 9))} for i in range(1, 7)]
STOPS = ["two", "three", "four", "zzz", "one", "five"]


def started(cls: Any, engine_processes: bool, names: dict[str, str], **given: Any) -> Any:
    options = {name: given.pop(name) for name in ("gate", "lockstep") if name in given}
    config = make_config(**{**KNOBS, **given, "engine_processes": engine_processes})
    llm = cls.__new__(cls)
    llm._start(build(config, **names, **options))
    return llm


def offline(path: Path, engine_processes: bool) -> tuple[list[RequestOutput], Trace]:
    """Two calls; stop strings end most requests, the pool is too small for all of them."""
    params = [
        SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, stop=[stop]) for stop in STOPS
    ]
    with started(
        LLM, engine_processes, NAMES, path=str(path), check=True, level="tensors", lockstep=True
    ) as llm:
        outputs = [
            *llm.generate(PROMPTS, params, use_tqdm=False, priority=[3, 1, 2, 0, 1, 2]),
            *llm.generate(PROMPTS[::-1], params, use_tqdm=False),
        ]
    return outputs, read_trace(path)


def test_an_offline_run_is_the_same_byte_for_byte_and_its_trace_is_whole(tmp_path: Path) -> None:
    here, trace_here = offline(tmp_path / "here.jsonl", engine_processes=False)
    there, trace_there = offline(tmp_path / "there.jsonl", engine_processes=True)
    assert here == there
    assert [o.outputs[0].finish_reason for o in there].count("stop") == 10
    kinds = {event.kind for event in trace_there.engine_events}
    assert {"req.preempt", "req.abort", "trace.left_out", "run.end"} <= kinds
    assert structural(trace_here.events) == structural(trace_there.events)
    assert trace_here.header.config == trace_there.header.config
    assert trace_there.header.fidelity == "given"  # as the executor describes itself
    assert not violations(fold(trace_there.engine_events))
    assert verify(read_recording(trace_there, "engine0")).difference is None


def test_each_hop_is_told_with_its_bytes_and_only_where_there_is_one(tmp_path: Path) -> None:
    _, here = offline(tmp_path / "here.jsonl", engine_processes=False)
    assert not [event for event in here.events if event.kind.startswith("ipc.")]
    _, there = offline(tmp_path / "there.jsonl", engine_processes=True)

    def hops(kind: str, stream: str, message: str) -> list[Event]:
        told = [e for e in there.events if (e.kind, e.stream) == (kind, stream)]
        return [e for e in told if e.data.message == message]

    sent, come = hops("ipc.send", "api", "add"), hops("ipc.recv", "engine0", "add")
    assert len(sent) == len(come) == 12
    assert [(e.data.request_id, e.data.bytes) for e in sent] == [
        (e.data.request_id, e.data.bytes) for e in come
    ]
    assert all(e.data.ns > 0 and e.phase == "input" for e in come)
    back = hops("ipc.recv", "api", "outputs")
    assert back and all(e.data.bytes > 0 and e.data.ns > 0 for e in back)
    arrived = [e.t_ns for e in there.engine_events if e.kind == "req.arrive"]
    assert all(s.t_ns < a for s, a in zip(sent, arrived, strict=True))  # one clock


def live(engine_processes: bool) -> tuple[list[str], list[Event]]:
    """Behind a gate, so that everything comes before the same steps."""
    llm = started(AsyncLLM, engine_processes, NAMES, live=True, gate=Gate(paused=True))
    told = []
    try:
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

        def told_of(kind: str) -> int:
            return sum(event.kind == kind for event in events(llm))

        streams = [llm.stream(prompt, params, f"q{i}") for i, prompt in enumerate(PROMPTS[:4])]
        until(lambda: told_of("req.arrive") == 4)
        llm.set_knobs(max_num_seqs=2, policy="priority")
        streams[1].close()
        llm.arm(3)
        llm.gate.step(4)
        until(lambda: told_of("step.end") == 4 and llm.gate.held is not None)
        llm.abort(["q0"])
        llm.gate.resume()
        for stream in streams[2:]:
            told += [o.outputs[0].text for o in stream if o is not None]
    finally:
        llm.close()
    return told, events(llm)


def events(llm: AsyncLLM) -> list[Event]:
    log = llm.trace_log
    assert log is not None
    return [decode_event(line) for line in log.lines("engine0", 1, log.head_seq("engine0"))]


def test_aborts_knobs_and_an_armed_step_come_out_the_same() -> None:
    texts, here = live(engine_processes=False)
    texts_there, there = live(engine_processes=True)
    assert "".join(texts) == "".join(texts_there)
    assert structural(here) == structural(there)
    kinds = [event.kind for event in there]
    assert kinds.count("req.abort") == 2 and "run.knob" in kinds and "trace.arm" in kinds
    assert {e.data.mode for e in there if e.kind == "gate.change"} == {"run"}


def test_retention_redaction_and_the_check_hold_across_the_boundary(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    given = {"path": str(path), "retention": 5, "redact": True, "check": True, "lockstep": True}
    with started(LLM, True, NAMES, **given) as llm:
        params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
        llm.generate(PROMPTS[:2], params, use_tqdm=False)
    trace = read_trace(path)
    assert trace.header.redacted and trace.first_step > 20
    assert {i for e in trace.engine_events if e.kind == "req.token" for i in [e.data.token_id]} == {
        0
    }
    assert not violations(fold(trace.engine_events))


def test_the_dashboard_steers_an_engine_in_another_process() -> None:
    llm = started(AsyncLLM, True, NAMES, live=True, gate=Gate(rate=0.01))
    try:
        engine, heard = DashboardEngine(llm), []
        engine.gate.on_change(lambda mode, rate: heard.append((mode, rate)))
        for op, value in (("pause", None), ("rate", 0), ("submit", "Hello"), ("step", 2)):
            perform(engine, {"op": op, "value": value})
        until(lambda: sum(e.kind == "step.end" for e in events(llm)) == 2)
        assert heard == [("pause", 0.01), ("pause", 0.0)]
        with pytest.raises(ConfigError, match="until: got 'soon'"):
            perform(engine, {"op": "until", "value": "soon"})
        perform(engine, {"op": "knobs", "value": {"max_num_seqs": 1}})
        perform(engine, {"op": "arm", "value": None})
        perform(engine, {"op": "until", "value": "finish"})
        held = engine.gate.wait_held(30)
        assert held is not None and held.event is not None and held.event.kind == "req.finish"
        perform(engine, {"op": "resume"})
    finally:
        llm.close()
