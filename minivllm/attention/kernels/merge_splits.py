"""Put the parts together that the programs of one split sequence have computed.

The reduction of Flash-Decoding (Dao et al., 2023, https://pytorch.org/blog/flash-decoding/), and
``reduce_segments`` in vLLM's ``triton_unified_attention.py``, which keeps maximum and sum apart.

A part knows its own keys only: it is their weighted mean, and ``lse`` is the logarithm of the sum
of its weights. So the whole is the mean of the parts, each as heavy as its weights::

    keys       │ split 0      │ split 1      │ split 2      │ split 3 (none left)
    part       │ mean_0       │ mean_1       │ mean_2       │ not written, not read
    lse        │ lse_0        │ lse_1        │ lse_2        │ -inf
               └──────┬───────┴──────┬───────┴──────┬───────┘
    out  =      Σ 2^(lse_s - max) · mean_s   /   Σ 2^(lse_s - max)

One program merges one head of one token. It reads num_splits · (D + 1) · 4 bytes, which still lie
in L2, writes D elements, and computes 3 · num_splits · D FLOPs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.configs import padded_head_dim
from minivllm.attention.kernels.launch import Launch


@triton.jit
def merge_splits_kernel(
    out_ptr,  # (num_tokens, num_heads, HEAD_DIM)
    parts_ptr,  # (num_tokens, num_heads, NUM_SPLITS, HEAD_DIM) float32
    lse_ptr,  # (num_tokens, num_heads, NUM_SPLITS) float32
    out_stride_token,
    out_stride_head,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = (token * tl.num_programs(1) + head) * NUM_SPLITS + tl.arange(0, NUM_SPLITS)
    dims = tl.arange(0, HEAD_PAD)
    lse = tl.load(lse_ptr + row)  # (NUM_SPLITS,)
    highest = tl.max(lse, 0)
    # A padding row has no part: its highest is -inf, and -inf less -inf is no number.
    finite = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(lse - finite)
    total = tl.sum(weights, 0)
    mask = (lse > float("-inf"))[:, None] & (dims < HEAD_DIM)[None, :]
    parts = tl.load(parts_ptr + row[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
    merged = tl.sum(parts * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    at = token * out_stride_token + head * out_stride_head + dims
    tl.store(out_ptr + at, merged.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)


def merge_splits(out: torch.Tensor, parts: torch.Tensor, lse: torch.Tensor) -> Launch:
    """Fill ``out`` (num_tokens, num_heads, head_dim) from what ``paged_attention`` left in
    ``parts`` and ``lse``; the number of splits is a power of two."""
    num_tokens, num_heads, head_dim = out.shape
    return Launch(
        merge_splits_kernel,
        grid=(num_tokens, num_heads),
        args={
            "out_ptr": out,
            "parts_ptr": parts,
            "lse_ptr": lse,
            "out_stride_token": out.stride(0),
            "out_stride_head": out.stride(1),
            "HEAD_DIM": head_dim,
            "HEAD_PAD": padded_head_dim(head_dim),
            "NUM_SPLITS": lse.shape[2],
        },
        num_warps=4,  # 32 splits of 128 elements are 32 numbers a thread
    )
