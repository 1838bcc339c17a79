"""What holds of queues, tables and pool between any two steps, read off the objects themselves.

``trace/invariants.py`` checks the same of the *events*; here nobody is trusted: links are walked
in both directions, holders are counted, hashes are computed anew.
"""

from __future__ import annotations

from collections import Counter

from minivllm.core.block_hash import extend_block_hashes
from minivllm.core.block_pool import BlockPool, KVCacheBlock
from minivllm.core.interfaces import KVManager
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.engine.engine_core import EngineCore
from minivllm.request import Request, RequestStatus

WAITS = (RequestStatus.WAITING, RequestStatus.PREEMPTED, RequestStatus.WAITING_FOR_GRAMMAR)


def broken(core: EngineCore, most_drafts: int) -> list[str]:
    """Each invariant that does not hold, as a sentence. ``most_drafts``: a request, a step."""
    kv, pool = core.kv, core.kv.pool
    running, waiting = list(core.scheduler.running), list(core.scheduler.waiting)
    in_use = Counter(block.block_id for table in kv.tables.values() for block in table)
    found = _free_list(pool, in_use) + _hash_table(pool)
    for block in pool.blocks[1:]:
        if block.ref_cnt != in_use[block.block_id]:
            found.append(f"{block} is held by {in_use[block.block_id]} tables")
    if pool.null_block.ref_cnt != 1 or in_use[0] or pool.null_block.block_hash:
        found.append("the null block is in a table")
    names = [request.req_id for request in running + waiting]
    if len(set(names)) != len(names) or set(names) != set(core.scheduler.requests):
        found.append(f"{names} stand in the queues, {list(core.scheduler.requests)} live")
    if set(kv.tables) - {request.req_id for request in running}:
        found.append("somebody who does not run holds blocks")
    for request in running:
        if request.status is not RequestStatus.RUNNING:
            found.append(f"{request.req_id} runs as {request.status}")
        found += _table(request, kv, most_drafts)
    for request in waiting:
        if request.status not in WAITS:
            found.append(f"{request.req_id} waits as {request.status}")
        if request.num_computed_tokens or request.spec_token_ids:
            found.append(f"{request.req_id} waits and has something computed or drafted")
    return found


def _free_list(pool: BlockPool, in_use: Counter[int]) -> list[str]:
    """No duplicates, nobody in use, blank blocks before cached ones, the same from both ends."""
    found = []
    free = list(pool.free_queue)
    ids = [block.block_id for block in free]
    backwards, block = [], pool.free_queue._tail.prev_free
    while block is not None and block is not pool.free_queue._head:
        backwards.append(block)
        block = block.prev_free
    if backwards[::-1] != free or len(free) != pool.num_free_blocks:
        found.append("the free queue's links or its count are wrong")
    if len(set(ids)) != len(ids) or any(in_use[i] for i in ids):
        found.append(f"free: {ids}, in use: {sorted(in_use)}")
    if len(ids) + len(in_use) != pool.num_usable_blocks:
        found.append(f"{len(ids)} free + {len(in_use)} used != {pool.num_usable_blocks}")
    cached = [block.block_hash is not None for block in free]
    if cached != sorted(cached):
        found.append("content would be forgotten while a blank block is free")
    return found


def _hash_table(pool: BlockPool) -> list[str]:
    """A block knows its hash, and the table knows the block; nothing empty is left in it."""
    entries = {(h, i): block for h, twins in pool.cached.items() for i, block in twins.items()}
    hashed: dict[tuple[bytes, int], KVCacheBlock] = {
        (block.block_hash, block.block_id): block
        for block in pool.blocks
        if block.block_hash is not None
    }
    found = [] if entries == hashed and all(pool.cached.values()) else ["the hash table is wrong"]
    if hashed and not pool.enable_caching:
        found.append("blocks are hashed with caching off")
    return found


def _table(request: Request, kv: KVManager, most_drafts: int) -> list[str]:
    """Long enough for what is computed, no longer than needed; hashed as far as it is computed."""
    found = []
    name, table = request.req_id, kv.tables.get(request.req_id, [])
    size, n = kv.block_size, request.num_computed_tokens
    if n > request.num_tokens:
        found.append(f"{name} has {n} of {request.num_tokens} tokens computed")
    if len(table) < -(-n // size):
        found.append(f"{name} has {len(table)} blocks for {n} computed tokens")
    if not isinstance(kv, KVCacheManager):
        ids = [block.block_id for block in table]
        if ids != list(range(ids[0], ids[0] + len(ids))):
            found.append(f"{name}: {ids} are no neighbours")
        return found
    if len(table) > -(-(request.num_tokens + most_drafts) // size):
        found.append(f"{name} holds {len(table)} blocks for {request.num_tokens} tokens")
    if kv.enable_caching:
        expected: list[bytes] = []
        extend_block_hashes(expected, request.token_ids, size, request.cache_salt)
        hashes = [block.block_hash for block in table]
        for i, block_hash in enumerate(hashes):
            if block_hash is not None and expected[i : i + 1] != [block_hash]:
                found.append(f"{name}: block {i} is hashed as something else")
        # Tokens that were drafts a moment ago get their hash with the next allocation.
        if not most_drafts and hashes[: n // size] != expected[: n // size]:
            found.append(f"{name}: a computed block cannot be found")
    return found
