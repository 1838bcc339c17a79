"""The operators between the matrix products by the compiled C code; see ``models/operators.py``.

Bfloat16 on a CPU; anything else goes to torch's.
"""

from __future__ import annotations

import ctypes

import torch

from minivllm.models.operators import TorchOperators


class NativeOperators(TorchOperators):
    """``rms_norm`` of a head's rows (Qwen3) stays torch's."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._rms_norm, self._silu_mul = library.rms_norm, library.silu_mul
        self._rotate = library.rotate
        self._threads = torch.get_num_threads()

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        if x.dtype != torch.bfloat16 or x.dim() != 2 or x.stride(1) != 1:
            return super().rms_norm(x, weight, eps)
        rows, size = x.shape
        out = torch.empty((rows, size), dtype=x.dtype)
        self._rms_norm(
            out.data_ptr(), None, x.data_ptr(), None, weight.data_ptr(),
            rows, size, x.stride(0), eps, self._threads,
        )  # fmt: skip
        return out

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype != torch.bfloat16 or not (x.is_contiguous() and residual.is_contiguous()):
            return super().add_rms_norm(x, residual, weight, eps)
        rows, size = x.shape
        out, total = torch.empty_like(x), torch.empty_like(x)
        self._rms_norm(
            out.data_ptr(), total.data_ptr(), x.data_ptr(), residual.data_ptr(), weight.data_ptr(),
            rows, size, size, eps, self._threads,
        )  # fmt: skip
        return out, total

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        tokens, heads, dim = x.shape
        if x.dtype != torch.bfloat16 or x.stride()[1:] != (dim, 1):
            return super().rotate(x, cos, sin)
        out = torch.empty((tokens, heads, dim), dtype=x.dtype)
        self._rotate(
            out.data_ptr(), x.data_ptr(), cos.data_ptr(), sin.data_ptr(),
            tokens, heads, dim, x.stride(0), self._threads,
        )  # fmt: skip
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        if gate_up.dtype != torch.bfloat16 or not gate_up.is_contiguous():
            return super().silu_mul(gate_up)
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((rows, size), dtype=gate_up.dtype)
        self._silu_mul(out.data_ptr(), gate_up.data_ptr(), rows, size, self._threads)
        return out
