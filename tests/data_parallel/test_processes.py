"""The same with engines that are processes: one is killed, one hangs, one is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from minivllm.config import make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.dp_client import DPClient
from minivllm.engine.parts import build
from minivllm.errors import ConfigError, EngineUnavailableError
from minivllm.outputs import RequestOutput
from minivllm.sampling_params import SamplingParams
from minivllm.trace.file import decode_event
from minivllm.trace.gate import Gate
from tests.data_parallel.lives import eventually

SCRIPT = "tests.engine_process.scripted"
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPT = {"prompt_token_ids": [1, 2, 3, 4, 5]}
TEXT = "one two thre"


def make_llm(n: int = 2, gate: Gate | None = None, **flat: object) -> AsyncLLM:
    config = make_config(
        **{
            "engine_processes": True,
            "data_parallel_size": n,
            "routing_policy": "round_robin",
            "num_kv_blocks": 65,
            "max_model_len": 256,
            "live": True,
        }
        | flat
    )
    parts = build(
        config, executor_factory=f"{SCRIPT}:executor", tokenizer=f"{SCRIPT}:tokenizer", gate=gate
    )
    llm = AsyncLLM.__new__(AsyncLLM)
    llm._start(parts)
    return llm


@pytest.fixture
def two() -> Iterator[AsyncLLM]:
    llm = make_llm()
    yield llm
    llm.close()


def client_of(llm: AsyncLLM) -> DPClient:
    assert isinstance(llm.client, DPClient)
    return llm.client


def text_of(outputs: Iterator[RequestOutput | None]) -> tuple[str, str | None]:
    text, reason = "", None
    for output in outputs:
        assert output is not None
        text += output.outputs[0].text
        reason = output.outputs[0].finish_reason
    return text, reason


def told(llm: AsyncLLM, stream: str, kind: str) -> list[Any]:
    """The payloads of one kind in a stream, over all its lives, as far as they have come."""
    log = llm.trace_log
    assert log is not None
    llm.tracer.flush()
    lives = [life for life in log.lives() if life.stream == stream]
    lines = [line for life in lives for line in log.lines(stream, 1, life.head, life.epoch)]
    events = [decode_event(line) for line in lines]
    return [event.data for event in events if event.kind == kind]


def test_requests_are_spread_and_both_engines_tell_their_stream(two: AsyncLLM) -> None:
    streams = [two.stream(PROMPT, PARAMS, f"r{i}") for i in range(4)]
    assert [text_of(stream) for stream in streams] == [(TEXT, "length")] * 4
    assert [pick.engine for pick in told(two, "api", "route.pick")] == [0, 1, 0, 1]
    eventually(lambda: told(two, "engine0", "req.finish") and told(two, "engine1", "req.finish"))
    assert len(told(two, "api", "engine.ready")) == 2


def test_a_killed_engine_costs_its_speaking_requests_and_comes_back(two: AsyncLLM) -> None:
    client = client_of(two)
    client.gate.step(1)  # held after its first step: each has said one token
    spoken = [two.stream(PROMPT, PARAMS, f"s{i}") for i in range(2)]
    firsts = [next(stream) for stream in spoken]
    assert all(output is not None and output.outputs[0].token_ids for output in firsts)
    silent = two.stream(PROMPT, PARAMS, "silent")  # on engine 0, which is held
    eventually(lambda: [status.open_requests for status in client.engines()] == [2, 1])
    pid = client.engines()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    text, reason = text_of(spoken[0])
    assert (text, reason) == ("", "error")
    eventually(lambda: client.engines()[1].open_requests == 2)  # `silent` began anew
    client.gate.resume()
    assert text_of(spoken[1]) == (TEXT[1:], "length")
    assert text_of(silent) == (TEXT, "length")
    eventually(lambda: client.engines()[0].state == "ready")
    assert client.engines()[0].epoch == 2
    assert text_of(two.stream(PROMPT, PARAMS, "after"))[1] == "length"
    (dead,) = told(two, "api", "engine.dead")
    assert "SIGKILL" in dead.message and (dead.retried, dead.failed) == (1, 1)


def test_a_restart_writes_the_same_stream_with_the_next_epoch(two: AsyncLLM) -> None:
    client = client_of(two)
    old = client.engines()[0].pid
    status = client.restart(0, timeout=30)
    assert (status.epoch, status.state) == (2, "ready") and status.pid != old
    for i in range(2):
        assert text_of(two.stream(PROMPT, PARAMS, f"r{i}")) == (TEXT, "length")

    eventually(lambda: [s.epoch for s in told(two, "engine0", "run.start")] == [1, 2])
    assert told(two, "api", "engine.dead") == []


def test_a_frozen_engine_is_replaced() -> None:
    llm = make_llm(1, engine_stall_timeout=2.5)
    client = client_of(llm)
    try:
        pid = client.engines()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        lost = llm.stream(PROMPT, PARAMS, "lost")
        assert text_of(lost) == ("", "error")
        with pytest.raises(EngineUnavailableError):
            llm.stream(PROMPT, PARAMS, "too early")
        eventually(lambda: client.engines()[0].state == "ready")
        assert text_of(llm.stream(PROMPT, PARAMS, "again")) == (TEXT, "length")
    finally:
        llm.close()


def test_engines_begin_as_the_gate_says_and_a_new_life_as_it_stands_then() -> None:
    llm = make_llm(1, gate=Gate(paused=True))
    client = client_of(llm)
    try:
        assert client.gate.mode == "pause"
        stream = llm.stream(PROMPT, PARAMS, "a")
        client.gate.resume()
        assert text_of(stream) == (TEXT, "length")
        client.gate.pause()
        client.restart(0, timeout=30)
        held = llm.stream(PROMPT, PARAMS, "b")
        assert client.gate.wait_held(10) is not None
        client.set_knobs(max_num_seqs=3)
        client.gate.resume()
        assert text_of(held) == (TEXT, "length")
        assert client.facts()["max_num_seqs"] == 3
    finally:
        llm.close()


def test_a_wrong_configuration_is_the_callers_error_at_once() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        make_llm(2, enable_chunked_prefill=False, max_num_batched_tokens=16)
