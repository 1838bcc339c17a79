"""A real engine process that is killed and started anew: the run's log has both lives, apart."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from minivllm.config import make_config
from minivllm.engine.messages import EngineCoreRequest
from minivllm.engine.mp_client import MPClient
from minivllm.errors import EngineDeadError
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Header
from minivllm.trace.file import read_trace
from minivllm.trace.life import way_of
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.two_engines import KNOBS

SCRIPTED = {
    "executor": "tests.engine_process.scripted:executor",
    "tokenizer": "tests.engine_process.scripted:tokenizer",
}


def ask(client: MPClient, request_id: str) -> None:
    client.wait_ready(timeout=60)
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    client.add_request(
        EngineCoreRequest(request_id=request_id, prompt_token_ids=[1, 2, 3], sampling_params=params)
    )
    done = False
    while not done:
        outputs = client.get_output(timeout=60)
        assert outputs is not None, "the engine stands still"
        done = any(output.finish_reason is not None for output in outputs.outputs)


def until_told(log: TraceLog, words: bytes) -> None:
    deadline = time.monotonic() + 60
    while not any(words in line for line in log.lines("engine1", 1, 2**62)):
        assert time.monotonic() < deadline, "the trace's channel stands still"
        time.sleep(0.002)


def test_killed_engine_and_its_next_life_are_apart_in_one_trace(tmp_path: Path) -> None:
    log = TraceLog(Header(run_id="t", created="", engine_version=""), str(tmp_path / "t.jsonl"))
    api = Recorder(log, "api")
    config = make_config(**KNOBS)
    first = MPClient(config, 1, 1, trace_log=log, tracer=api, **SCRIPTED)
    try:
        ask(first, "a")
        until_told(log, b'"kind":"req.finish"')  # what a killed process has not sent is lost
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError):
            while True:
                first.get_output(timeout=60)
    finally:
        first.shutdown()
    second = MPClient(config, 1, 2, trace_log=log, tracer=api, **SCRIPTED)
    try:
        ask(second, "b")
    finally:
        second.shutdown()
    lives = [(life.stream, life.epoch) for life in log.lives() if life.stream != "api"]
    assert lives == [("engine1", 1), ("engine1", 2)]
    api.close()
    trace = read_trace(tmp_path / "t.jsonl")
    assert list(trace.lives()) == ["engine1", "engine1, life 2"]
    for request_id, life in (("a", 1), ("b", 2)):
        way = way_of(trace, request_id)
        assert [(place.life, place.req) for place in way.places] == [(life, "r1")]
        names = [hop.name for hop in way.hops]
        assert sorted(names) == ["decode", "end", "ipc", "ipc back", "prefill", "queue"]
        assert names[:3] == ["ipc", "queue", "prefill"]
        hops = {hop.name: hop for hop in way.hops}
        assert hops["ipc"].bytes and hops["ipc"].ns and hops["ipc back"].bytes
        assert hops["ipc back"].times == 3 and hops["ipc back"].ns
