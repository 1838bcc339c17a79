"""BlockPool: every KV block, who is free, and which content can be found again.

Counterpart in vLLM: ``vllm/v1/core/block_pool.py`` and ``FreeKVCacheBlockQueue`` in
``kv_cache_utils.py``. Left out: several pools, KV events (the trace has them), metrics.

A block is in one of three conditions:

    in use            ref_cnt >= 1, in as many block tables
    free and cached   ref_cnt == 0, its hash still registered: a prefix may claim it back
    free and blank    ref_cnt == 0, no hash

The last two stand in the free queue. Blank blocks go to its front, cached ones to its back, and
blocks are taken at the front: what was cached longest ago is forgotten first (LRU).
"""

from __future__ import annotations

from collections.abc import Iterator

from minivllm.core.block_hash import short
from minivllm.trace.events import (
    KvAlloc,
    KvCache,
    KvEvict,
    KvFree,
    KvReserve,
    KvReset,
    KvTouch,
    KvUncache,
    Reason,
)
from minivllm.trace.tracer import Tracer


class KVCacheBlock:
    """The bookkeeping of one block. Its K and V lie in the worker's cache, at ``block_id``."""

    __slots__ = ("block_hash", "block_id", "left_by", "next_free", "prev_free", "ref_cnt")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_cnt = 0
        self.block_hash: bytes | None = None
        self.left_by: str | None = None  # the request that gave it back last
        self.prev_free: KVCacheBlock | None = None
        self.next_free: KVCacheBlock | None = None

    def __repr__(self) -> str:
        return f"KVCacheBlock({self.block_id}, ref_cnt={self.ref_cnt})"


class FreeBlockQueue:
    """Free blocks, the next to be taken first, as a doubly linked list through the blocks.

    Why not a deque: a prefix hit takes its block out of the *middle*, which costs O(n) in a deque
    and four assignments here.
    """

    def __init__(self, blocks: list[KVCacheBlock]) -> None:
        self.num_free_blocks = 0
        self._head = KVCacheBlock(-1)  # sentinels: no end is a special case
        self._tail = KVCacheBlock(-1)
        self._head.next_free, self._tail.prev_free = self._tail, self._head
        for block in blocks:
            self.append(block)

    def _insert(self, before: KVCacheBlock, block: KVCacheBlock, after: KVCacheBlock) -> None:
        before.next_free = after.prev_free = block
        block.prev_free, block.next_free = before, after
        self.num_free_blocks += 1

    def append(self, block: KVCacheBlock) -> None:
        """Put a block at the back: the last to be taken."""
        last = self._tail.prev_free
        assert last is not None
        self._insert(last, block, self._tail)

    def prepend(self, block: KVCacheBlock) -> None:
        """Put a block at the front: the next to be taken."""
        first = self._head.next_free
        assert first is not None
        self._insert(self._head, block, first)

    def remove(self, block: KVCacheBlock) -> None:
        """Take a block out, wherever it stands. Raises ValueError if it is not in the queue."""
        before, after = block.prev_free, block.next_free
        if before is None or after is None:
            raise ValueError(f"block {block.block_id} is not in the free queue")
        before.next_free, after.prev_free = after, before
        block.prev_free = block.next_free = None
        self.num_free_blocks -= 1

    def popleft(self) -> KVCacheBlock:
        """Take the front block. Raises ValueError when the queue is empty."""
        block = self._head.next_free
        if block is None or block is self._tail:
            raise ValueError("no block is free")
        self.remove(block)
        return block

    def __iter__(self) -> Iterator[KVCacheBlock]:
        block = self._head.next_free
        while block is not None and block is not self._tail:
            yield block
            block = block.next_free


class BlockPool:
    """All blocks of one KV cache. ``num_blocks`` counts the null block, which is never taken."""

    def __init__(self, num_blocks: int, enable_caching: bool, trace: Tracer) -> None:
        self.trace = trace
        self.enable_caching = enable_caching
        self.blocks = [KVCacheBlock(i) for i in range(num_blocks)]
        self.free_queue = FreeBlockQueue(self.blocks)
        # Block 0 is the null block: what a padded table entry points at.
        self.null_block = self.free_queue.popleft()
        self.null_block.ref_cnt = 1
        # Content is not merged: two requests that computed the same prefix at the same time keep
        # twins under one hash, so tables only ever grow at the end.
        self.cached: dict[bytes, dict[int, KVCacheBlock]] = {}

    @property
    def num_usable_blocks(self) -> int:
        return len(self.blocks) - 1

    @property
    def num_free_blocks(self) -> int:
        return self.free_queue.num_free_blocks

    def get_cached_block(self, block_hash: bytes) -> KVCacheBlock | None:
        """A block with this content (of twins the one registered first), or None."""
        twins = self.cached.get(block_hash)
        return next(iter(twins.values())) if twins else None

    def get_new_blocks(self, req_id: str, n: int, logical: int) -> list[KVCacheBlock]:
        """Take ``n`` blocks from the front of the free queue, as logical blocks ``logical``…

        Raises ValueError when fewer are free; the caller has checked.
        """
        if n > self.num_free_blocks:
            raise ValueError(f"{n} blocks asked for, {self.num_free_blocks} are free")
        taken = [self.free_queue.popleft() for _ in range(n)]
        for block in taken:
            if block.block_hash is not None:
                self.trace.emit(
                    KvEvict,
                    req_id,
                    block=block.block_id,
                    hash=short(block.block_hash),
                    left_by=block.left_by,
                )
                self._forget(block)
            block.ref_cnt = 1
        self.trace.emit(KvAlloc, req_id, blocks=[b.block_id for b in taken], logical=logical)
        return taken

    def reserve_blocks(self, req_id: str, first: int, n: int) -> list[KVCacheBlock]:
        """Take the ``n`` neighbours from block ``first`` on, wherever they stand in the queue.

        Raises ValueError when one of them is in use; the caller has looked.
        """
        taken = self.blocks[first : first + n]
        for block in taken:
            self.free_queue.remove(block)
            block.ref_cnt = 1
        self.trace.emit(KvReserve, req_id, blocks=[block.block_id for block in taken])
        return taken

    def touch(self, req_id: str, block: KVCacheBlock) -> None:
        """Share a cached block: one more table holds it, so it can no longer be taken."""
        if block.ref_cnt == 0:
            self.free_queue.remove(block)
        block.ref_cnt += 1
        self.trace.emit(KvTouch, req_id, block=block.block_id, ref=block.ref_cnt)

    def cache_block(
        self,
        req_id: str,
        block: KVCacheBlock,
        block_hash: bytes,
        parent: bytes | None,
        logical: int,
    ) -> None:
        """Register a full block under its hash, so that others can hit it."""
        block.block_hash = block_hash
        self.cached.setdefault(block_hash, {})[block.block_id] = block
        self.trace.emit(
            KvCache,
            req_id,
            logical=logical,
            block=block.block_id,
            hash=short(block_hash),
            parent=short(parent) if parent else None,
        )

    def uncache_block(self, req_id: str, block: KVCacheBlock, reason: Reason) -> None:
        """Withdraw a hash whose tokens will not be run after all."""
        if block.block_hash is None:
            return
        self.trace.emit(
            KvUncache, req_id, block=block.block_id, hash=short(block.block_hash), reason=reason
        )
        self._forget(block)

    def free_blocks(self, req_id: str, table: list[KVCacheBlock]) -> None:
        """Give back a request's whole table, tail first.

        Tail first, because the tail of a prefix is the least likely to be hit again: it is to be
        evicted before its parents, without which it could not be found anyway. Of a table b1 b2 b3
        and a blank b4 the queue becomes: b4, whoever was free before, b3 b2 b1.
        """
        front: list[KVCacheBlock] = []
        back: list[KVCacheBlock] = []
        for block in reversed(table):
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                block.left_by = req_id
                (back if block.block_hash is not None else front).append(block)
        for block in reversed(front):  # each goes before the last, so that the tail comes out first
            self.free_queue.prepend(block)
        for block in back:
            self.free_queue.append(block)
        self.trace.emit(
            KvFree,
            req_id,
            blocks=[b.block_id for b in reversed(table)],
            front=[b.block_id for b in front],
            back=[b.block_id for b in back],
        )

    def reset_prefix_cache(self) -> bool:
        """Forget every hash. Refuses (False) while any block is in use."""
        if self.num_free_blocks != self.num_usable_blocks:
            return False
        num_cached = sum(len(twins) for twins in self.cached.values())
        for block in self.blocks:
            block.block_hash = None
        self.cached.clear()
        self.trace.emit(KvReset, None, cached_blocks=num_cached)
        return True

    def _forget(self, block: KVCacheBlock) -> None:
        """Drop this block's entry; a twin with the same content can still be hit."""
        assert block.block_hash is not None
        twins = self.cached[block.block_hash]
        del twins[block.block_id]
        if not twins:
            del self.cached[block.block_hash]
        block.block_hash = None
