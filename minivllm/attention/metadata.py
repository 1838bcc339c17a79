"""What attention must know about a flat batch, and the interface every backend has.

The one place where the boundaries between requests exist: ``query_start_loc`` says which tokens
of the batch are whose, ``seq_lens`` and ``block_table`` where the K and V of its past lie, and
``slot_mapping`` where those of the new tokens go. Counterpart in vLLM:
``vllm/v1/attention/backend.py`` (``CommonAttentionMetadata``, ``AttentionImpl``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(slots=True)
class AttentionMetadata:
    """One step's batch of ``num_reqs`` requests with ``num_tokens`` tokens in all.

    Example, block size 4: request A computes positions 0–5, request B its position 8:
    ``query_start_loc [0, 6, 7]``, ``seq_lens [6, 9]``, ``block_table [[1, 2, 0], [5, 3, 7]]``,
    ``slot_mapping [4, 5, 6, 7, 8, 9, 28]``.
    """

    query_start_loc: torch.Tensor
    """(num_reqs + 1,) int32: request i's tokens are rows [loc[i], loc[i+1]) of the flat batch."""
    seq_lens: torch.Tensor
    """(num_reqs,) int32: keys request i attends to = the end of its chunk. Not its prompt's
    length: a chunk in the middle must not see what is not computed yet."""
    block_table: torch.Tensor
    """(num_reqs, max_blocks) int32: physical block of each logical block, 0 beyond the end."""
    slot_mapping: torch.Tensor
    """(num_tokens,) int64: cache slot that each token's K and V go to; -1 for a padding token."""


class AttentionStep(Protocol):
    """One step's attention, ready for every layer of the model."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        """Store the new tokens' K and V in one layer's cache, then attend.

        q: (num_tokens, num_heads, head_dim); k and v: (num_tokens, num_kv_heads, head_dim).
        Returns (num_tokens, num_heads, head_dim). K and V of the *whole* batch are stored before
        anything is read: of two requests in one batch that share a prefix, the first computes
        the shared blocks and the second reads them.
        """
        ...


class AttentionBackend(Protocol):
    """A way to compute paged attention."""

    name: str

    def kv_cache_shape(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, ...]:
        """Shape of one layer's cache, K and V together. The cache must start as zeros."""
        ...

    def prepare(self, metadata: AttentionMetadata, block_size: int) -> AttentionStep:
        """Once a step, before the first layer: work out what every layer needs alike."""
        ...
