"""Block tables, prefix hits, and whether there is room."""

from __future__ import annotations

import pytest

from minivllm.core.kv_cache_manager import NO_HIT, Shortage
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Reason
from tests.core.builders import compute, kv_manager, recorder, request, tokens
from tests.helpers import events_of

PROMPT = tokens(40)


@pytest.mark.parametrize(
    ("num_tokens", "num_hit"),
    [(1, 0), (4, 0), (5, 4), (15, 12), (16, 12), (17, 16), (19, 16), (20, 16)],
)
def test_at_most_all_but_one_token_can_hit(num_tokens: int, num_hit: int) -> None:
    """Of exactly four full cached blocks, three are reused."""
    kv = kv_manager()
    compute(kv, request(1, PROMPT[:20]))
    hit = kv.find_prefix(request(2, PROMPT[:num_tokens]))
    assert hit.num_tokens == num_hit == 4 * len(hit.blocks)
    assert [b.block_id for b in hit.blocks] == list(range(1, 1 + num_hit // 4))


def test_hit_ends_at_the_first_block_that_is_not_cached() -> None:
    trace = recorder()
    kv = kv_manager(trace=trace)
    compute(kv, request(1, PROMPT[:16]))
    other = request(2, PROMPT[:8] + tokens(8, 500))
    assert kv.find_prefix(other).num_tokens == 8
    miss = events_of(trace)[-1].data
    assert (miss.at_block, miss.reason, len(miss.hash)) == (2, Reason.NOT_CACHED, 16)


@pytest.mark.parametrize(("n", "reason"), [(8, Reason.LAST_TOKEN), (7, Reason.PARTIAL_BLOCK)])
def test_lookup_says_why_it_ended_where_all_was_cached(n: int, reason: Reason) -> None:
    trace = recorder()
    kv = kv_manager(trace=trace)
    compute(kv, request(1, PROMPT[:8]))
    kv.find_prefix(request(2, PROMPT[:n]))
    miss = events_of(trace)[-1].data
    assert (miss.at_block, miss.reason, miss.hash) == (1, reason, None)


@pytest.mark.parametrize("wanted", [0, 5])
def test_prompt_whose_logprobs_are_wanted_reads_nothing_and_leaves_its_blocks(wanted: int) -> None:
    """PITFALLS: the tokens of a hit have no logits."""
    trace = recorder()
    kv = kv_manager(trace=trace)
    compute(kv, request(1, PROMPT[:16]))
    scored = request(2, PROMPT[:20], sampling_params=SamplingParams(prompt_logprobs=wanted))
    assert kv.find_prefix(scored) == NO_HIT
    miss = events_of(trace)[-1].data
    assert (miss.at_block, miss.reason, miss.hash) == (0, Reason.PROMPT_LOGPROBS, None)
    compute(kv, scored)
    assert kv.find_prefix(request(3, PROMPT[:21])).num_tokens == 20


def test_other_salt_does_not_hit() -> None:
    kv = kv_manager()
    compute(kv, request(1, PROMPT[:16], cache_salt="a"))
    assert kv.find_prefix(request(2, PROMPT[:16], cache_salt="b")) == NO_HIT
    assert kv.find_prefix(request(3, PROMPT[:16])) == NO_HIT
    assert kv.find_prefix(request(4, PROMPT[:16], cache_salt="a")).num_tokens == 12


def test_nothing_is_found_or_registered_with_caching_off() -> None:
    kv = kv_manager(caching=False)
    compute(kv, request(1, PROMPT[:16]))
    assert kv.find_prefix(request(2, PROMPT[:16])) == NO_HIT and kv.pool.cached == {}


def test_looking_up_takes_nothing() -> None:
    kv = kv_manager()
    one = request(1, PROMPT[:16])
    compute(kv, one)
    kv.free(one)
    before = [b.block_id for b in kv.pool.free_queue]
    kv.find_prefix(request(2, PROMPT[:16]))
    assert [b.block_id for b in kv.pool.free_queue] == before


def test_needed_blocks_count_hits_that_lie_free() -> None:
    """They must leave the free queue, too; a hit that somebody holds costs nothing."""
    kv = kv_manager()
    one, two = request(1, PROMPT[:16]), request(2, PROMPT[:18])
    compute(kv, one)
    hit = kv.find_prefix(two)
    assert kv.num_blocks_needed(two, two.num_tokens, hit) == 1
    kv.free(one)
    assert kv.num_blocks_needed(two, two.num_tokens, hit) == 5


def test_hit_that_lies_free_is_not_taken_as_a_new_block() -> None:
    kv = kv_manager(usable_blocks=5)
    one = request(1, PROMPT[:16])
    compute(kv, one)
    kv.free(one)
    two = request(2, PROMPT[:18])
    hit = kv.find_prefix(two)
    assert kv.allocate_slots(two, 2, hit) == [1, 2, 3, 4, 5]
    assert [b.ref_cnt for b in kv.tables["r2"]] == [1] * 5 and kv.pool.num_free_blocks == 0


def test_shortage_says_its_numbers_and_changes_nothing() -> None:
    kv = kv_manager(usable_blocks=3)
    one = request(1, PROMPT[:16])
    assert kv.allocate_slots(one, 16) == Shortage(need=4, have=3)
    assert kv.tables == {} and kv.pool.num_free_blocks == 3


def test_a_block_is_added_exactly_when_the_last_one_is_full() -> None:
    kv = kv_manager()
    one = request(1, PROMPT[:20])
    assert [len(compute(kv, one, 1)) for _ in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_full_blocks_are_registered_when_they_are_allocated() -> None:
    kv = kv_manager()
    one = request(1, PROMPT[:12])
    compute(kv, one, 7)
    assert kv.find_prefix(request(2, PROMPT[:12])).num_tokens == 4
    compute(kv, one, 1)
    assert kv.find_prefix(request(3, PROMPT[:12])).num_tokens == 8


def test_table_only_grows_at_its_end_though_a_twin_is_found() -> None:
    """Equal content is not merged: what a worker was told stays true."""
    kv = kv_manager()
    one, two = request(1, PROMPT[:6]), request(2, PROMPT[:6])
    compute(kv, one, 3)
    compute(kv, two, 3)
    compute(kv, one)
    compute(kv, two)
    assert (kv.block_ids(one), kv.block_ids(two)) == ([1, 3], [2, 4])
    assert [list(twins) for twins in kv.pool.cached.values()] == [[1, 2]]


def test_withdrawal_keeps_the_blocks_that_were_computed() -> None:
    kv = kv_manager()
    one = request(1, PROMPT[:16])
    compute(kv, one, 6)
    kv.allocate_slots(one, 10)  # blocks 1 to 3 become full, but will not run
    kv.withdraw_hashes(one, num_executed_tokens=6)
    assert kv.find_prefix(request(2, PROMPT[:20])).num_tokens == 4


def test_withdrawal_leaves_a_twin_of_somebody_else() -> None:
    kv = kv_manager()
    one, two = request(1, PROMPT[:8]), request(2, PROMPT[:8])
    compute(kv, one, 3)
    compute(kv, two, 3)
    compute(kv, one)
    kv.allocate_slots(two, 5)
    kv.withdraw_hashes(two, num_executed_tokens=3)
    hit = kv.find_prefix(request(3, PROMPT[:12]))
    assert [b.block_id for b in hit.blocks] == kv.block_ids(one)


def test_freed_blocks_stay_findable_until_they_are_taken() -> None:
    kv = kv_manager(usable_blocks=4)
    one = request(1, PROMPT[:16])
    compute(kv, one)
    kv.free(one)
    assert kv.find_prefix(request(2, PROMPT)).num_tokens == 16
    compute(kv, request(3, 5))
    assert kv.find_prefix(request(4, PROMPT)).num_tokens == 8, "the tail went first"


def test_freeing_twice_is_freeing_once() -> None:
    kv = kv_manager()
    one = request(1, PROMPT[:16])
    compute(kv, one)
    kv.free(one)
    kv.free(one)
    assert kv.pool.num_free_blocks == 16 and kv.tables == {}


def test_blocks_of_a_request_that_comes_back_are_registered_anew() -> None:
    """Its old blocks were evicted meanwhile: what had a name then has none now."""
    kv = kv_manager(usable_blocks=4)
    one, other = request(1, PROMPT[:16]), request(2, 16)
    for each in (one, other):
        compute(kv, each)
        kv.free(each)
    one.num_computed_tokens = 0
    assert kv.find_prefix(one) == NO_HIT
    compute(kv, one)
    assert all(block.block_hash for block in kv.tables["r1"])
