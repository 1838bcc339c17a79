"""Paged attention by Triton kernels: the GPU's path.

Counterpart in vLLM: ``vllm/v1/attention/backends/triton_attn.py``. Left out: sliding windows,
ALiBi, soft caps, quantised caches, cascade attention.

A step costs two or three launches a layer, however many requests there are::

    reshape_and_cache ─▶ paged_attention                    a batch that fills the GPU by itself
    reshape_and_cache ─▶ paged_attention, split ─▶ merge    decodes of few requests

Nothing here asks the GPU for a number: grids and splits follow from shapes that the CPU knows. The
order on the stream is what keeps the promise of ``AttentionStep``: all K and V are stored before
anything is read. How the keys are divided, and with it the last bits of a result, depends on the
batch.

Without a GPU the same kernels run in Triton's interpreter (``TRITON_INTERPRET=1``, set before
Python starts), some thousand times slower: for tests, and to step through a kernel with a debugger.
"""

from __future__ import annotations

import torch

from minivllm.attention.kernels.configs import (
    MAX_HEAD_DIM,
    MAX_SHARE,
    attention_config,
    num_splits,
)
from minivllm.attention.kernels.launch import INTERPRETED
from minivllm.attention.kernels.merge_splits import merge_splits
from minivllm.attention.kernels.operators import neighbours
from minivllm.attention.kernels.paged_attention import paged_attention
from minivllm.attention.kernels.reshape_and_cache import reshape_and_cache
from minivllm.attention.metadata import AttentionMetadata
from minivllm.errors import UnsupportedModelError

INTERPRETED_AS = (80, 108)
"""The GPU whose tiles and splits the interpreter runs: an A100, (compute capability, SMs)."""


class TritonAttention:
    """The backend: shapes of the cache, and the plan of each step."""

    def __init__(self, device: torch.device) -> None:
        self.name = "triton-interpreted" if INTERPRETED else "triton"
        self._arch, self._num_sms = INTERPRETED_AS
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            self._arch = 10 * properties.major + properties.minor
            self._num_sms = properties.multi_processor_count

    def kv_cache_shape(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, ...]:
        """As the torch backend's. Any block size goes: a key's block is looked up key by key."""
        if head_dim > MAX_HEAD_DIM:
            raise UnsupportedModelError(
                f"a head_dim of {head_dim} with the triton attention backend; it takes up to "
                f"{MAX_HEAD_DIM}. --attention-backend torch takes any"
            )
        return (2, num_blocks, block_size, num_kv_heads, head_dim)

    def prepare(self, metadata: AttentionMetadata, block_size: int) -> TritonAttentionStep:
        return TritonAttentionStep(metadata, block_size, self._arch, self._num_sms)


class TritonAttentionStep:
    """Attention over one flat batch, layer after layer."""

    def __init__(
        self, metadata: AttentionMetadata, block_size: int, arch: int, num_sms: int
    ) -> None:
        self._metadata, self._arch, self._num_sms = metadata, arch, num_sms
        self._num_reqs = metadata.seq_lens.shape[0]
        # The longest sequence is on the GPU; what the block table has room for is known here.
        self._max_seq_len = metadata.block_table.shape[1] * block_size

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = neighbours(q), neighbours(k), neighbours(v)
        num_tokens, num_heads, head_dim = q.shape
        num_kv_heads = k.shape[1]
        if num_heads // num_kv_heads > MAX_SHARE:
            raise UnsupportedModelError(
                f"{num_heads} query heads on {num_kv_heads} K/V heads with the triton attention "
                f"backend; it takes up to {MAX_SHARE} on one. --attention-backend torch takes any"
            )
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if num_tokens == 0:
            return out
        reshape_and_cache(k, v, kv_cache, self._metadata.slot_mapping).run()

        # With padding there may be more tokens than decodes; the tiles of a prefill serve, too.
        decode = num_tokens <= self._num_reqs
        config = attention_config(self._arch, q.dtype, head_dim, decode=decode)
        splits = 1
        if decode:
            programs = self._num_reqs * num_kv_heads
            splits = num_splits(programs, self._max_seq_len, config.block_n, self._num_sms)
        where = self._metadata.query_start_loc, self._metadata.seq_lens, self._metadata.block_table
        if splits == 1:
            paged_attention(out, None, q, kv_cache, *where, config).run()
            return out
        shape = (num_tokens, num_heads, splits)
        parts = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
        lse = torch.empty(shape, dtype=torch.float32, device=q.device)
        paged_attention(parts, lse, q, kv_cache, *where, config).run()
        merge_splits(out, parts, lse).run()
        return out
