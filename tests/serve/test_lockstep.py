"""Offline, what happens when does not depend on which thread is faster."""

from __future__ import annotations

import random
import time

import pytest

from minivllm import LLM, SamplingParams
from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.structural import structural
from tests.core.builders import SMALL, recorder
from tests.helpers import events_of
from tests.serve.fakes import FakeTokenizer

SAYS = list(b"one two three four five six seven eight nine ten")
PROMPTS = [{"prompt_token_ids": list(range(10 * i, 10 * i + 6))} for i in range(1, 7)]
STOPS = ["two", "three", "four", "zzz", "one", "five"]


def run(monkeypatch: pytest.MonkeyPatch, dawdle: random.Random) -> list[bytes]:
    """Six requests, most of which a stop string ends; the reader is late in its own way."""
    config = make_config(**{**SMALL, "num_kv_blocks": 40, "max_num_seqs": 4})
    trace = recorder()
    executor = ScriptedExecutor(config, lambda _req, index: SAYS[index])
    client = InprocClient(EngineCore(config, executor, trace), lockstep=True)
    take = client.get_output

    def late(timeout: float | None = None):  # type: ignore[no-untyped-def]
        outputs = take(timeout)
        time.sleep(dawdle.choice([0, 0, 0.003]))
        return outputs

    monkeypatch.setattr(client, "get_output", late)
    llm = LLM.from_parts(client, FakeTokenizer())
    params = [
        SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, stop=[stop]) for stop in STOPS
    ]
    for _ in range(2):  # the second call finds an engine that waits for a reader
        outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    assert [o.outputs[0].finish_reason for o in outputs].count("stop") == 5
    llm.shutdown()
    return structural(events_of(trace))


def test_runs_with_stop_strings_are_the_same_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [run(monkeypatch, random.Random(seed)) for seed in range(4)]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert b"stop_string" in b"".join(runs[0])


def test_all_prompts_of_a_call_arrive_before_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = run(monkeypatch, random.Random(0))
    arrivals = [line.split(b",")[0] for line in lines if b'"req.arrive"' in line]
    assert len(arrivals) == 12 and len(set(arrivals)) == 2
