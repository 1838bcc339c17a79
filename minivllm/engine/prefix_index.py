"""PrefixIndex: which prompts an engine has probably still cached, as the router remembers them.

An approximation, and a cheap one: the front end knows which prompts it sent where, and how many
blocks each pool has; it asks nobody. It forgets in the order in which the pool does (least recently
used first, a sequence's tail before its head) but sees no outputs and no preemption, so it may
promise a little too much or too little; a wrong promise costs time, never a token.

Idea: the cache-aware policy of SGLang's router, there a radix tree of texts, and the router of the
vLLM production stack, which stands before several servers. Counterpart in vLLM itself: none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from minivllm.core.block_hash import extend_block_hashes
from minivllm.engine.messages import EngineCoreRequest


class PrefixIndex:
    """One engine's cached blocks, by their chained hashes, as far as prompts tell."""

    def __init__(self, num_kv_blocks: int, block_size: int) -> None:
        """``num_kv_blocks`` counts the null block, as the pool itself does."""
        self._capacity = num_kv_blocks - 1
        self._block_size = block_size
        self._blocks: OrderedDict[bytes, None] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    def cached_tokens(self, hashes: Sequence[bytes], num_prompt_tokens: int) -> int:
        """Tokens of a prompt's longest known prefix; never the last token, which must run."""
        known = 0
        for block_hash in hashes[: (num_prompt_tokens - 1) // self._block_size]:
            if block_hash not in self._blocks:
                break
            known += 1
        return known * self._block_size

    def add(self, hashes: Sequence[bytes]) -> None:
        """A prompt is sent to this engine."""
        for block_hash in reversed(hashes):  # its head is asked for again most probably
            self._blocks[block_hash] = None
            self._blocks.move_to_end(block_hash)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """The pool was reset, or is a new engine's."""
        self._blocks.clear()


def prompt_hashes(request: EngineCoreRequest, block_size: int) -> list[bytes]:
    """The hashes under which the request's full prompt blocks are cached; its ``cache_salt`` is in
    them, so that only requests with the same salt find them."""
    hashes: list[bytes] = []
    extend_block_hashes(hashes, request.prompt_token_ids, block_size, request.cache_salt)
    return hashes
