"""tiny-pressure: the real scheduler and pool give the table and the headlines, step by step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from minivllm.scenario import load_scenario, start
from minivllm.trace.file import Trace
from minivllm.trace.fold import apply, new_state
from minivllm.trace.story import story
from minivllm.trace.worksheet import make_row
from tests.helpers import trace_of

EXPECTED = json.loads((Path(__file__).parent.parent / "data/tiny-pressure.json").read_text())
STEPS = EXPECTED["steps"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_of(start(load_scenario("tiny-pressure")).run())


def table_row(trace: Trace, step: int) -> dict[str, Any]:
    """One row of the table, as the worksheet makes it, and the step's headline."""
    events = trace.steps[step]
    state = trace.state_before(step)
    headline = story(state, events).headline
    for event in events:
        apply(state, event)
    return {**asdict(make_row(step, events, state)), "headline": headline}


@pytest.mark.parametrize("row", STEPS, ids=[f"step{row['step']}" for row in STEPS])
def test_step_is_as_the_table_says(trace: Trace, row: dict[str, Any]) -> None:
    assert table_row(trace, row["step"]) == row


def test_run_ends_after_seventeen_steps(trace: Trace) -> None:
    assert trace.last_step == len(STEPS) == 17


def test_sums(trace: Trace) -> None:
    events = trace.engine_events
    sums = {
        "tokens_run": sum(e.data.n for e in events if e.kind == "sched.grant"),
        "tokens_reused": sum(e.data.hit for e in events if e.kind in ("req.admit", "req.resume")),
        "evictions": sum(e.kind == "kv.evict" for e in events),
        "preemptions": sum(e.kind == "req.preempt" for e in events),
        "tokens_lost": sum(e.data.tokens_lost for e in events if e.kind == "req.preempt"),
        "tokens_run_again": tokens_run_again(events),
        "tokens_out": sum(e.kind == "req.token" for e in events),
    }
    assert sums == EXPECTED["sums"]
    state = new_state()
    for event in events:
        apply(state, event)
    first = {name: request.first_token_step for name, request in state.requests.items()}
    assert first == EXPECTED["first_token_steps"]


def tokens_run_again(events: list[Any]) -> int:
    """Tokens that were computed before their request was preempted, and once more after it."""
    lost: dict[str, int] = {}  # request → its computed tokens when it was preempted
    again = 0
    for event in events:
        if event.kind == "req.preempt":
            lost[event.req] = event.data.tokens_lost
        elif event.kind == "sched.grant" and event.req in lost:
            end = min(event.data.start + event.data.n, lost[event.req])
            again += max(end - event.data.start, 0)
    return again


@pytest.mark.parametrize("name", EXPECTED["variants"])
def test_variant_preempts_whom_the_table_says(name: str) -> None:
    expected = EXPECTED["variants"][name]
    trace = trace_of(start(load_scenario("tiny-pressure"), **expected["knobs"]).run())
    victims = [
        f"{e.req} at {e.step} for {e.data.for_req}"
        for e in trace.engine_events
        if e.kind == "sched.victim"
    ]
    assert (trace.last_step, victims) == (expected["steps"], expected["preempted"])
    if "tokens_run" in expected:
        run = sum(e.data.n for e in trace.engine_events if e.kind == "sched.grant")
        assert run == expected["tokens_run"]
