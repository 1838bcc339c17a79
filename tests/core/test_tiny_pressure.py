"""tiny-pressure: the real scheduler and pool give the table and the headlines, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minivllm.scenario import load_scenario, start
from minivllm.trace.file import Trace
from minivllm.trace.fold import apply, new_state
from minivllm.trace.story import story
from tests.helpers import trace_of

EXPECTED = json.loads((Path(__file__).parent.parent / "data/tiny-pressure.json").read_text())
STEPS = EXPECTED["steps"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_of(start(load_scenario("tiny-pressure")).run())


def table_row(trace: Trace, step: int) -> dict[str, Any]:
    """One row of the table, written from the events of a step and the state after it."""
    events = trace.steps[step]
    state = trace.state_before(step)
    for event in events:
        apply(state, event)

    def of(kind: str) -> list[Any]:
        return [event for event in events if event.kind == kind]

    taken: dict[str, list[int]] = {}
    for event in of("kv.alloc"):
        taken.setdefault(event.req, []).extend(event.data.blocks)
    reused = []
    for event in of("req.admit") + of("req.resume"):
        if event.data.hit:
            blocks = [e.data.block for e in of("kv.touch") if e.req == event.req]
            reused.append(f"{event.req} {event.data.hit}: {numbers(blocks)}")
    waits = []
    for event in of("sched.victim"):
        freed = next(e.data for e in of("kv.free") if e.req == event.req)
        data = event.data
        waits.append(
            f"{event.req} preempted for {data.for_req} (need {data.need}, have {data.have}; "
            f"gives {numbers(freed.blocks[::-1])})"
        )
    for event in of("sched.skip"):
        data, detail = event.data, ""
        if data.reason == "no_free_blocks":
            detail = f" (need {data.need}, have {data.have}; hit {data.hit})"
        waits.append(f"{event.req} {data.reason.value}{detail}")
    for event in of("sched.stop"):
        if event.data.reason == "preempted_this_step":
            waits.append(f"{event.data.head} preempted_this_step")
        waits += [f"{req} behind {event.data.head}" for req in event.data.behind]
    chunks = {e.req: f" of {e.data.of}" for e in of("sched.chunk")}
    free = [f"{b}*" if state.blocks[b].hash else str(b) for b in state.free]
    return {
        "step": step,
        "arrives": ", ".join(event.req for event in of("req.arrive")),
        "runs": ", ".join(f"{e.req} {e.data.n}{chunks.get(e.req, '')}" for e in of("sched.grant")),
        "reused": ", ".join(reused),
        "waits": waits,
        "budget": of("sched.ledger")[0].data.used,
        "taken": ", ".join(f"{req}: {numbers(blocks)}" for req, blocks in taken.items()),
        "evicted": numbers([event.data.block for event in of("kv.evict")]),
        "free": " ".join(free),
        "ends": ", ".join(event.req for event in of("req.finish")),
        "headline": story(trace.state_before(step), events).headline,
    }


def numbers(blocks: list[int]) -> str:
    return " ".join(map(str, blocks))


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
