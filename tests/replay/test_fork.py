"""A fork is the recorded run up to its step, and from there on a run of its own with its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.config import STEP_KNOBS
from minivllm.errors import ConfigError, ReplayError
from minivllm.replay.fork import fork, parse_knobs
from minivllm.trace.events import Reason
from minivllm.trace.file import Trace, read_trace
from minivllm.trace.fold import fold
from minivllm.trace.invariants import violations
from minivllm.trace.structural import structural
from tests.core.builders import HEADER, Engine
from tests.core.random_runs import Plan, Run, plans
from tests.core.test_random_runs import random_runs
from tests.helpers import events_of
from tests.replay.builders import (
    as_trace,
    end_of,
    forked,
    of_kind,
    output_of,
    recording_of,
    served_run,
    tiny_pressure,
    verified,
)


def trace_of_engine(engine: Engine) -> Trace:
    return Trace(HEADER, events_of(engine.trace))


# --- any run, any knob ---------------------------------------------------------------------------

KNOBS: dict[str, st.SearchStrategy[Any]] = {
    "max_num_batched_tokens": st.integers(41, 60),  # with room for any prompt, chunked or not
    "max_num_seqs": st.integers(1, 6),
    "policy": st.sampled_from(["fcfs", "priority"]),
    "enable_chunked_prefill": st.booleans(),
    "long_prefill_token_threshold": st.integers(0, 5),
    "watermark": st.sampled_from([0.0, 0.2]),
    "admission": st.sampled_from(["full", "strict"]),
    "speculative_ngram": st.integers(0, 3),
    "prompt_lookup_min": st.just(1),
    "prompt_lookup_max": st.integers(1, 4),
}


def test_every_knob_of_a_step_is_tried() -> None:
    assert set(KNOBS) == set(STEP_KNOBS)


@random_runs(max_examples=100)
@given(plans(), st.data())
def test_any_fork_of_any_run_keeps_the_rules(plan: Plan, data: st.DataObject) -> None:
    run = Run(plan).run()
    original = Trace(run.trace.log.header, run.events)
    if not original.last_step:
        return
    at_step = data.draw(st.integers(1, original.last_step))
    knobs = data.draw(st.fixed_dictionaries({}, optional=KNOBS)) or {"max_num_seqs": 2}
    knobs["max_num_batched_tokens"] = data.draw(KNOBS["max_num_batched_tokens"])
    made = forked(original, at_step, **knobs)  # which verifies it
    assert violations(fold(made.engine_events)) == []
    before = [[e for e in t.engine_events if e.step < at_step] for t in (original, made)]
    if at_step > 1:
        assert structural(before[0]) == structural(before[1])
    placeholders = {e.req for e in of_kind(made, "req.token") if e.data.token_id >= 1_000_000}
    for event in of_kind(original, "req.finish"):
        req = str(event.req)
        ours, theirs = output_of(made, req), output_of(original, req)
        n = min(len(ours), len(theirs))
        assert ours[:n] == theirs[:n], "a decision changed which token comes"
        if event.data.reason in ("stop", "length") and event.data.why is None:
            assert req not in placeholders
            assert end_of(made, req) == end_of(original, req)


# --- what a fork is ------------------------------------------------------------------------------


def test_knob_changes_before_the_step_and_the_trace_says_so() -> None:
    _original, made = tiny_pressure(), forked(tiny_pressure(), at_step=5, max_num_seqs=2)
    (knob,) = of_kind(made, "run.knob")
    assert (knob.step, knob.data.name, knob.data.value) == (5, "max_num_seqs", 2)
    state = made.state_before(6)
    assert state.config is not None and state.config["max_num_seqs"] == 2
    assert made.state_before(5).config != state.config
    assert [e.data.max_num_seqs for e in of_kind(made, "step.begin")][3:5] == [8, 2]


def test_header_names_its_origin() -> None:
    original = tiny_pressure()
    made = forked(original, at_step=5, max_num_seqs=2)
    assert made.header.forked_from == f"{original.header.run_id}@5"
    assert made.header.run_id != original.header.run_id
    assert (made.header.name, made.header.fidelity) == ("tiny-pressure", "given")


def test_pool_can_be_another_from_the_start() -> None:
    made = forked(tiny_pressure(), num_kv_blocks=24)
    assert structural(made.events)[1:] == structural(tiny_pressure(num_kv_blocks=24).events)[1:]
    assert not of_kind(made, "run.knob")


@pytest.mark.parametrize(
    "knobs",
    [{"block_size": 8}, {"enable_prefix_caching": False}, {"max_num_batched_tokens": 5}],
)
def test_fork_from_the_start_is_the_scenario_with_that_knob(knobs: dict[str, Any]) -> None:
    made, other = forked(tiny_pressure(), **knobs), tiny_pressure(**knobs)
    assert structural(made.events) == structural(other.events)


def test_policy_lines_up_anew_those_who_wait() -> None:
    engine = Engine(max_num_seqs=1)
    for priority in (0, 3, 2, 1):
        engine.add(f"p{priority}", 6, max_tokens=4, priority=priority)
    engine.run()
    made = forked(trace_of_engine(engine), at_step=2, policy="priority")
    assert made.state_before(3).waiting == ["r4", "r3", "r2"]
    assert [e.req for e in of_kind(made, "req.admit")] == ["r1", "r4", "r3", "r2"]


def test_guessing_can_begin_in_the_middle_and_no_token_changes() -> None:
    engine = Engine(lambda req, index: 7 + index % 3)
    engine.add("a", 6, max_tokens=20)
    trace = trace_of_engine(engine.run())
    made = forked(trace, at_step=8, speculative_ngram=3)
    assert min(e.step for e in of_kind(made, "spec.propose")) == 8
    assert made.last_step < trace.last_step
    assert output_of(made, "r1") == output_of(trace, "r1")


def test_guess_that_is_right_beyond_the_end_needs_no_token() -> None:
    """EOS was guessed: what would follow it is asked for, and belongs to nobody."""
    engine = Engine(lambda req, index: [1, 2, 5][index])
    engine.add("a", [1, 2, 5, 3, 4, 8], max_tokens=20, eos_token_id=5, ignore_eos=False)
    trace = trace_of_engine(engine.run())
    made = fork(recording_of(trace), {"speculative_ngram": 3})
    assert [e.data.n for e in of_kind(as_trace(made), "spec.accept")] == [1]
    assert made.placeholders == {} and end_of(as_trace(made), "r1") == ("stop", None, 3)


def test_fork_of_a_fork_keeps_the_first_ones_knob() -> None:
    first = forked(tiny_pressure(), at_step=5, max_num_seqs=2)
    second = forked(first, at_step=9, watermark=0.3)
    assert [(e.step, e.data.name) for e in of_kind(second, "run.knob")] == [
        (5, "max_num_seqs"),
        (9, "watermark"),
    ]
    earlier = forked(first, at_step=3, max_num_seqs=4)
    assert [(e.step, e.data.value) for e in of_kind(earlier, "run.knob")] == [(3, 4)]


# --- what belongs to steps, and what to tokens ---------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return served_run(tmp_path_factory.mktemp("served") / "served.jsonl")


def test_stop_string_ends_at_the_same_output_token_and_nan_at_its_own(served: Trace) -> None:
    made = forked(served, at_step=2, max_num_batched_tokens=4)
    for req in ("r1", "r2", "r3"):
        assert end_of(made, req) == end_of(served, req)
        assert output_of(made, req) == output_of(served, req)
    errors = {e.req: e.data.message for e in of_kind(made, "req.error")}
    assert errors["r3"] == "the logits are NaN"
    assert errors["r6"] == "the step that ran it failed (RuntimeError)"


def test_caller_who_goes_away_goes_at_the_same_step() -> None:
    engine = Engine()
    engine.add("long", 6, max_tokens=20)
    engine.add("gone", 8, max_tokens=20)
    for _ in range(5):
        engine.step()
    engine.core.abort_request("gone", Reason.CLIENT)
    engine.run()
    made = forked(trace_of_engine(engine), at_step=2, max_num_seqs=1)
    (abort,) = of_kind(made, "req.abort")
    assert (abort.step, abort.req, end_of(made, "r2")) == (6, "r2", ("abort", "client", 5))


def test_token_that_was_never_recorded_is_a_placeholder_and_counted() -> None:
    """Without the wait for the budget it comes further before its caller goes away."""
    engine = Engine(max_num_batched_tokens=4)
    engine.add("gone", 16, max_tokens=20)
    for _ in range(6):
        engine.step()
    engine.core.abort_request("gone", Reason.CLIENT)
    trace = trace_of_engine(engine)
    assert end_of(trace, "r1") == ("abort", "client", 3)
    made = fork(recording_of(trace), {"max_num_batched_tokens": 64})
    assert made.placeholders == {"r1": 3}
    assert end_of(as_trace(made), "r1") == ("abort", "client", 6)
    verified(as_trace(made))


def test_arrivals_keep_their_steps_though_nobody_runs_before_them() -> None:
    engine = Engine(max_num_batched_tokens=4)
    engine.add("a", 16, max_tokens=4)
    for _ in range(5):
        engine.step()
    engine.add("b", 4, max_tokens=2)
    engine.run()
    made = forked(trace_of_engine(engine), max_num_batched_tokens=64)
    assert [(e.req, e.step) for e in of_kind(made, "req.arrive")] == [("r1", 1), ("r2", 6)]
    assert [e.step for e in of_kind(made, "step.begin")] == list(range(1, 8))


def test_name_that_is_still_in_use_is_given_another_one() -> None:
    engine = Engine()
    for _ in range(2):
        engine.add("again", 12, max_tokens=3)
        engine.run()
    made = forked(trace_of_engine(engine), max_num_batched_tokens=3)
    assert [e.data.request_id for e in of_kind(made, "req.arrive")] == ["again", "again-r2"]


def test_fork_ends_where_an_unfinished_recording_does() -> None:
    trace = tiny_pressure()
    cut = Trace(trace.header, [e for e in trace.events if e.step < 9])
    made = fork(recording_of(cut), {"max_num_seqs": 2}, at_step=4)
    assert made.num_steps == 8 and not made.placeholders


def test_knob_that_lets_nobody_run_ends_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minivllm.replay.fork.MAX_MORE_STEPS", 1)
    with pytest.raises(ReplayError, match="has not ended 1 steps after"):
        forked(tiny_pressure(), at_step=2, max_num_batched_tokens=3)


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["num_kv_blocks", "block_size", "enable_prefix_caching", "max_model_len"]
)
def test_what_the_pool_is_made_with_changes_from_the_start_only(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: got 1; allowed: from the start only"):
        fork(recording_of(tiny_pressure()), {name: 1}, at_step=2)


@pytest.mark.parametrize(
    ("knob", "value", "reason"),
    [
        ("batching", "static", "a batch that began under one rule"),
        ("scheduler_cls", "mine.Scheduler", "a scheduler cannot take over another one's queues"),
        ("block_size", 8, "pool and model are made with it"),
    ],
)
def test_why_it_changes_from_the_start_only_is_told(knob: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"without --at-step 7: {reason}"):
        fork(recording_of(tiny_pressure()), {knob: value}, at_step=7)


@pytest.mark.parametrize("step", [0, -1, 18])
def test_step_must_be_one_of_the_recording(step: int) -> None:
    with pytest.raises(ConfigError, match=r"--at-step: got .* 1 to 17"):
        fork(recording_of(tiny_pressure()), {"max_num_seqs": 1}, step)


def test_bad_value_is_refused_before_a_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "fork.jsonl"
    for knobs in ({"watermark": 2.0}, {"policy": "lifo"}, {"enable_chunked_prefill": False}, {}):
        with pytest.raises(ConfigError):
            fork(recording_of(tiny_pressure()), knobs, 3, str(path))
    assert not path.exists()


def test_knobs_are_parsed_by_their_kind() -> None:
    assert parse_knobs(
        ["max-num-seqs=2", "watermark=0.1", "policy=priority", "enable_chunked_prefill=off"]
    ) == {
        "max_num_seqs": 2,
        "watermark": 0.1,
        "policy": "priority",
        "enable_chunked_prefill": False,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_num_seqs", "key=value"),
        ("max_num_seqs=two", "a whole number"),
        ("watermark=much", "a number"),
        ("enable_prefix_caching=perhaps", "on | off"),
        ("max_num_sequences=2", "did you mean max_num_seqs"),
        ("seed=3", "one of num_kv_blocks"),
    ],
)
def test_knob_that_is_none_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        parse_knobs([text])


def test_fork_is_a_file_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "fork.jsonl"
    fork(recording_of(tiny_pressure()), {"max_num_seqs": 2}, 5, str(path))
    trace = read_trace(path)
    verified(trace)
    assert structural(trace.events) == structural(
        forked(tiny_pressure(), at_step=5, max_num_seqs=2).events
    )
