"""Paged attention by the compiled C code: a CPU's path in bfloat16.

The torch backend gathers each request's K and V before it attends, and pads requests of unlike
lengths; for sixteen decodes that takes three times as long as all matrix products together. Here
the code walks each block table itself (``native/attention.c``), so nothing is copied and nothing is
padded. In float32, and for heads that are no multiple of 64, the torch backend runs. Counterpart in
vLLM: ``vllm/v1/attention/backends/cpu_attn.py`` and ``csrc/cpu/cpu_attn.cpp``.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from minivllm.attention.metadata import AttentionMetadata

MOST_ROWS = 96
"""Query heads in one piece of work: MAX_ROWS of ``attention.c``."""
DIMS = (64, 128, 192, 256)
"""Widths of a head that it takes."""


class Batch(ctypes.Structure):
    """What all layers of a step have in common, as ``attention.c`` reads it."""

    _fields_ = (
        ("pieces", ctypes.c_void_p),
        ("num_pieces", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("query_start_loc", "seq_lens", "block_table")),
        *(
            (name, ctypes.c_int64)
            for name in ("max_blocks", "block_size", "heads", "kv_heads", "dim")
        ),
    )


class NativeAttention:
    """The backend: shapes of the cache, and the plan of each step."""

    def __init__(self, library: ctypes.CDLL, num_heads: int, num_kv_heads: int) -> None:
        self.name = "native"
        self._library, self._heads = library, (num_heads, num_kv_heads)

    def kv_cache_shape(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, ...]:
        return (2, num_blocks, block_size, num_kv_heads, head_dim)

    def prepare(self, metadata: AttentionMetadata, block_size: int) -> NativeAttentionStep:
        return NativeAttentionStep(self._library, metadata, block_size, *self._heads)


class NativeAttentionStep:
    """Attention over one flat batch, layer after layer."""

    def __init__(
        self,
        library: ctypes.CDLL,
        metadata: AttentionMetadata,
        block_size: int,
        num_heads: int,
        num_kv_heads: int,
    ) -> None:
        self._store, self._attend = library.store, library.paged_attention
        starts = metadata.query_start_loc
        plan = torch.from_numpy(pieces(starts.numpy(), MOST_ROWS * num_kv_heads // num_heads))
        self._kept = metadata, plan  # the structure below has only addresses
        self._padded = int(starts[-1]) < metadata.slot_mapping.shape[0]
        self._slots = metadata.slot_mapping.data_ptr()
        self._batch = Batch(
            plan.data_ptr(),
            plan.shape[0],
            starts.data_ptr(),
            metadata.seq_lens.data_ptr(),
            metadata.block_table.data_ptr(),
            metadata.block_table.shape[1],
            block_size,
            num_heads,
            num_kv_heads,
        )
        self._threads = torch.get_num_threads()

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        num_tokens, _, dim = q.shape
        self._batch.dim = dim
        keys = kv_cache.data_ptr()
        values = keys + kv_cache.nbytes // 2
        self._store(
            keys, values, k.data_ptr(), v.data_ptr(), self._slots,
            num_tokens, k.shape[1] * dim, k.stride(0), v.stride(0),
        )  # fmt: skip
        out = torch.empty(q.shape, dtype=q.dtype)
        if self._padded:
            out.zero_()  # nobody's rows
        batch = ctypes.byref(self._batch)
        self._attend(out.data_ptr(), q.data_ptr(), keys, values, batch, q.stride(0), self._threads)
        return out


def pieces(query_start_loc: np.ndarray, most: int) -> np.ndarray:
    """Each request's new tokens in pieces of up to ``most``: (num_pieces, 3) int64 of request,
    first row, tokens. Those that see most keys come last: they are drawn first."""
    result = [
        (request, row, min(most, end - row))
        for request, (begin, end) in enumerate(
            zip(query_start_loc[:-1].tolist(), query_start_loc[1:].tolist(), strict=True)
        )
        for row in range(begin, end, most)
    ]
    return np.array(result, dtype=np.int64).reshape(-1, 3)
