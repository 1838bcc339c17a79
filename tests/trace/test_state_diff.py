"""What is different between two states of one run: each thing once, in words and as data."""

from __future__ import annotations

import copy

from minivllm.scenario import load_scenario, start
from minivllm.trace.file import Trace
from minivllm.trace.fold import State, apply, new_state
from minivllm.trace.state_diff import state_diff
from tests.helpers import trace_of


def states() -> dict[int, State]:
    """After each step of tiny-pressure."""
    trace: Trace = trace_of(start(load_scenario("tiny-pressure")).run())
    state, found = new_state(), {}
    for step in sorted(trace.steps):
        for event in trace.steps[step]:
            apply(state, event)
        found[step] = copy.deepcopy(state)
    return found


def test_a_preemption_is_told_by_what_it_moved() -> None:
    after = states()
    told = {(c.subject, c.field): c for c in state_diff(after[7], after[8])}
    assert (told["waiting", "requests"].before, told["waiting", "requests"].after) == ([], ["r4"])
    assert told["r4", "status"].words == "running → preempted"
    assert told["r4", "num_computed_tokens"].words == "computed 10 → 0"
    assert told["r4", "table"].words == "table 14 15 6 → none"
    assert told["block 6", "holders"].words == "held by r4 → r3"
    assert told["free", "blocks"].after == [15, 14]
    assert not any(subject in ("r2", "block 1") for subject, _ in told)


def test_new_ended_shared_and_forgotten() -> None:
    after = states()
    words = {f"{c.subject} {c.words}" for c in state_diff(after[1], after[2])}
    assert "block 1 held by r1 → r1 and r2" in words
    assert any(word.startswith("r2 new: running, 12 tokens known") for word in words)
    words = {f"{c.subject} {c.words}" for c in state_diff(after[4], after[6])}
    assert "r2 running → finished (length)" in words
    assert "block 6 its hash is gone" in words
    knob = copy.deepcopy(after[4])
    assert knob.config is not None
    knob.config["max_num_seqs"] = 2
    assert [c.words for c in state_diff(after[4], knob)] == ["8 → 2"]


def test_nothing_is_different_from_itself() -> None:
    for state in states().values():
        assert state_diff(state, state) == []
