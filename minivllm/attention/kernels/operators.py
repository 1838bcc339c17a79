"""The operations between the matrix products, each one Triton kernel instead of several of torch's.

What is between two matrix products computes next to nothing: its time is the time of its bytes.
torch writes and reads each intermediate; these read the inputs once and write the result.
Counterpart in vLLM: ``vllm/_custom_ops.py``.
"""

from __future__ import annotations

import torch

from minivllm.attention.kernels.rms_norm import rms_norm
from minivllm.attention.kernels.rope import rope
from minivllm.attention.kernels.silu_mul import silu_mul


class TritonOperators:
    """Shapes as in ``minivllm/models/operators.py``; the results are contiguous."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        x = neighbours(x)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rms_norm(out, x, weight, eps).run()
        return out

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, residual = neighbours(x), residual.contiguous()
        out, total = torch.empty_like(residual), torch.empty_like(residual)
        rms_norm(out, x, weight, eps, residual, total).run()
        return out, total

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = neighbours(x)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rope(out, x, cos.contiguous(), sin.contiguous()).run()
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate_up = neighbours(gate_up)
        num_tokens, width = gate_up.shape
        out = torch.empty(num_tokens, width // 2, dtype=gate_up.dtype, device=gate_up.device)
        silu_mul(out, gate_up).run()
        return out


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """x, copied if the elements of its last dimension do not lie side by side, as the kernels take
    them. The model's own views all do."""
    return x if x.stride(-1) == 1 else x.contiguous()
