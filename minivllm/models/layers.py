"""The parts a transformer layer is made of: linear maps, RMSNorm, rotary positions.

Counterpart in vLLM: ``vllm/model_executor/layers/``. Left out: tensor-parallel shards, quantised
kernels. Who computes a norm or a rotation is decided in ``operators.py``. Parameters are created
empty and filled by the loader, because the random initialisation of ``nn.Linear`` costs a second on
135M weights and is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from minivllm.models.operators import Operators, TorchOperators


def empty_parameter(*shape: int) -> nn.Parameter:
    """Memory for the loader to fill, of the default dtype on the default device."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """``y = x Wᵀ (+ b)``; the weight is (out, in), as in checkpoints."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = empty_parameter(out_features, in_features)
        self.bias = empty_parameter(out_features) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)  # (num_tokens, out)


class FusedLinear(Linear):
    """Several of a checkpoint's matrices that read the same input: the rows of one below those of
    the other. ``parts``: the checkpoint's name of each, beside this one → its number of rows."""

    def __init__(self, in_features: int, parts: Mapping[str, int], bias: bool = False) -> None:
        super().__init__(in_features, sum(parts.values()), bias)
        self.parts = dict(parts)


class RMSNorm(nn.Module):
    """Divide by the root of the mean square; then scale."""

    ops: Operators = TorchOperators()

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_parameter(size)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops.rms_norm(x, self.weight, self.eps)  # (num_tokens, size)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(the norm of x + residual, x + residual), each (num_tokens, size)."""
        return self.ops.add_rms_norm(x, residual, self.weight, self.eps)


class RotaryEmbedding(nn.Module):
    """Turns each pair (i, i + head_dim/2) of a head by an angle that grows with the position.

    Cosine and sine are computed once a step for the positions in it, and every layer uses the
    same two. A table over the whole context would not be faster, and takes memory with its length.
    """

    frequencies: torch.Tensor

    def __init__(
        self, head_dim: int, theta: float, divisors: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        frequencies = 1.0 / theta**exponents  # (head_dim/2,) radians per token
        if divisors is not None:
            frequencies = frequencies / torch.tensor(divisors, dtype=torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine for each token, (num_tokens, 1, head_dim/2): the 1 spans the heads."""
        angles = positions[:, None, None].float() * self.frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)
