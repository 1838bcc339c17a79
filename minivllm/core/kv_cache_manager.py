"""KVCacheManager: block tables, prefix hits, and whether there is room.

Counterpart in vLLM: ``vllm/v1/core/kv_cache_manager.py`` with its coordinator and
``single_type_kv_cache_manager.py``. Left out: sliding windows, hybrid models, several cache
groups, connectors.

    tokens  |  computed before  |  new in this step  |
    table   | b3 | b7 | b1 | b9 | .. new blocks ..   |
               ↑ full blocks are hashed ("cached")       the last, partial one is not

Hashes are registered at *allocation*, before the tokens have run: a request admitted later in the
same step may already share them. It is safe because every layer writes K and V of the whole batch
before any attention reads; whoever is called back before running must withdraw them.
"""

from __future__ import annotations

from minivllm.config import CacheConfig
from minivllm.core.block_hash import extend_block_hashes, short
from minivllm.core.block_pool import BlockPool, KVCacheBlock
from minivllm.core.interfaces import NO_HIT, PrefixHit, Shortage
from minivllm.request import Request
from minivllm.trace.events import KvHit, KvMiss, Reason
from minivllm.trace.tracer import Tracer


class KVCacheManager:
    """The block tables of all requests over one :class:`BlockPool`."""

    def __init__(
        self, num_blocks: int, config: CacheConfig, max_model_len: int, trace: Tracer
    ) -> None:
        """``num_blocks`` counts the null block; ``max_model_len`` is in tokens."""
        self.block_size = config.block_size
        self.enable_caching = config.enable_prefix_caching
        self.trace = trace
        self.pool = BlockPool(num_blocks, self.enable_caching, trace)
        self.tables: dict[str, list[KVCacheBlock]] = {}
        self._num_cached: dict[str, int] = {}  # leading blocks of a table that are registered

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def block_ids(self, request: Request) -> list[int]:
        return [block.block_id for block in self.tables.get(request.req_id, [])]

    def num_blocks_to_start(self, request: Request) -> int:
        """Blocks without which it can never run: those of its prompt."""
        return self.blocks_for(request.num_prompt_tokens)

    def find_prefix(self, request: Request) -> PrefixHit:
        """The longest cached prefix, at most ``num_tokens`` − 1 tokens of it.

        One token at least must run: without it there would be no logits to sample from. So a
        request of exactly four cached blocks reuses three. And none at all if the logprobs of the
        whole prompt are wanted, for a position that is not run has none.
        """
        if not self.enable_caching:
            return NO_HIT
        if request.sampling_params.prompt_logprobs is not None:
            reason = Reason.PROMPT_LOGPROBS
            self.trace.emit(KvMiss, request.req_id, at_block=0, reason=reason, hash=None)
            return NO_HIT
        self._extend_hashes(request)
        blocks: list[KVCacheBlock] = []
        max_blocks = (request.num_tokens - 1) // self.block_size
        missed = (
            Reason.LAST_TOKEN if max_blocks < len(request.block_hashes) else Reason.PARTIAL_BLOCK
        )
        missed_hash = None
        for block_hash in request.block_hashes[:max_blocks]:
            block = self.pool.get_cached_block(block_hash)
            if block is None:
                missed, missed_hash = Reason.NOT_CACHED, short(block_hash)
                break
            blocks.append(block)
        num_tokens = len(blocks) * self.block_size
        if blocks:
            ids = [block.block_id for block in blocks]
            self.trace.emit(KvHit, request.req_id, tokens=num_tokens, blocks=ids)
        self.trace.emit(
            KvMiss, request.req_id, at_block=len(blocks), reason=missed, hash=missed_hash
        )
        return PrefixHit(blocks, num_tokens)

    def num_blocks_needed(self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT) -> int:
        """Free blocks it takes to hold ``num_tokens`` tokens of the request.

        Hit blocks that lie in the free queue count too: they must leave it.
        """
        held = len(self.tables.get(request.req_id, [])) + len(hit.blocks)
        free_hits = sum(block.ref_cnt == 0 for block in hit.blocks)
        return max(self.blocks_for(num_tokens) - held, 0) + free_hits

    def shortage(
        self, request: Request, num_tokens: int, hit: PrefixHit = NO_HIT, kept: int = 0
    ) -> Shortage | None:
        """Why there is no room for ``num_tokens`` tokens, if ``kept`` free blocks must remain."""
        need = self.num_blocks_needed(request, num_tokens, hit)
        have = self.pool.num_free_blocks - kept
        return Shortage(need, have) if need > have else None

    def allocate_slots(
        self, request: Request, num_new_tokens: int, hit: PrefixHit = NO_HIT
    ) -> list[int] | Shortage:
        """Make room for ``num_new_tokens`` more tokens; returns the block ids added to the table.

        The blocks of ``hit`` come first (shared), then new ones. Nothing is changed on a
        :class:`Shortage`.
        """
        num_tokens = request.num_computed_tokens + hit.num_tokens + num_new_tokens
        short = self.shortage(request, num_tokens, hit)
        if short is not None:
            return short

        table = self.tables.setdefault(request.req_id, [])
        first_added = len(table)
        # Touch first: a hit block that lies free must not be taken as a new one.
        for block in hit.blocks:
            self.pool.touch(request.req_id, block)
            table.append(block)
        if hit.blocks:
            self._num_cached[request.req_id] = len(table)
        num_new_blocks = self.blocks_for(num_tokens) - len(table)
        if num_new_blocks > 0:
            table += self.pool.get_new_blocks(request.req_id, num_new_blocks, len(table))
        if self.enable_caching:  # a draft may be wrong: its block has no name yet
            self._cache_full_blocks(request, min(num_tokens, request.num_tokens))
        return [block.block_id for block in table[first_added:]]

    def free(self, request: Request) -> None:
        """Give back the request's blocks; what is cached stays findable until it is evicted."""
        self._num_cached.pop(request.req_id, None)
        table = self.tables.pop(request.req_id, None)
        if table:
            self.pool.free_blocks(request.req_id, table)

    def withdraw_hashes(self, request: Request, num_executed_tokens: int) -> None:
        """Un-register blocks that hold tokens beyond the first ``num_executed_tokens``.

        For a request that is called back after it was scheduled: nobody may hit K and V that were
        never written (vLLM pull request 43569).
        """
        num_kept = num_executed_tokens // self.block_size
        num_cached = self._num_cached.get(request.req_id, 0)
        for block in self.tables.get(request.req_id, [])[num_kept:num_cached]:
            self.pool.uncache_block(request.req_id, block, Reason.NOT_EXECUTED)

    def _extend_hashes(self, request: Request) -> None:
        extend_block_hashes(
            request.block_hashes, request.token_ids, self.block_size, request.cache_salt
        )

    def _cache_full_blocks(self, request: Request, num_tokens: int) -> None:
        """Register every block that ``num_tokens`` tokens fill and that is not registered yet."""
        start = self._num_cached.get(request.req_id, 0)
        end = num_tokens // self.block_size
        if start >= end:
            return
        self._extend_hashes(request)
        hashes, table = request.block_hashes, self.tables[request.req_id]
        for i in range(start, end):
            parent = hashes[i - 1] if i else None
            self.pool.cache_block(request.req_id, table[i], hashes[i], parent, i)
        self._num_cached[request.req_id] = end
