"""Norm, rotation and gate against torch's, on views such as the model makes; canaries around."""

from __future__ import annotations

import math

import pytest
import torch

from minivllm.attention.kernels.launch import Launch
from minivllm.attention.kernels.operators import TritonOperators
from minivllm.attention.kernels.rms_norm import rms_norm
from minivllm.attention.kernels.rope import rope
from minivllm.attention.kernels.silu_mul import silu_mul
from minivllm.models.operators import TorchOperators

TRITON, TORCH = TritonOperators(), TorchOperators()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-5


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def close(out: torch.Tensor, expected: torch.Tensor) -> None:
    """To three roundings of the type: torch rounds between its operations, a kernel at the end, and
    the interpreter cuts bfloat16 off instead of rounding it."""
    step = torch.finfo(expected.dtype).eps
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=3 * step, atol=3 * step)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 64, 576, 1000])
def test_norm_with_and_without_a_residual(size: int, dtype: torch.dtype) -> None:
    x, residual = random(5, size + 3, dtype=dtype)[:, :size], random(5, size, dtype=dtype, seed=1)
    weight = random(size, dtype=dtype, seed=2)
    close(TRITON.rms_norm(x, weight, EPS), TORCH.rms_norm(x, weight, EPS))
    out, total = TRITON.add_rms_norm(x, residual, weight, EPS)
    expected_out, expected_total = TORCH.add_rms_norm(x, residual, weight, EPS)
    if dtype == torch.bfloat16:
        close(total, expected_total)
    else:
        assert torch.equal(total, expected_total), "the stream itself must not drift"
    close(out, expected_out)


def test_norm_of_numbers_whose_squares_overflow_in_16_bits() -> None:
    x, weight = torch.full((1, 64), 30_000.0, dtype=torch.float16), torch.ones(64).half()
    assert torch.equal(TRITON.rms_norm(x, weight, EPS), torch.ones(1, 64).half())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_heads_are_normalised_and_turned(head_dim: int, dtype: torch.dtype) -> None:
    """Views of one tensor that holds Q, K and V; 21 heads are no multiple of a program's."""
    qkv, weight = random(3, 24, head_dim, dtype=dtype), random(head_dim, dtype=dtype, seed=1)
    q, qk = qkv[:, :18], qkv[:, :21]
    close(TRITON.rms_norm(q, weight, EPS), TORCH.rms_norm(q, weight, EPS))
    angles = random(3, 1, head_dim // 2, seed=2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    close(TRITON.rotate(qk, cos, sin), TORCH.rotate(qk, cos, sin))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 96, 1024, 1500])
def test_gate(size: int, dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * size, dtype=dtype) * 4
    close(TRITON.silu_mul(gate_up), TORCH.silu_mul(gate_up))


def test_gates_far_from_zero_are_finite() -> None:
    gate_up = torch.tensor([[-200.0, 200.0, 1.0, 1.0]])
    assert torch.equal(TRITON.silu_mul(gate_up), torch.tensor([[0.0, 200.0]]))


def test_no_rows_are_no_work() -> None:
    assert TRITON.silu_mul(torch.empty(0, 8)).shape == (0, 4)
    assert TRITON.rms_norm(torch.empty(0, 8), torch.ones(8), EPS).shape == (0, 8)


def launches(out: torch.Tensor) -> dict[str, Launch]:
    """Each kernel, writing 3 × 40 numbers to ``out``."""
    x, weight = random(3, 40), random(40, seed=1)
    heads, angles = x.view(3, 5, 8), random(3, 1, 4)
    return {
        "rms_norm": rms_norm(out, x, weight, EPS),
        "rope": rope(out.view(3, 5, 8), heads, angles, angles),
        "silu_mul": silu_mul(out, random(3, 80)),
    }


@pytest.mark.parametrize("kernel", ["rms_norm", "rope", "silu_mul"])
def test_a_kernel_writes_its_output_and_nothing_beside_it(kernel: str) -> None:
    """40 elements and 5 heads are no powers of two: what a tile has too much is not written."""
    memory = torch.full((64 + 120 + 64,), math.nan)
    launches(memory[64:-64].view(3, 40))[kernel].run()
    assert bool(memory[64:-64].isfinite().all())
    assert bool(memory[:64].isnan().all() and memory[-64:].isnan().all())
