"""The free queue and the pool: who is taken next, who can be found again."""

from __future__ import annotations

import pytest

from minivllm.core.block_hash import hash_block, short
from minivllm.core.block_pool import BlockPool, FreeBlockQueue, KVCacheBlock
from minivllm.trace.events import Reason
from minivllm.trace.tracer import OFF
from tests.core.builders import recorder
from tests.helpers import events_of

A, B, C = (hash_block(None, [i]) for i in range(3))


def ids(queue: FreeBlockQueue) -> list[int]:
    return [block.block_id for block in queue]


@pytest.fixture
def blocks() -> list[KVCacheBlock]:
    return [KVCacheBlock(i) for i in range(5)]


def test_queue_hands_out_from_the_front(blocks: list[KVCacheBlock]) -> None:
    queue = FreeBlockQueue(blocks)
    assert [queue.popleft().block_id for _ in range(5)] == [0, 1, 2, 3, 4]
    assert queue.num_free_blocks == 0 and ids(queue) == []


def test_queue_takes_in_at_both_ends(blocks: list[KVCacheBlock]) -> None:
    queue = FreeBlockQueue(blocks[:2])
    queue.append(blocks[2])
    queue.prepend(blocks[3])
    assert ids(queue) == [3, 0, 1, 2] and queue.num_free_blocks == 4


@pytest.mark.parametrize("index", range(5))
def test_queue_gives_up_a_block_from_anywhere(blocks: list[KVCacheBlock], index: int) -> None:
    queue = FreeBlockQueue(blocks)
    queue.remove(blocks[index])
    assert ids(queue) == [i for i in range(5) if i != index] and queue.num_free_blocks == 4
    queue.append(blocks[index])
    assert ids(queue)[-1] == index


def test_removal_looks_at_the_neighbours_only(blocks: list[KVCacheBlock]) -> None:
    """O(1): nothing but the two neighbours' links is needed, so a queue of two sides will do."""
    queue = FreeBlockQueue(blocks)
    blocks[0].next_free = blocks[4].prev_free = None  # a walk from either end would stop here
    queue.remove(blocks[2])
    assert blocks[1].next_free is blocks[3] and blocks[3].prev_free is blocks[1]


def test_queue_refuses_to_remove_what_it_does_not_have(blocks: list[KVCacheBlock]) -> None:
    queue = FreeBlockQueue(blocks)
    taken = queue.popleft()
    with pytest.raises(ValueError, match="block 0 is not in the free queue"):
        queue.remove(taken)
    assert queue.num_free_blocks == 4


def test_empty_queue_says_so() -> None:
    with pytest.raises(ValueError, match="no block is free"):
        FreeBlockQueue([]).popleft()


# --- the pool ----------------------------------------------------------------------------------


def pool(num_usable: int = 4, trace: object = OFF) -> BlockPool:
    return BlockPool(num_usable + 1, enable_caching=True, trace=trace)  # type: ignore[arg-type]


def fill(one: BlockPool, req_id: str, *hashes: bytes | None) -> list[KVCacheBlock]:
    """Take a block for each hash and register it; None stays blank."""
    table = one.get_new_blocks(req_id, len(hashes), 0)
    for logical, (block, block_hash) in enumerate(zip(table, hashes, strict=True)):
        if block_hash is not None:
            one.cache_block(req_id, block, block_hash, None, logical)
    return table


def test_null_block_is_never_taken() -> None:
    one = pool(4)
    assert one.num_usable_blocks == one.num_free_blocks == 4
    assert [b.block_id for b in one.get_new_blocks("r1", 4, 0)] == [1, 2, 3, 4]
    assert one.null_block.ref_cnt == 1


def test_more_than_free_is_refused_and_changes_nothing() -> None:
    one = pool(4)
    with pytest.raises(ValueError, match="5 blocks asked for, 4 are free"):
        one.get_new_blocks("r1", 5, 0)
    assert ids(one.free_queue) == [1, 2, 3, 4]


def test_blank_blocks_return_to_the_front_cached_ones_to_the_back_tail_first() -> None:
    one = pool(7)
    one.free_blocks("r1", fill(one, "r1", A, B, C, None, None))
    assert ids(one.free_queue) == [5, 4, 6, 7, 3, 2, 1]


def test_least_recently_used_content_is_evicted_first() -> None:
    one = pool(2)
    old, new = fill(one, "r1", A), fill(one, "r2", B)
    one.free_blocks("r1", old)
    one.free_blocks("r2", new)
    one.get_new_blocks("r3", 1, 0)
    assert one.get_cached_block(A) is None and one.get_cached_block(B) is new[0]


def test_tail_of_a_prefix_is_evicted_before_its_head() -> None:
    one = pool(3)
    table = fill(one, "r1", A, B, C)
    one.free_blocks("r1", table)
    one.get_new_blocks("r2", 1, 0)
    assert one.get_cached_block(C) is None
    assert one.get_cached_block(A) is table[0] and one.get_cached_block(B) is table[1]


def test_touched_block_leaves_the_free_queue_and_counts_its_holders() -> None:
    one = pool(3)
    (block,) = fill(one, "r1", A)
    one.free_blocks("r1", [block])
    one.touch("r2", block)
    one.touch("r3", block)
    assert (block.ref_cnt, ids(one.free_queue)) == (2, [2, 3])
    one.free_blocks("r2", [block])
    assert (block.ref_cnt, ids(one.free_queue)) == (1, [2, 3]), "r3 holds it still"
    one.free_blocks("r3", [block])
    assert (block.ref_cnt, ids(one.free_queue)) == (0, [2, 3, 1])


def test_recently_hit_block_is_evicted_last() -> None:
    one = pool(2)
    first, second = fill(one, "r1", A), fill(one, "r2", B)
    one.free_blocks("r1", first)
    one.free_blocks("r2", second)
    one.touch("r3", first[0])
    one.free_blocks("r3", first)
    assert ids(one.free_queue) == [2, 1]


def test_twin_remains_findable_when_one_copy_is_evicted() -> None:
    """Removal of one copy is not removal of the hash (vllm 48933)."""
    one = pool(2)
    first, second = fill(one, "r1", A), fill(one, "r2", A)
    assert one.get_cached_block(A) is first[0], "the one registered first"
    one.free_blocks("r1", first)
    one.get_new_blocks("r3", 1, 0)  # takes the first copy
    assert one.get_cached_block(A) is second[0] and list(one.cached) == [A]
    one.uncache_block("r2", second[0], Reason.NOT_EXECUTED)
    assert one.get_cached_block(A) is None and one.cached == {}


def test_evicted_block_is_told_with_who_left_it() -> None:
    trace = recorder()
    one = pool(1, trace)
    one.free_blocks("r1", fill(one, "r1", A))
    one.get_new_blocks("r2", 1, 3)
    evict, alloc = (event for event in events_of(trace) if event.req == "r2")
    assert (evict.kind, evict.data.block, evict.data.left_by) == ("kv.evict", 1, "r1")
    assert evict.data.hash == short(A)
    assert (alloc.kind, alloc.data.blocks, alloc.data.logical) == ("kv.alloc", [1], 3)


def test_withdrawing_a_hash_that_is_not_there_tells_nothing() -> None:
    trace = recorder()
    one = pool(1, trace)
    (block,) = fill(one, "r1", None)
    one.uncache_block("r1", block, Reason.NOT_EXECUTED)
    assert not [event for event in events_of(trace) if event.kind == "kv.uncache"]


def test_reset_refuses_while_any_block_is_in_use() -> None:
    one = pool(2)
    table = fill(one, "r1", A)
    assert one.reset_prefix_cache() is False
    assert one.get_cached_block(A) is table[0]
    one.free_blocks("r1", table)
    assert one.reset_prefix_cache() is True
    assert one.get_cached_block(A) is None and all(b.block_hash is None for b in one.blocks)
    one.get_new_blocks("r2", 2, 0)  # nothing is left to evict
