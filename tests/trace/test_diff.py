"""Where two runs part: the step, the decision on both sides, and what may have made it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from minivllm.cli.trace_diff import lines
from minivllm.trace import redact
from minivllm.trace.decisions import decisions
from minivllm.trace.diff import Comparison, KnobPair, TokenPair, compare
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import Trace
from tests.core.builders import HEADER, Engine
from tests.helpers import events_of
from tests.replay.builders import changed, forked, tiny_pressure


def trace_of_engine(engine: Engine) -> Trace:
    return Trace(HEADER, events_of(engine.trace))


def run(*prompts: int, abort_at: int | None = None, **knobs: Any) -> Trace:
    """Requests of so many prompt tokens, all at once."""
    engine = Engine(**knobs)
    for i, n in enumerate(prompts):
        engine.add(f"q{i}", n, max_tokens=6)
    while engine.core.has_requests():
        if abort_at == engine.core.scheduler.current_step:
            engine.core.abort_request("q0", Reason.CLIENT)
        engine.step()
    return trace_of_engine(engine)


# --- the same ----------------------------------------------------------------------------------


def test_equal_runs_are_the_same_in_all_steps() -> None:
    result = compare(tiny_pressure(), tiny_pressure())
    assert result == Comparison(steps=(17, 17)) and result.same


def test_other_knob_that_decides_nothing_is_told_and_the_runs_are_the_same() -> None:
    result = compare(run(6, 8), run(6, 8, num_kv_blocks=40))
    assert result.same and result.first is None and result.cause == []
    assert result.knobs == [KnobPair("num_kv_blocks", 0, 17, 40)]


def test_blocks_that_differ_by_nature_are_listed_and_not_counted() -> None:
    result = compare(run(18), run(18, enable_prefix_caching=False))
    assert result.same and result.by_nature["kv.cache"] == (5, 0)


# --- the first other decision -------------------------------------------------------------------


def test_larger_pool_has_no_victim_and_the_knob_is_the_cause() -> None:
    result = compare(tiny_pressure(), tiny_pressure(num_kv_blocks=24))
    first = result.first
    assert first is not None and first.step == 8
    (other,) = first.others
    assert (other.req, other.a, other.b) == ("r4", "gives way to r3", "runs token 11 (decode)")
    assert first.a.headline.startswith("r4 is preempted: r3 needs 1 block, 0 are free")
    assert "Under fcfs the one admitted last gives way: r4, of r1, r3 and r4." in first.a.why
    assert first.a.source is not None and "_allocate_or_preempt" in first.a.source
    assert first.b.headline == "3 requests decode one token each."
    assert result.cause == ["num_kv_blocks is 16 in A and 24 in B"]
    assert result.token is None and result.inputs == [] and not result.same


def test_caching_off_first_differs_where_a_prefix_was_hit() -> None:
    """Compare's example on the board: step 2, not the first kv.cache that is not there."""
    result = compare(tiny_pressure(), tiny_pressure(enable_prefix_caching=False))
    assert result.first is not None and result.first.step == 2
    assert result.by_nature["kv.cache"] == (3, 0)
    assert result.cause == ["enable_prefix_caching is on in A and off in B"]


def test_knob_that_a_fork_changed_is_named_with_its_step() -> None:
    result = compare(tiny_pressure(), forked(tiny_pressure(), at_step=5, max_num_seqs=2))
    assert result.first is not None and result.first.step == 5
    assert result.cause == ["max_num_seqs is 8 in A and 2 in B from step 5 on"]


def test_knob_that_changes_after_the_divergence_is_no_cause() -> None:
    late = forked(forked(tiny_pressure(), at_step=5, max_num_seqs=2), at_step=9, watermark=0.2)
    result = compare(tiny_pressure(), late)
    assert [pair.step for pair in result.knobs] == [5, 9]
    assert result.cause == ["max_num_seqs is 8 in A and 2 in B from step 5 on"]


def test_reason_that_changes_is_another_decision() -> None:
    trace = tiny_pressure()
    result = compare(trace, changed(trace, "sched.skip", reason=Reason.MAX_NUM_SEQS))
    assert result.first is not None
    (other,) = result.first.others
    assert (other.a, other.b) == ("is passed over (no_budget)", "is passed over (max_num_seqs)")
    assert "the code decided otherwise" in result.cause[0]


def test_order_in_the_batch_is_a_decision() -> None:
    trace = tiny_pressure()
    batch = next(e for e in trace.events if e.kind == "batch.compose" and len(e.data.rows) > 1)
    rows = list(reversed(batch.data.rows))
    swapped = msgspec.structs.replace(batch, data=msgspec.structs.replace(batch.data, rows=rows))
    events = [swapped if e is batch else e for e in trace.events]
    result = compare(trace, Trace(trace.header, events))
    assert result.first is not None and result.first.step == batch.step
    (other,) = result.first.others
    assert other.req is None and other.a == "the batch is r1 and r2"


def test_run_that_ends_earlier_parts_where_it_ends() -> None:
    trace = tiny_pressure()
    result = compare(trace, Trace(trace.header, [e for e in trace.events if e.step < 9]))
    assert result.first is not None and result.first.step == 9
    assert result.first.b.headline == "This run has no step 9: it ended after 8."


# --- inputs and tokens --------------------------------------------------------------------------


def test_arrival_at_another_step_is_an_input_and_a_cause() -> None:
    engine = Engine()
    engine.add("q0", 6, max_tokens=6)
    engine.step()
    engine.add("q1", 8, max_tokens=6)
    result = compare(run(6, 8), trace_of_engine(engine.run()))
    assert result.first is not None and result.first.step == 1
    assert result.cause == ["r2 arrives in step 1 in A, in step 2 in B"]


def test_request_that_only_one_run_has_is_an_input() -> None:
    result = compare(run(6), run(6, 8))
    assert result.cause == ["r2 arrives in step 1, in B only"]


def test_caller_who_goes_away_is_an_input() -> None:
    result = compare(run(6, 8), run(6, 8, abort_at=3))
    assert result.cause == ["r1 is called back (client) in step 4, in B only"]
    assert result.first is not None and "ends (abort, client)" in result.first.others[0].b


def test_other_priority_is_an_input() -> None:
    engine = Engine()
    engine.add("q0", 6, max_tokens=6, priority=3)
    result = compare(run(6), trace_of_engine(engine.run()))
    assert [pair.words for pair in result.inputs] == ["r1 has priority 0 in A, 3 in B"]
    assert result.first is None and not result.same


def test_other_token_is_found_though_no_decision_differs() -> None:
    engine = Engine(lambda req, index: 7 if index == 2 else int(req[1:]) * 10_000 + index)
    engine.add("q0", 6, max_tokens=6)
    other = Engine(lambda req, index: int(req[1:]) * 10_000 + index)
    other.add("q0", 6, max_tokens=6)
    result = compare(trace_of_engine(engine.run()), trace_of_engine(other.run()))
    assert result.first is None and not result.same
    assert result.token == TokenPair(3, "r1", 2, "<7>", "<10002>")


def test_token_that_ends_a_request_is_the_cause() -> None:
    def said(eos_at: int) -> Trace:
        engine = Engine(lambda req, index: 5 if index == eos_at else 1000 + index)
        engine.add("q0", 6, max_tokens=9, eos_token_id=5, ignore_eos=False)
        return trace_of_engine(engine.run())

    result = compare(said(2), said(99))
    assert result.first is not None and result.first.step == 3
    assert result.first.others[0].a.endswith("ends (stop)")
    assert result.cause == ["r1 says '<5>' in A and '<1002>' in B as its output token 3, in step 3"]


# --- called back for its text -------------------------------------------------------------------


def stopped(at: int | None, **knobs: Any) -> Trace:
    """The front end finds r1's stop string, and its word comes after step ``at``."""
    engine = Engine(**knobs)
    for name, n in (("q0", 6), ("q1", 8)):
        engine.add(name, n, max_tokens=6)
    while engine.core.has_requests():
        if at == engine.core.scheduler.current_step:
            engine.core.abort_request("q0", Reason.STOP_STRING)
        engine.step()
    return trace_of_engine(engine)


def test_stop_string_that_is_told_later_is_the_cause() -> None:
    result = compare(stopped(3), stopped(4))
    assert result.first is not None and result.first.step == 4
    assert result.cause == [
        "r1 is called back for its text after 3 tokens in A, in step 4; "
        "after 4 tokens in B, in step 5"
    ]


def test_stop_string_that_only_one_is_told_of_is_the_cause() -> None:
    result = compare(stopped(None), stopped(5))
    assert result.cause == ["r1 is called back for its text in step 6, in B only"]


def test_stop_string_at_the_same_token_is_no_other_input() -> None:
    """It comes at a later step, since the request runs later; the knob is the cause."""
    result = compare(stopped(3), stopped(4, max_num_batched_tokens=5))
    assert {
        e.data.output_tokens
        for t in (stopped(3), stopped(4, max_num_batched_tokens=5))
        for e in t.events
        if e.kind == "req.finish" and e.req == "r1"
    } == {3}
    assert result.inputs == [] and result.cause == ["max_num_batched_tokens is 64 in A and 5 in B"]


# --- traces that do not tell all ----------------------------------------------------------------


def test_trace_that_was_cut_is_the_cause_and_nothing_behind_the_cut_is_listed() -> None:
    trace = tiny_pressure()
    short = Trace(trace.header, [e for e in trace.events if e.step < 7])
    result = compare(trace, short)
    assert result.first is not None and result.first.step == 7
    assert result.inputs == []
    assert result.cause == [
        "B tells of no step after 6, with r1, r3 and r4 not at an end: it was cut, or its engine "
        "was stopped"
    ]


def test_trace_that_was_cut_within_a_step_is_the_cause() -> None:
    trace = tiny_pressure()
    begin = next(e for e in trace.events if e.kind == "step.begin" and e.step == 7)
    short = Trace(trace.header, [e for e in trace.events if e.seq <= begin.seq])
    (cause,) = compare(short, trace).cause
    assert cause.startswith("A tells of no step after 6, with r1, r3 and r4 not at an end")


def test_knob_is_no_cause_where_one_trace_was_cut_before_it_decided_anything() -> None:
    trace = tiny_pressure(num_kv_blocks=24)
    result = compare(tiny_pressure(), Trace(trace.header, [e for e in trace.events if e.step < 7]))
    assert [pair.name for pair in result.knobs] == ["num_kv_blocks"]
    assert len(result.cause) == 1 and "B tells of no step after 6" in result.cause[0]
    assert "knobs that differ (A | B): num_kv_blocks 16 | 24" in lines(result)


def redacted(trace: Trace) -> Trace:
    events = [msgspec.structs.replace(e, data=redact.redacted(e.data)) for e in trace.events]
    return Trace(msgspec.structs.replace(trace.header, redacted=True), events)


def test_redacted_trace_and_a_plain_one_are_not_said_to_have_other_prompts() -> None:
    for pair, which in (
        ((tiny_pressure(), redacted(tiny_pressure())), "B"),
        ((redacted(tiny_pressure()), tiny_pressure()), "A"),
    ):
        why = compare(*pair).not_comparable
        assert why is not None and why.startswith(f"{which} was redacted, so whether its prompts")


def test_two_redacted_traces_are_compared_and_their_tokens_are_not_called_the_same() -> None:
    trace = redacted(tiny_pressure())
    assert compare(trace, trace).same
    result = compare(trace, changed(trace, "sched.skip", reason=Reason.MAX_NUM_SEQS))
    assert "another token would not be seen" in result.cause[0]


# --- what cannot be compared --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "why"),
    [
        (run(7, 8), "the workloads differ: r1 has another prompt in B"),
        (Trace(HEADER, []), "B has no step"),
        (
            Trace(HEADER, [e for e in run(6).events if e.step > 1]),
            "the beginning of B was cut off",
        ),
    ],
)
def test_other_workload_is_not_comparable(b: Trace, why: str) -> None:
    result = compare(run(6, 8), b)
    assert result.not_comparable is not None and result.not_comparable.startswith(why)
    assert not result.same and result.first is None


# --- decisions in words -------------------------------------------------------------------------


def step(trace: Trace, number: int) -> list[Event]:
    return trace.steps[number]


def test_decisions_of_a_step_are_a_phrase_for_each_request() -> None:
    trace = tiny_pressure()
    assert decisions(step(trace, 8)) == {
        "r4": "gives way to r3",
        "r1": "runs token 23 (decode)",
        "r3": "runs token 25 (decode)",
        None: "the batch is r1 and r3",
    }
    assert decisions(step(trace, 10))["r5"] == "waits behind r4 (no_free_blocks)"


def test_block_numbers_and_free_blocks_are_no_decisions() -> None:
    a, b = tiny_pressure(), tiny_pressure(num_kv_blocks=24)
    assert [decisions(step(a, n)) for n in range(8)] == [decisions(step(b, n)) for n in range(8)]
