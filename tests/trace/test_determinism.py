"""A run is determined by its inputs: again gives the same bytes, and so does its replay."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from minivllm.replay.recording import read_recording
from minivllm.replay.verify import verify
from minivllm.scenario import load_scenario, shipped_scenarios, start
from minivllm.trace.events import Event
from minivllm.trace.file import Trace
from minivllm.trace.structural import structural
from tests.core.builders import Engine
from tests.core.random_runs import Plan, Run, plans
from tests.core.test_random_runs import random_runs
from tests.helpers import events_of, trace_of
from tests.vectors.make import VECTORS


def assert_verifies(recorded: Trace) -> None:
    """Its inputs, run again, give every event of it."""
    verdict = verify(read_recording(recorded, "engine0"))
    assert verdict.difference is None, verdict.difference.lines()
    assert verdict.num_events == len(structural(recorded.events))


def trace(run: Run) -> Trace:
    return Trace(run.trace.log.header, run.events)


@random_runs(max_examples=60)
@given(plans())
def test_a_random_run_and_its_replay_have_the_same_structure(plan: Plan) -> None:
    first, second = Run(plan).run(), Run(plan).run()
    assert structural(first.events) == structural(second.events)
    assert_verifies(trace(first))


@pytest.mark.parametrize("name", VECTORS)
def test_replay_of_a_vector_has_the_same_structure(name: str) -> None:
    assert_verifies(trace_of(VECTORS[name]()))


def scenarios_with_tokens() -> list[str]:
    """Those that run without a model."""
    return [
        name
        for name in shipped_scenarios()
        if all(request.prompt_token_ids for request in load_scenario(name).request)
    ]


@pytest.mark.parametrize("name", scenarios_with_tokens())
def test_two_runs_of_a_scenario_are_the_same_bytes(name: str) -> None:
    scenario = load_scenario(name)
    runs = [structural(trace_of(start(scenario).run()).events) for _ in range(2)]
    assert runs[0] == runs[1] != []


def test_replay_notices_an_altered_decision() -> None:
    """What verification is for: a trace in which another victim stands is not its own replay."""
    recorded = trace_of(VECTORS["tiny-pressure"]())
    events = [_with_another_victim(event) for event in recorded.events]
    difference = verify(read_recording(Trace(recorded.header, events), "engine0")).difference
    assert difference is not None and difference.step == 8
    assert difference.recorded is not None and difference.now is not None
    assert (difference.recorded.req, difference.now.req) == ("r1", "r4")
    assert difference.source is not None and "scheduler.py" in difference.source


def _with_another_victim(event: Event) -> Event:
    return msgspec.structs.replace(event, req="r1") if event.kind == "sched.victim" else event


def structure_of(request_id: str, parent: str | None) -> list[bytes]:
    engine = Engine()
    engine.add(request_id, 6, max_tokens=3, parent=parent)
    return structural(events_of(engine.run().trace))


def test_structure_does_not_contain_the_callers_ids() -> None:
    """They are drawn anew in each run of a server; r1, r2, … are not."""
    assert structure_of("cmpl-1a", None) == structure_of("cmpl-2b", None)
    assert structure_of("cmpl-1a-0", "cmpl-1a") == structure_of("cmpl-2b-0", "cmpl-2b")


def test_structure_without_hashes_keeps_everything_else() -> None:
    events = trace_of(VECTORS["tiny-pressure"]()).events
    with_hashes, without = structural(events), structural(events, hashes=False)
    assert len(with_hashes) == len(without)
    assert any(b'"hash"' in line for line in with_hashes)
    assert not any(b'"hash"' in line or b'"parent":"' in line for line in without)


def test_structure_has_no_times_and_no_source_lines() -> None:
    for line in structural(trace_of(VECTORS["tiny-pressure"]()).events):
        assert b"_ns" not in line and b'"ns"' not in line and b'"src"' not in line
        assert b"run.source" not in line
