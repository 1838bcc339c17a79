"""Metrics: the numbers that a hand can count in tiny-pressure, and sums that hold in every run."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from minivllm.trace.events import Event, Header
from minivllm.trace.file import Trace
from minivllm.trace.fold import apply, new_state
from minivllm.trace.kv_use import memory_by_step
from minivllm.trace.metrics import Metrics, measure, spread
from minivllm.trace.side_by_side import rows
from tests.core.random_runs import Plan, Run, plans
from tests.core.test_random_runs import random_runs
from tests.helpers import trace_of


def tiny(**knobs: Any) -> Trace:
    return trace_of(start(load_scenario("tiny-pressure"), **knobs).run())


@pytest.fixture(scope="module")
def a() -> Metrics:
    return measure(tiny())


@pytest.fixture(scope="module")
def b() -> Metrics:
    return measure(tiny(enable_prefix_caching=False))


def test_both_runs_give_the_numbers_of_the_table(a: Metrics, b: Metrics) -> None:
    assert (a.steps, b.steps) == (17, 20)
    assert (a.tokens_run, b.tokens_run) == (87, 152)
    assert (a.tokens_reused, b.tokens_reused) == (28, 0)
    assert (len(a.preemptions), len(b.preemptions)) == (1, 3)
    assert (a.ttft and a.ttft.mean, b.ttft and b.ttft.mean) == (2.8, 3.8)
    assert round(a.output_tokens_per_step, 2) == 2.06
    assert b.output_tokens_per_step == 1.75
    assert (a.output_tokens, a.requests, a.ended) == (35, 5, {"length": 5})


def test_waits_are_counted_as_by_hand(a: Metrics) -> None:
    of = a.by_request
    assert {name: r.ttft for name, r in of.items()} == {"r1": 2, "r2": 1, "r3": 3, "r4": 2, "r5": 6}
    assert {name: r.queue for name, r in of.items()} == {
        "r1": 0,
        "r2": 0,
        "r3": 0,
        "r4": 1,
        "r5": 5,
    }
    assert of["r4"].tpot == pytest.approx(11 / 7), "8 tokens in steps 5 to 16"
    assert of["r4"].gap == 5, "from step 7, before it gave way, to step 12, when it was back"
    assert a.tpot and a.tpot.p50 == 1 and a.tpot.p95 == pytest.approx(11 / 7)
    assert a.milliseconds is None, "no model ran, so the clock says nothing"


def test_work_adds_up(a: Metrics, b: Metrics) -> None:
    # r4 lost 10 tokens and found 4 of them; r2 took over 8 of r1's, r5 16.
    assert (a.needed, a.reused_first, a.again) == (105, 24, 6)
    assert (b.needed, b.reused_first, b.again) == (105, 0, 47)
    assert a.prefix_hits == 3


def test_victims_and_budget_are_the_events(a: Metrics, b: Metrics) -> None:
    assert [(p.req, p.step, p.for_req, p.tokens_lost) for p in a.preemptions] == [
        ("r4", 8, "r3", 10)
    ]
    assert [(p.req, p.step) for p in b.preemptions] == [("r3", 6), ("r4", 10), ("r5", 15)]
    assert a.budget == 17 * 12 and a.budget - a.tokens_run == sum(a.unused_because.values())
    # Step 8 (10 left), steps 9 to 13 (10 + 10 + 10 + 4 + 10).
    assert a.unused_because["preempted_this_step"] == 10
    assert a.unused_because["no_free_blocks"] == 44


def test_memory_of_a_step_is_as_in_the_table() -> None:
    """Step 6: all 15 blocks are taken; r1 has computed 21 tokens, r3 23, r4 9; r2 has ended."""
    steps = {memory.step: memory for memory in memory_by_step(tiny().engine_events)}
    six = steps[6]
    assert (six.pool, six.taken, six.token_states) == (60, 60, 21 + 23 + 9)
    # r1's last three slots and r3's last will be filled; r4 gives way with 10 of its 12 filled.
    assert (six.reserved, six.never_used) == (3 + 1 + 1, 2)
    assert steps[9].too_few == 8 and steps[9].free == 0, "r4 needs 3 blocks, 2 are free"
    assert steps[2].token_states == 17 + 11 - 8, "r1's 17, r2's 11, and 8 that they share"


def test_reserved_and_scattered_memory_of_a_contiguous_pool() -> None:
    def request(arrives: int, prompt: int, n: int, limit: int) -> ScenarioRequest:
        ids = [arrives * 100 + i for i in range(prompt)]
        return ScenarioRequest(
            arrives=arrives, prompt_token_ids=ids, output_tokens=n, max_tokens=limit
        )

    # 6 blocks of 4. r1 reserves 2 and says 1 token, r2 2 and says 6, r3 2 and says 1: then 2 + 2
    # blocks are free around r2, and r4, which needs 3 neighbours, waits.
    requests = [request(1, 2, 1, 6), request(1, 2, 6, 6), request(1, 2, 1, 6), request(2, 4, 1, 8)]
    knobs = {
        "num_kv_blocks": 7,
        "block_size": 4,
        "max_model_len": 16,
        "enable_prefix_caching": False,
        "kv_manager_cls": "contiguous",
        "contiguous_reserve": "request",
    }
    run = start(Scenario(name="gaps", engine=knobs, request=requests)).run()
    first, second, *_ = memory_by_step(trace_of(run).engine_events)
    assert (first.pool, first.taken, first.token_states) == (24, 24, 6)
    # r2 will fill 7 of its 8 slots (its last token is never computed); r1 and r3 stay at 2.
    assert (first.reserved, first.never_used) == (5, 6 + 6 + 1)
    assert (second.scattered, second.free, second.too_few) == (16, 0, 0)


def test_padding_and_drafts_are_counted() -> None:
    static = measure(trace_of(start(load_scenario("mixed-lengths"), batching="static").run()))
    assert static.tokens_padded == 344
    said = [1, 2, 3, 1, 2, 3, 1, 2, 9, 9]
    request = ScenarioRequest(
        arrives=1, prompt_token_ids=[1, 2, 3, 1, 2, 3], output_tokens=10, output_token_ids=said
    )
    scenario = Scenario(name="drafts", engine={"num_kv_blocks": 9}, request=[request])
    drafted = measure(trace_of(start(scenario, speculative_ngram=3).run()))
    # 1 (+ 2 3 1: all right, and 2), then 3 1 2 right and 9 for free … the events say how many.
    assert drafted.steps < 10 and drafted.output_tokens == 10
    assert drafted.drafts_accepted == 10 - drafted.steps
    assert drafted.drafts_run == drafted.drafts_accepted + drafted.drafts_in_vain
    assert drafted.tokens_run == drafted.needed + drafted.drafts_in_vain


def test_percentiles_are_values_of_requests() -> None:
    found = spread([5, 1, None, 3, 2, 4])
    assert found is not None
    assert (found.n, found.mean, found.p50, found.p95, found.max) == (5, 3, 3, 5, 5)
    assert spread([None]) is None


def test_milliseconds_come_from_the_clock_of_a_live_run() -> None:
    """A clock on which each event takes 1 ms: what comes out is what it says, to the digit."""
    trace = tiny()
    events = [replace(event, t_ns=n * 1_000_000) for n, event in enumerate(trace.events)]
    live = Trace(Header(**{**as_dict(trace.header), "fidelity": "live"}), events)
    measured = measure(live).milliseconds
    assert measured is not None and measured.ttft is not None
    came = {e.req: e.t_ns for e in events if e.kind == "req.arrive"}
    said = {e.req: e.t_ns for e in reversed(events) if e.kind == "req.token"}
    waits = [(t_ns - came[req]) / 1e6 for req, t_ns in said.items()]
    assert measured.ttft.n == len(waits) == 5
    assert measured.ttft.p50 == pytest.approx(statistics.median(waits))


def as_dict(header: Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in header.__struct_fields__}


def test_trace_without_a_step_has_metrics() -> None:
    empty = measure(Trace(Header(run_id="x", created="", engine_version=""), []))
    assert (empty.steps, empty.requests, empty.memory, empty.ttft) == (0, 0, None, None)
    assert empty.budget_use == 0.0


@random_runs(max_examples=60)
@given(plans())
def test_sums_hold_in_every_run(plan: Plan) -> None:
    events = Run(plan).run().events
    found = measure(Trace(Header(run_id="x", created="", engine_version=""), events))
    again, vain = found.again, found.drafts_in_vain
    assert found.tokens_run == found.needed - found.reused_first + again + vain
    assert found.budget - found.tokens_run == sum(found.unused_because.values())
    for memory in memory_by_step(events):
        parts = (
            memory.token_states,
            memory.reserved,
            memory.never_used,
            memory.scattered,
            memory.too_few,
            memory.free,
        )
        assert min(parts) >= 0 and sum(parts) == memory.pool
    assert [m.token_states for m in memory_by_step(events)] == token_states(events)


def token_states(events: list[Event]) -> list[int]:
    """The slow way: block by block, the most that any table's owner has filled of it."""
    state, found = new_state(), []
    for event in events:
        apply(state, event)
        if event.kind == "batch.compose" and state.config is not None:
            size, filled = state.config["block_size"], dict[int, int]()
            for req in state.running:
                request = state.requests[req]
                for logical, block in enumerate(request.table):
                    n = min(max(request.num_computed_tokens - logical * size, 0), size)
                    filled[block] = max(filled.get(block, 0), n)
            found.append(sum(filled.values()))
    return found


# --- side by side -------------------------------------------------------------------------------


def test_table_names_causes_that_add_up(a: Metrics, b: Metrics) -> None:
    table = {row.label: row for row in rows(a, b)}
    run = table["tokens run"]
    assert (run.a, run.b, run.difference, run.because) == (
        "87", "152", "+65", "+24 no hit, +41 again",
    )  # fmt: skip
    ttft = table["TTFT mean, steps"]
    assert (ttft.a, ttft.b, ttft.difference, ttft.because) == (
        "2.80", "3.80", "+1.00", "r4 +4, r2 +1 (r1, r3 and r5 the same)",
    )  # fmt: skip
    assert table["preemptions"].because == "A: r4 in 8; B: r3 in 6, r4 in 10 and r5 in 15"
    assert table["tokens reused"].because == "−24 of others, −4 of its own, after preemption"
    assert table["tokens out / step"].difference == "−0.31"
    assert table["steps"].because == "", "not a sum over events"


def test_rows_that_say_nothing_are_left_out(a: Metrics) -> None:
    labels = [row.label for row in rows(a, a)]
    assert not {"tokens padded", "drafts run", "TTFT p50, ms", "tokens out / s"} & set(labels)
    assert {row.difference for row in rows(a, a)} == {"0"}
