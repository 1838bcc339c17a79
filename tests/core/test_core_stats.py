"""Each step's statistics: the same story as the trace, told without it.

Step by step they are compared wherever an engine is driven at random (``driven.py``); here are the
sums over whole runs, and what is sent when.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutputs, SchedulerStats, SpecDecodingStats
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.scenario import ScenarioRun, load_scenario, shipped_scenarios, start
from minivllm.trace.events import Reason
from minivllm.trace.fold import fold
from minivllm.trace.metrics import measure
from minivllm.trace.tracer import OFF
from tests.core import stats_of_fold
from tests.core.builders import SMALL, Engine, message
from tests.helpers import trace_of


@contextmanager
def told(core: EngineCore) -> Iterator[list[EngineCoreOutputs]]:
    """All that the core hands out, in order."""
    outputs: list[EngineCoreOutputs] = []
    step = core.step

    def kept() -> EngineCoreOutputs:
        outputs.append(step())
        return outputs[-1]

    core.step = kept  # type: ignore[method-assign]
    yield outputs
    core.step = step  # type: ignore[method-assign]


def stats_of(run: ScenarioRun) -> list[SchedulerStats]:
    """Runs it to its end."""
    with told(run.core) as outputs:
        run.run()
    stats = [step.stats for step in outputs]
    assert all(stats), "a step without statistics"
    return [s for s in stats if s is not None]


@pytest.mark.parametrize("name", shipped_scenarios())
@pytest.mark.parametrize("knobs", [{}, {"speculative_ngram": 3, "max_num_batched_tokens": 24}])
def test_the_sums_over_a_run_are_those_of_its_trace(name: str, knobs: dict[str, Any]) -> None:
    run = start(load_scenario(name), **knobs)
    stats = stats_of(run)
    trace = trace_of(run)
    metrics = measure(trace)
    assert [s.step for s in stats] == list(range(1, metrics.steps + 1))
    assert sum(s.num_prefill_tokens + s.num_decode_tokens for s in stats) == metrics.tokens_run
    assert sum(s.num_generation_tokens for s in stats) == metrics.output_tokens
    assert sum(s.num_preempted_reqs for s in stats) == len(metrics.preemptions)
    first = [e.data for e in trace.engine_events if e.kind == "req.admit"]
    assert sum(s.prefix_cache_hits for s in stats) == sum(data.hit for data in first)
    assert sum(s.prefix_cache_queries for s in stats) == sum(data.tokens for data in first)
    drafts = [s.spec_decoding_stats for s in stats if s.spec_decoding_stats is not None]
    assert sum(d.num_draft_tokens for d in drafts) == metrics.drafts_run
    assert sum(d.num_accepted_tokens for d in drafts) == metrics.drafts_accepted
    assert (stats[-1].num_open_reqs, stats[-1].kv_cache_usage) == (0, 0)


@pytest.mark.parametrize("name", shipped_scenarios())
def test_after_each_step_it_stands_as_the_fold_does(name: str) -> None:
    run = start(load_scenario(name))
    stats = stats_of(run)
    events = trace_of(run).engine_events
    ends = [i for i, event in enumerate(events) if event.kind == "step.end"]
    state, begin = fold([]), 0
    for end, of_step in zip(ends, stats, strict=True):
        step = events[begin : end + 1]
        state, begin = fold(step, state), end + 1
        assert of_step == stats_of_fold.of_step(state, step)


def test_they_are_the_same_with_and_without_a_trace() -> None:
    traced = start(load_scenario("memory-pressure"))
    silent = start(load_scenario("memory-pressure"))
    core = EngineCore(silent.config, silent.core.executor, OFF)
    assert stats_of(traced) == stats_of(replace(silent, core=core))


def test_a_step_without_an_output_and_an_abort_are_news() -> None:
    engine = Engine(max_num_batched_tokens=4)
    engine.add("a", 10)
    core = engine.core
    waits = core.take_outputs()
    assert waits.has_news and waits.stats is not None and waits.stats.num_waiting_reqs == 1
    assert not core.take_outputs().has_news, "nothing has changed since"
    chunk = core.step()
    assert chunk.outputs == [] and chunk.has_news
    assert chunk.stats is not None and chunk.stats.num_running_reqs == 1
    assert chunk.stats.kv_cache_usage == 1 / 16
    core.abort_request("a", Reason.CLIENT)
    gone = core.take_outputs()
    assert gone.stats == SchedulerStats.empty(0, step=1)
    assert not core.take_outputs().has_news


def test_who_has_no_grammar_yet_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    engine.add("a", 4)
    monkeypatch.setattr(type(engine.core.grammars), "num_waiting", 1)
    stats = engine.core.take_outputs().stats
    assert stats is not None
    assert (stats.num_waiting_reqs, stats.num_skipped_waiting_reqs) == (0, 1)


def test_drafts_are_counted_by_their_place() -> None:
    said = [7, 8, 9, 7, 8, 9, 5, 5]
    engine = Engine(lambda _req, index: said[index], speculative_ngram=3, prompt_lookup_min=1)
    engine.add("a", [1, 2, 3], max_tokens=8)
    told = []
    while engine.core.has_requests():
        stats = engine.core.step().stats
        assert stats is not None
        if stats.spec_decoding_stats is not None:
            told.append(stats.spec_decoding_stats)
    # Behind 7 8 9 7 come 8 9 7: two are right. Behind … 9 5 there is no 5 before.
    assert told[0] == SpecDecodingStats(
        num_drafts=1,
        num_draft_tokens=3,
        num_accepted_tokens=2,
        num_accepted_tokens_per_pos=[1, 1, 0],
    )


def test_a_request_that_fails_takes_its_stations_along() -> None:
    engine = Engine()
    engine.add("a", 300)  # more than the pool has
    (output,) = engine.core.take_outputs().outputs
    assert output.finish_reason == "error"
    assert [event.type.value for event in output.events] == ["queued"]


def test_an_id_that_is_used_again_at_once_has_stations_of_its_own() -> None:
    engine = Engine()
    engine.add("a", 4)
    engine.core.step()
    engine.core.abort_request("a", Reason.CLIENT)
    engine.add("a", 4, max_tokens=1)
    (gone,) = engine.core.take_outputs().outputs
    assert gone.events == []  # its first output had them
    (output,) = engine.core.step().outputs
    assert [event.type.value for event in output.events] == ["queued", "scheduled"]


def test_the_number_of_the_engine_is_on_everything() -> None:
    config = make_config(**SMALL)
    core = EngineCore(config, ScriptedExecutor(config), engine=3)
    core.add_request(message("a", 4, max_tokens=1))
    for outputs in (core.take_outputs(), core.step()):
        assert outputs.engine == 3 and outputs.stats is not None and outputs.stats.engine == 3


def test_they_cross_a_process_boundary_unchanged() -> None:
    engine = Engine(speculative_ngram=3)
    engine.add("a", [1, 2, 1, 2, 1, 2], max_tokens=4)
    while engine.core.has_requests():
        outputs = engine.core.step()
        wire = msgspec.msgpack.encode(outputs)
        assert msgspec.msgpack.decode(wire, type=EngineCoreOutputs) == outputs
