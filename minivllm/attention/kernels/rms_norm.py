"""RMSNorm, with the residual sum before it in the same pass.

    sum = x + residual          out = weight · sum / √(mean(sum²) + eps)

Follows ``fused_add_rms_norm`` in vLLM's ``csrc/layernorm_kernels.cu``; RMSNorm: arXiv 1910.07467.
Left out: writing over the inputs, rows longer than one program holds.

One program normalises one row, which it holds in registers between sum and product::

      x  row ──┐                      alone       fused
               + ── sum² ─ mean       add:   2 reads, 1 write        2 reads, 2 writes (sum, out)
    residual ──┘     │                norm:  1 read,  1 write
               out ◀─┘                       5 rows                  4 rows, and one launch less

Cost of a program: 4 · size · element bytes with a residual, 2 without, and the weights, which are
in L2; 4 · size FLOPs. Half a FLOP a byte: as fast as memory.

A row may be a head (Qwen3 normalises each head of Q and of K): then the rows of a token lie one
after the other, and the tokens further apart.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from minivllm.attention.kernels.launch import Launch


@triton.jit
def rms_norm_kernel(
    out_ptr,  # (num_tokens, ROWS, SIZE), contiguous
    sum_ptr,  # the same, with a residual; else None
    x_ptr,  # (num_tokens, ROWS, SIZE)
    residual_ptr,  # (num_tokens, ROWS, SIZE), contiguous; or None
    weight_ptr,  # (SIZE,)
    x_stride_token,
    x_stride_row,
    eps,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    FUSED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    element = tl.arange(0, SIZE_PAD)
    mask = element < SIZE
    at = row // ROWS * x_stride_token + row % ROWS * x_stride_row + element
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    at = row * SIZE + element
    if FUSED:
        x = (x.to(tl.float32) + tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(
            x.dtype
        )  # rounded before it is normalised, as the two operations apart would do
        tl.store(sum_ptr + at, x, mask=mask)
    wide = x.to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    weight = tl.load(weight_ptr + element, mask=mask, other=0.0)
    out = wide.to(x.dtype).to(tl.float32) * weight.to(tl.float32)
    tl.store(out_ptr + at, out.to(x.dtype), mask=mask)


def rms_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
) -> Launch:
    """Fill ``out``, and with a ``residual`` also ``total`` (x + residual); both contiguous.
    x: (num_tokens, size), or (num_tokens, rows, size)."""
    size = x.shape[-1]
    rows = x.shape[1] if x.dim() == 3 else 1
    size_pad = triton.next_power_of_2(size)
    return Launch(
        rms_norm_kernel,
        grid=(x.shape[0] * rows,),
        args={
            "out_ptr": out,
            "sum_ptr": total,
            "x_ptr": x,
            "residual_ptr": residual,
            "weight_ptr": weight,
            "x_stride_token": x.stride(0),
            "x_stride_row": x.stride(1) if x.dim() == 3 else 0,
            "eps": eps,
            "ROWS": rows,
            "SIZE": size,
            "SIZE_PAD": size_pad,
            "FUSED": residual is not None,
        },
        # 16 elements a thread: two loads of 16 bytes each are on their way at once.
        num_warps=min(16, max(1, size_pad // 512)),
    )
