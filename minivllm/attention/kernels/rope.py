"""Turn Q and K by their positions (rotary embedding, arXiv 2104.09864).

Follows vLLM's ``csrc/pos_encoding_kernels.cu`` (the neox style). Left out: partial and interleaved
rotation, turning in place, normalising Q and K in the same pass.

Element i of a head's first half and element i of its second half are one point in the plane, and
turn by the position times frequency i::

    head   │ a0  a1  a2  a3 │ b0  b1  b2  b3 │        a' = a · cos - b · sin
             └───────────────┘ one pair               b' = b · cos + a · sin

One program turns up to BLOCK_HEADS heads of one token; all of them turn by the same angles, which
are loaded once. Q and K lie side by side in the output of one matrix product, so one launch turns
both. Cost: 2 · D · element bytes a head, 3 · D FLOPs: as fast as memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.launch import Launch

ELEMENTS = 2048
"""Of one program: 16 a thread, for 4 warps."""


@triton.jit
def rope_kernel(
    out_ptr,  # (num_tokens, num_heads, 2 · HALF), contiguous
    x_ptr,  # (num_tokens, num_heads, 2 · HALF)
    cos_ptr,  # (num_tokens, HALF)
    sin_ptr,
    num_heads,
    x_stride_token,
    x_stride_head,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    pair = tl.arange(0, HALF_PAD)
    cos = tl.load(cos_ptr + token * HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
    mask = (head < num_heads)[:, None] & (pair < HALF)[None, :]  # (BLOCK_HEADS, HALF_PAD)
    at = token * x_stride_token + head[:, None] * x_stride_head + pair[None, :]
    first = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    out = (token * num_heads + head[:, None]) * (2 * HALF) + pair[None, :]
    dtype = out_ptr.dtype.element_ty
    turned = first * cos[None, :] - second * sin[None, :]
    tl.store(out_ptr + out, turned.to(dtype), mask=mask)
    turned = second * cos[None, :] + first * sin[None, :]
    tl.store(out_ptr + out + HALF, turned.to(dtype), mask=mask)


def rope(out: torch.Tensor, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Launch:
    """Fill ``out``, contiguous, from x, both (num_tokens, heads, head_dim); cos and sin:
    (num_tokens, 1, head_dim / 2), contiguous."""
    num_tokens, num_heads, head_dim = x.shape
    half_pad = triton.next_power_of_2(head_dim // 2)
    block_heads = min(triton.next_power_of_2(num_heads), max(1, ELEMENTS // (2 * half_pad)))
    return Launch(
        rope_kernel,
        grid=(num_tokens, triton.cdiv(num_heads, block_heads)),
        args={
            "out_ptr": out,
            "x_ptr": x,
            "cos_ptr": cos,
            "sin_ptr": sin,
            "num_heads": num_heads,
            "x_stride_token": x.stride(0),
            "x_stride_head": x.stride(1),
            "HALF": head_dim // 2,
            "HALF_PAD": half_pad,
            "BLOCK_HEADS": block_heads,
        },
        num_warps=4,
    )
