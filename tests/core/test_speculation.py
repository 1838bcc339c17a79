"""Speculation by n-grams: what is guessed, what a guess costs, and that it changes no token."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minivllm.config import SchedulerConfig
from minivllm.core.speculation import Speculation, ngram_drafts
from minivllm.executor.scripted import counting_tokens
from minivllm.trace.events import Reason
from minivllm.trace.tracer import OFF
from tests.core.builders import Engine, request, tokens

LOOP = [5, 6, 7, 8]


def says_a_loop(req_id: str, index: int) -> int:
    return LOOP[index % 4]


def engine(next_token: Any = says_a_loop, **knobs: Any) -> Engine:
    return Engine(next_token, speculative_ngram=3, **knobs)


# --- what is guessed ---------------------------------------------------------------------------


def test_what_followed_the_same_tokens_is_guessed() -> None:
    assert ngram_drafts([1, 2, 3, 9, 1, 2], most=2, low=2, high=4) == [3, 9]


def test_the_longest_match_wins_and_of_equals_the_oldest() -> None:
    tokens = [7, 2, 3, 60, 1, 2, 3, 50, 7, 2, 3, 70, 1, 2, 3]
    assert ngram_drafts(tokens, most=1, low=2, high=3) == [50]
    assert ngram_drafts(tokens, most=1, low=2, high=2) == [60]


def test_a_match_may_reach_into_what_it_predicts() -> None:
    assert ngram_drafts([4, 4, 4], most=3, low=2, high=2) == [4]


def test_a_match_begins_at_a_whole_token() -> None:
    """256 is 00 01 00 …: the last byte of the 5 and the first of the 1 look the same."""
    assert ngram_drafts([5, 1, 9, 256], most=3, low=1, high=1) == []
    assert ngram_drafts([5, 1, 9, 256, 3, 256], most=3, low=1, high=1) == [3, 256]


def test_too_short_a_match_is_no_evidence() -> None:
    assert ngram_drafts([1, 2, 3, 2], most=3, low=2, high=4) == []
    assert ngram_drafts([1], most=3, low=1, high=4) == []


@given(st.lists(st.integers(0, 2**33), max_size=40).map(lambda t: t + t[:7]))
def test_a_guess_is_what_a_plain_search_finds(tokens: list[int]) -> None:
    def plain() -> list[int]:
        for n in (3, 2):
            for start in range(len(tokens) - n):
                if tokens[start : start + n] == tokens[-n:]:
                    return tokens[start + n : start + n + 4]
        return []

    assert ngram_drafts(tokens, most=4, low=2, high=3) == plain()


# --- what becomes of it ------------------------------------------------------------------------


def test_right_guesses_save_steps_and_change_no_token() -> None:
    plain, guessing = Engine(says_a_loop), engine()
    for one in (plain, guessing):
        one.add("q", 3, max_tokens=20)
        one.run()
    assert guessing.said("q") == plain.said("q") == (LOOP * 5)
    assert guessing.core.scheduler.current_step < plain.core.scheduler.current_step == 20
    accepted = sum(e.data.n for e in guessing.events("spec.accept"))
    assert guessing.core.scheduler.current_step == 20 - accepted


def test_drafts_stand_in_the_batch_and_in_the_ledger() -> None:
    e = engine()
    e.add("q", [5, 6, 7, 8], max_tokens=12)
    e.step(), e.step()  # says 5, then 6: "5 6" was seen, 7 8 5 follow
    assert e.events("spec.propose")[-1].data.token_ids == [7, 8, 5]
    assert e.state().requests["r1"].drafts == [7, 8, 5]
    e.step()
    row = e.events("sched.ledger")[-1].data.rows[0]
    assert (row.asked, row.granted) == (4, 4)
    assert e.said("q") == [5, 6, 7, 8, 5, 6]
    assert (e.events("spec.accept")[-1].data.n, e.events("spec.reject")) == (3, [])


def test_wrong_guesses_are_taken_back() -> None:
    e = engine(counting_tokens)
    e.add("q", [1, 2, 9, 1, 2], max_tokens=6)  # drafts come after the first output at the earliest
    e.run()
    assert not e.events("spec.propose"), "nothing it says was seen before"

    def says(req_id: str, index: int) -> int:
        return [1, 2, 3, 4, 5, 6][index]

    e = engine(says)
    e.add("q", [1, 2, 9, 9], max_tokens=6)
    e.run()
    assert e.events("spec.propose")[0].data.token_ids == [9, 9, 1]
    reject = e.events("spec.reject")[0].data
    assert (reject.n, reject.why) == (3, Reason.DRAFT_MISMATCH)
    assert e.said("q") == [1, 2, 3, 4, 5, 6]


def test_an_output_that_ends_among_its_drafts_ends_there() -> None:
    e = engine()
    e.add("q", [5, 6, 7, 8], max_tokens=12, ignore_eos=False, eos_token_id=8)
    e.run()
    assert e.said("q") == [5, 6, 7, 8] and e.ended("q") == "stop"
    assert e.events("spec.reject")[-1].data.why == Reason.OUTPUT_ENDED
    e.assert_nothing_leaked()


def test_no_more_is_guessed_than_may_still_be_said() -> None:
    e = engine()
    e.add("q", LOOP * 2, max_tokens=4)
    e.run()
    assert e.said("q") == LOOP
    for propose in e.events("spec.propose"):
        assert len(propose.data.token_ids) <= 2


def test_drafts_end_where_the_context_does() -> None:
    """Even for a request whose max_tokens nobody has cut to its context."""
    config = SchedulerConfig(speculative_ngram=3, prompt_lookup_min=1)
    one = request(1, [5, 6, 5, 6, 5, 6, 5], max_tokens=100)
    Speculation(config, max_model_len=10, trace=OFF).propose(one)
    assert one.spec_token_ids == [6, 5], "the token sampled behind them is the tenth"
    Speculation(config, max_model_len=8, trace=OFF).propose(later := request(2, one.token_ids))
    assert later.spec_token_ids == []


def test_a_guess_takes_no_block_from_anybody() -> None:
    """Three requests fill the pool; the drafts of one would need a block more."""
    e = engine(num_kv_blocks=7)
    e.add("guessing", [1, 5, 6, 7, 8, 1], max_tokens=6)  # says 5: "1 5" was seen, 6 7 8 follow
    e.add("b", tokens(6, 100), max_tokens=2)
    e.add("c", tokens(6, 200), max_tokens=2)
    e.step(), e.step()
    assert e.events("spec.propose")[0].data.token_ids == [6, 7, 8]
    row = next(ledger.data.rows[0] for ledger in e.events("sched.ledger") if ledger.step == 2)
    assert (row.asked, row.granted, row.limited_by) == (4, 1, Reason.NO_FREE_BLOCKS)
    e.run()
    assert not e.events("req.preempt")
    e = engine(num_kv_blocks=3)
    e.add("alone", LOOP, max_tokens=4)
    e.run()
    assert not e.events("req.preempt") and e.said("alone") == LOOP


def test_blocks_of_drafts_have_no_name_before_they_are_right() -> None:
    e = engine()
    e.add("q", [5, 6, 7, 8], max_tokens=9)
    while e.core.has_requests():
        e.step()
        for one in e.core.scheduler.requests.values():
            known = [b for b in e.core.kv.tables["r1"] if b.block_hash is not None]
            assert len(known) <= one.num_tokens // 4


def test_preemption_forgets_the_drafts() -> None:
    e = engine(num_kv_blocks=8, max_num_batched_tokens=32)
    for i in range(3):
        e.add(f"q{i}", LOOP, max_tokens=12)
    e.run()
    assert e.events("req.preempt")
    assert all(e.said(f"q{i}") == LOOP * 3 for i in range(3))
    e.assert_nothing_leaked()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_at_most_k_drafts_a_step(k: int) -> None:
    e = Engine(says_a_loop, speculative_ngram=k, prompt_lookup_min=1)
    e.add("q", LOOP * 3, max_tokens=20)
    e.run()
    sizes = {len(event.data.token_ids) for event in e.events("spec.propose")}
    assert max(sizes) == k
