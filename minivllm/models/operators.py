"""The small operations between the matrix products, behind one interface.

A layer asks for them by name; who computes them is decided once, when the model is loaded: torch
(here, the reference) or Triton (``attention/kernels/operators.py``). Counterpart in vLLM:
``vllm/model_executor/custom_op.py`` (``CustomOp``), which each layer inherits from.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class Operators(Protocol):
    """What a layer needs beside matrix products and attention. No input is written to."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Divide the last dimension by the root of its mean square, in float32 whatever the
        input; then scale. x: (num_tokens, size) or (num_tokens, heads, size)."""
        ...

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the norm of x + residual, x + residual); all (num_tokens, size)."""
        ...

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Turn x (num_tokens, heads, head_dim) by angles whose cosine and sine are (num_tokens, 1,
        head_dim / 2). Source: arXiv 2104.09864."""
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(first half) · second half: (num_tokens, 2 · size) → (num_tokens, size)."""
        ...


class TorchOperators:
    """Written out in torch: what the others are compared with."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return wide.to(x.dtype) * weight

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = residual + x
        return self.rms_norm(total, weight, eps), total

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)  # (num_tokens, heads, head_dim/2) each
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
