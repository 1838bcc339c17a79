"""The MLP's gate: silu(gate) · up.

Follows ``silu_and_mul`` in vLLM's ``csrc/activation_kernels.cu``; SwiGLU: arXiv 2002.05202.

Gate and up come from one matrix product, side by side::

    gate_up  │ gate: SIZE elements │ up: SIZE elements │     one token
               └── silu ── · ────────┘
    out      │ SIZE elements       │

One program computes BLOCK elements of one token. Cost: 3 · BLOCK · element bytes, some 5 · BLOCK
FLOPs: as fast as memory. In torch's two operations silu(gate) goes to memory and back: 5 · BLOCK.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.launch import Launch

BLOCK = 1024
"""Elements of one program: 8 for each of 128 threads, 16 bytes in 16 bits, the widest load."""


@triton.jit
def silu_mul_kernel(
    out_ptr,  # (num_tokens, size), contiguous
    gate_up_ptr,  # (num_tokens, 2 · size)
    size,
    stride_token,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = element < size
    at = gate_up_ptr + token * stride_token + element
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + size, mask=mask, other=0.0).to(tl.float32)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + token * size + element, out.to(out_ptr.dtype.element_ty), mask=mask)


def silu_mul(out: torch.Tensor, gate_up: torch.Tensor) -> Launch:
    """Fill ``out`` (num_tokens, size), contiguous, from gate_up (num_tokens, 2 · size)."""
    num_tokens, size = out.shape
    return Launch(
        silu_mul_kernel,
        grid=(num_tokens, triton.cdiv(size, BLOCK)),
        args={
            "out_ptr": out,
            "gate_up_ptr": gate_up,
            "size": size,
            "stride_token": gate_up.stride(0),
            "BLOCK": BLOCK,
        },
        num_warps=4,
    )
