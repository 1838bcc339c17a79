"""Ragged batches for attention, and what the outcome must be, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from minivllm.attention.metadata import AttentionBackend, AttentionMetadata

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Times 1 + the number expected; values are of the size of 1 to 4. In 16 bits the weights are
rounded before they meet the values, as the tensor cores take them, and so is the sum."""


@dataclass
class Case:
    """Per request (tokens computed before, tokens now); then the shapes."""

    chunks: list[tuple[int, int]]
    block_size: int = 16
    num_kv_heads: int = 2
    share: int = 2
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    padding: int = 0
    spare_columns: int = 1
    """Of the block table: of 0 blocks, behind every request's own."""
    seed: int = 0


@dataclass
class Batch:
    metadata: AttentionMetadata
    block_size: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    kv_cache: torch.Tensor
    around: torch.Tensor
    """What the cache is a view of: wider in every dimension, and NaN where it is not cache."""
    expected: torch.Tensor
    """(num_tokens, num_heads, head_dim) float64; zeros for padding."""
    cache_after: torch.Tensor
    """``around`` as it must be when the new K and V are stored, and nothing else."""

    def run(self, backend: AttentionBackend) -> torch.Tensor:
        step = backend.prepare(self.metadata, self.block_size)
        return step.forward(self.q, self.k, self.v, self.kv_cache)


def make(case: Case) -> Batch:
    """Blocks in random order; NaN in every cell of the cache that holds no token, but in the null
    block; q, k and v as views of one tensor that is wider than they are."""
    generator = torch.Generator().manual_seed(case.seed)
    num_heads = case.num_kv_heads * case.share
    kv_heads, head_dim, size = case.num_kv_heads, case.head_dim, case.block_size
    lens = [before + now for before, now in case.chunks]
    blocks_of = [-(-length // size) for length in lens]
    num_blocks = 1 + sum(blocks_of) + 1
    order = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()

    around = torch.full((2, num_blocks + 2, size, kv_heads + 1, head_dim + 8), math.nan)
    around = around.to(case.dtype)
    kv_cache = around[:, 1:-1, :, :kv_heads, :head_dim]
    kv_cache[:, 0] = 0
    table = torch.zeros(len(lens), max([0, *blocks_of]) + case.spare_columns, dtype=torch.int32)
    num_tokens = sum(now for _, now in case.chunks) + case.padding
    qkv = torch.full((num_tokens, num_heads + 2 * kv_heads + 1, head_dim), 7.0, dtype=case.dtype)
    q, k, v, _ = qkv.split([num_heads, kv_heads, kv_heads, 1], dim=1)
    after = around.clone()
    cache_after = after[:, 1:-1, :, :kv_heads, :head_dim]
    slots, starts = [], [0]
    expected = torch.zeros(num_tokens, num_heads, head_dim, dtype=torch.float64)
    for i, (before, now) in enumerate(case.chunks):
        mine = [order.pop() for _ in range(blocks_of[i])]
        table[i, : len(mine)] = torch.tensor(mine, dtype=torch.int32)
        places = torch.arange(before + now)
        blocks, within = torch.tensor(mine, dtype=torch.int64)[places // size], places % size
        keys, values = (
            torch.randn(before + now, kv_heads, head_dim, generator=generator).to(case.dtype)
            for _ in range(2)
        )
        queries = torch.randn(now, num_heads, head_dim, generator=generator).to(case.dtype)
        rows = slice(starts[-1], starts[-1] + now)
        q[rows], k[rows], v[rows] = queries, keys[before:], values[before:]
        kv_cache[0, blocks[:before], within[:before]] = keys[:before]
        kv_cache[1, blocks[:before], within[:before]] = values[:before]
        cache_after[0, blocks, within], cache_after[1, blocks, within] = keys, values
        cache_after[:, 0] = 0
        slots += (blocks * size + within)[before:].tolist()
        starts.append(starts[-1] + now)
        expected[rows] = reference(queries, keys, values, before)
    metadata = AttentionMetadata(
        query_start_loc=torch.tensor(starts, dtype=torch.int32),
        seq_lens=torch.tensor(lens, dtype=torch.int32),
        block_table=table,
        slot_mapping=torch.tensor(slots + [-1] * case.padding, dtype=torch.int64),
    )
    return Batch(metadata, size, q, k, v, kv_cache, around, expected, after)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, before: int) -> torch.Tensor:
    """One request: softmax(q kᵀ / √d) v in float64, each token seeing itself and what is before."""
    share = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(share, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) / math.sqrt(q.shape[2])
    later = torch.arange(k.shape[0]) > before + torch.arange(q.shape[0])[:, None]
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -math.inf).softmax(-1), v)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, NaN to NaN."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
