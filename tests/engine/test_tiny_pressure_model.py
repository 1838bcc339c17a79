"""tiny-pressure with the whole model: the same table, the same words; and the demo's recording."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import minivllm
from minivllm.config import EngineConfig
from minivllm.models.source import ModelSource
from minivllm.scenario import load_scenario, start
from minivllm.trace.file import Trace, read_trace
from minivllm.trace.structural import structural
from tests.core.test_tiny_pressure import STEPS, table_row
from tests.helpers import trace_of

RECORDING = Path(minivllm.__file__).parent / "gallery" / "tiny-pressure.trace.jsonl"


@pytest.fixture(scope="module")
def with_model(smollm2: ModelSource) -> Trace:
    from minivllm.executor.uniproc import UniprocExecutor
    from minivllm.tokenizer import get_tokenizer

    executor: Callable[[EngineConfig], Any] = UniprocExecutor
    run = partial(start, executor=executor, tokenizer=get_tokenizer(smollm2))
    return trace_of(run(load_scenario("tiny-pressure"), dtype="float32").run())


def test_model_gives_the_table_and_the_headlines(with_model: Trace) -> None:
    assert [table_row(with_model, row["step"]) for row in STEPS] == STEPS


def test_model_says_the_tokens_that_the_scenario_gives(with_model: Trace) -> None:
    given = trace_of(start(load_scenario("tiny-pressure")).run())
    said: list[list[tuple[str | None, int, str]]] = [
        [
            (e.req, e.data.token_id, e.data.text)
            for e in trace.engine_events
            if e.kind == "req.token"
        ]
        for trace in (with_model, given)
    ]
    assert said[0] == said[1]


def test_recording_of_the_demo_is_what_the_command_records(with_model: Trace) -> None:
    """``minivllm trace record tiny-pressure --with-model``: the same decisions, the same text."""
    recording = read_trace(RECORDING)
    assert recording.header.fidelity == "live"  # a model ran, nothing was given
    assert recording.header.model == "smollm2-135m"
    assert without_logprobs(structural(recording.engine_events)) == without_logprobs(
        structural(with_model.engine_events)
    )


def without_logprobs(lines: list[bytes]) -> list[bytes]:
    """The last bits of a logprob differ from machine to machine; nothing else may."""
    return [line for line in lines if b'"kind":"sample"' not in line]
