"""Paged attention in plain torch: the CPU's path, and the reference for every other backend.

Counterpart in vLLM: ``vllm/v1/attention/backends/cpu_attn.py``. Left out: sliding windows, ALiBi,
logit soft caps, quantised caches.

Two kinds of rows, told apart once a step:

* one token a request (every decode, and a chunk of length one): gathered into one padded batch,
  so that sixteen requests cost one call and not sixteen;
* several tokens (prefill, or a chunk of it): one call a request, with the causal mask moved right
  by what was computed before.

Both gather K and V by *slot*. Beyond a request's end they read slot 0 of the null block, which
nobody writes and which is zero for ever. So what an earlier owner left in the unfilled part of a
block, a NaN even, is never read: multiplying it by a weight of zero would not make it harmless.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from minivllm.attention.metadata import AttentionMetadata

SAME_GROUP_LEN = 256
"""Keys, in tokens: shorter requests always share one call. Below this a call of its own costs
more than the padding it saves (measured: 0.05 ms a call, 16 × 256 keys in 0.5 ms)."""


@dataclass(slots=True)
class SingleTokenGroup:
    """Requests of similar length with one new token each."""

    rows: torch.Tensor | None
    """(group,) their rows in the flat batch; None if they are the whole batch."""
    slots: torch.Tensor
    """(group * max_len,) cache slot of every key, 0 = padding."""
    mask: torch.Tensor | None
    """(group, 1, 1, max_len): 0 for a key, -inf for padding; None without padding."""


@dataclass(slots=True)
class Chunk:
    """A request with several new tokens."""

    rows: slice
    """Its rows in the flat batch."""
    slots: torch.Tensor
    """(seq_len,) cache slot of every key, up to the chunk's end."""
    mask: torch.Tensor | None
    """(chunk, seq_len): True = may look; None when nothing was computed before (plain causal)."""


class TorchAttention:
    """The backend: shapes of the cache, and the plan of each step."""

    name = "torch"

    def kv_cache_shape(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, ...]:
        return (2, num_blocks, block_size, num_kv_heads, head_dim)

    def prepare(self, metadata: AttentionMetadata, block_size: int) -> TorchAttentionStep:
        starts = metadata.query_start_loc.tolist()
        seq_lens = metadata.seq_lens.tolist()
        slots = _slots_of_keys(metadata, block_size, max(seq_lens))  # (num_reqs, max_seq_len)

        chunks: list[Chunk] = []
        groups: dict[int, list[int]] = {}  # length class → requests with one new token
        for i, seq_len in enumerate(seq_lens):
            length = starts[i + 1] - starts[i]
            if length == 1:
                groups.setdefault(max(seq_len, SAME_GROUP_LEN).bit_length(), []).append(i)
            elif length > 1:
                mask = None
                if length < seq_len:  # query j of the chunk sees the keys 0 … seq_len - length + j
                    square = torch.ones(length, seq_len, dtype=torch.bool, device=slots.device)
                    mask = square.tril(seq_len - length)
                chunks.append(Chunk(slice(starts[i], starts[i + 1]), slots[i, :seq_len], mask))

        num_tokens = metadata.slot_mapping.numel()
        singles = []
        for members in groups.values():
            lens = metadata.seq_lens[members]  # (group,)
            max_len = int(lens.max())
            mask = None
            if len(members) > 1 and int(lens.min()) < max_len:
                beyond = torch.arange(max_len, device=slots.device) >= lens[:, None]
                mask = torch.zeros(beyond.shape, device=slots.device)
                mask = mask.masked_fill_(beyond, float("-inf"))[:, None, None, :]
            rows = None if len(members) == num_tokens else metadata.query_start_loc[members].long()
            singles.append(SingleTokenGroup(rows, slots[members, :max_len].flatten(), mask))
        return TorchAttentionStep(metadata.slot_mapping, singles, chunks)


def _slots_of_keys(metadata: AttentionMetadata, block_size: int, max_len: int) -> torch.Tensor:
    """Where each request's keys lie, (num_reqs, max_len) int64; beyond its end: slot 0."""
    positions = torch.arange(max_len, device=metadata.block_table.device)
    blocks = metadata.block_table[:, positions // block_size]  # (num_reqs, max_len)
    slots = blocks.long() * block_size + positions % block_size
    return slots.masked_fill_(positions >= metadata.seq_lens[:, None], 0)


class TorchAttentionStep:
    """Attention over one flat batch, layer after layer."""

    def __init__(
        self, slot_mapping: torch.Tensor, singles: list[SingleTokenGroup], chunks: list[Chunk]
    ) -> None:
        self._singles, self._chunks = singles, chunks
        self._slot_mapping = slot_mapping
        self._stored: torch.Tensor | None = None  # rows that are no padding, if some are
        if bool((slot_mapping < 0).any()):
            self._stored = (slot_mapping >= 0).nonzero().flatten()
            self._slot_mapping = slot_mapping[self._stored]

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        _, num_kv_heads, head_dim = k.shape
        key_cache, value_cache = kv_cache.view(2, -1, num_kv_heads, head_dim)  # (slots, heads, dim)
        if self._stored is not None:
            k, v = k[self._stored], v[self._stored]
        key_cache.index_copy_(0, self._slot_mapping, k)
        value_cache.index_copy_(0, self._slot_mapping, v)

        if len(self._singles) == 1 and self._singles[0].rows is None:  # nothing but decodes
            return _attend_singles(q, key_cache, value_cache, self._singles[0])
        out = torch.empty_like(q) if self._stored is None else torch.zeros_like(q)
        for group in self._singles:
            rows = group.rows
            out[rows] = _attend_singles(q[rows], key_cache, value_cache, group)
        for chunk in self._chunks:
            out[chunk.rows] = _attend_chunk(q[chunk.rows], key_cache, value_cache, chunk)
        return out


def _attend_singles(
    q: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, group: SingleTokenGroup
) -> torch.Tensor:
    """One query token a request. q: (group, num_heads, head_dim) → the same shape.

    The query heads that share a K/V head are handed over as if they were successive queries of
    that head; since all of them may see every key, no mask has to tell them apart.
    """
    size, _, head_dim = q.shape
    num_kv_heads = key_cache.shape[1]
    shape = (size, -1, num_kv_heads, head_dim)  # (group, max_len, kv heads, head_dim)
    keys = key_cache.index_select(0, group.slots).view(shape).transpose(1, 2)
    values = value_cache.index_select(0, group.slots).view(shape).transpose(1, 2)
    queries = q.reshape(size, num_kv_heads, -1, head_dim)  # (group, kv heads, share, head_dim)
    mask = group.mask.to(q.dtype) if group.mask is not None else None
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.reshape(q.shape)


def _attend_chunk(
    q: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, chunk: Chunk
) -> torch.Tensor:
    """Several query tokens of one request. q: (chunk, num_heads, head_dim) → the same shape."""
    keys = key_cache.index_select(0, chunk.slots).transpose(0, 1)  # (kv heads, seq_len, head_dim)
    values = value_cache.index_select(0, chunk.slots).transpose(0, 1)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],  # (1, num_heads, chunk, head_dim)
        keys[None],
        values[None],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    return out[0].transpose(0, 1)
