"""ContiguousKVManager: every request in one run of neighbouring blocks, reserved when it starts.

No counterpart in vLLM: this is what it replaced. Before paging, a sequence's K and V had to lie in
one piece, so its largest possible length was set aside at once (Kwon et al., "Efficient memory
management for large language model serving with PagedAttention", SOSP 2023, section 3.1). Three
kinds of waste follow, and this class makes all three real, for ``minivllm bench kv-waste``:

    reserved for later     room for tokens that the request has yet to say
    internal fragments     room that it will never use: it ends before its limit
    external fragments     free blocks in gaps too short for whoever waits

    | r1 r1 .. .. | free | r2 r2 r2 .. | free free |     r3 needs 3 neighbours: 3 are free, it waits

``contiguous_reserve`` says how much: ``max_model_len`` (nothing is known of the output) or
``request`` (prompt + max_tokens: the caller's limit is believed). It can be chosen by
``--kv-manager-cls contiguous``, without prefix caching: blocks that are shared cannot be neighbours
of everybody.
"""

from __future__ import annotations

from minivllm.config import CacheConfig
from minivllm.core.block_pool import BlockPool, KVCacheBlock
from minivllm.core.interfaces import NO_HIT, PrefixHit, Shortage
from minivllm.request import Request
from minivllm.trace.events import Reason
from minivllm.trace.tracer import Tracer


class ContiguousKVManager:
    """First fit: the run with the lowest block id that is long enough."""

    prefix_caching = False
    """A block cannot be the neighbour of two requests' blocks; holds for who derives from it."""

    def __init__(
        self, num_blocks: int, config: CacheConfig, max_model_len: int, trace: Tracer
    ) -> None:
        self.block_size = config.block_size
        self.reserve = config.contiguous_reserve
        self.max_model_len = max_model_len  # tokens
        self.pool = BlockPool(num_blocks, enable_caching=False, trace=trace)
        self.tables: dict[str, list[KVCacheBlock]] = {}

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def block_ids(self, request: Request) -> list[int]:
        return [block.block_id for block in self.tables.get(request.req_id, [])]

    def num_blocks_to_start(self, request: Request) -> int:
        """What is set aside for it, all at once."""
        most = request.num_prompt_tokens + request.max_tokens
        if self.reserve == "max_model_len":
            most = self.max_model_len
        return self.blocks_for(min(most, self.max_model_len))

    def find_prefix(self, request: Request) -> PrefixHit:
        return NO_HIT

    def num_blocks_needed(self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT) -> int:
        return 0 if request.req_id in self.tables else self.num_blocks_to_start(request)

    def shortage(
        self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT, kept: int = 0
    ) -> Shortage | None:
        """Enough blocks may be free, and yet no run of neighbours be long enough."""
        need, have = self.num_blocks_needed(request, num_tokens), self.pool.num_free_blocks - kept
        if need > have:
            return Shortage(need, have)
        if need and self.find_gap(need) is None:
            longest = max(length for _, length in self.gaps())
            return Shortage(need, longest, Reason.FRAGMENTED)
        return None

    def allocate_slots(
        self, request: Request, num_new_tokens: int, hit: PrefixHit = NO_HIT
    ) -> list[int] | Shortage:
        if request.req_id in self.tables:
            return []  # it has all that it can ever need
        short = self.shortage(request, num_new_tokens)
        if short is not None:
            return short
        need = self.num_blocks_to_start(request)
        first = self.find_gap(need)
        if first is None:
            raise RuntimeError(f"{request.req_id}: no gap of {need} blocks, and no shortage")
        table = self.pool.reserve_blocks(request.req_id, first, need)
        self.tables[request.req_id] = table
        return [block.block_id for block in table]

    def free(self, request: Request) -> None:
        table = self.tables.pop(request.req_id, None)
        if table:
            self.pool.free_blocks(request.req_id, table)

    def withdraw_hashes(self, request: Request, num_executed_tokens: int) -> None:
        """There are none."""

    def find_gap(self, n: int) -> int | None:
        """Where a run of ``n`` blocks is to begin; None if no gap is that long."""
        return next((first for first, length in self.gaps() if length >= n), None)

    def gaps(self) -> list[tuple[int, int]]:
        """(first block, length) of every run of free neighbours, by block id."""
        gaps: list[tuple[int, int]] = []
        for block in self.pool.blocks:
            if block.ref_cnt:
                continue
            if gaps and sum(gaps[-1]) == block.block_id:
                gaps[-1] = (gaps[-1][0], gaps[-1][1] + 1)
            else:
                gaps.append((block.block_id, 1))
        return gaps
