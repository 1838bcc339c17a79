"""The compiled operators against torch's, and how the library comes to be.

Where there is no C compiler there is nothing to test, and these fail and say so: the machines that
run them have one.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from minivllm.models.operators import TorchOperators
from minivllm.native import build
from minivllm.native.operators import NativeOperators

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = build.library()
    assert found is not None, "they could not be compiled here; see the log of minivllm.native"
    return found


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_operators_equal_torchs(library: ctypes.CDLL, rows: int) -> None:
    ours, torchs = NativeOperators(library), TorchOperators()
    torch.manual_seed(rows)
    x, residual = torch.randn(2, rows, 100, dtype=BF16).unbind()
    weight, gate_up = torch.randn(100, dtype=BF16), torch.randn(rows, 200, dtype=BF16) * 20
    heads = torch.randn(rows, 7, 64, dtype=BF16)[:, :5]  # rows of more heads than are turned
    angles = torch.randn(rows, 1, 32)
    cos, sin = angles.cos().to(BF16), angles.sin().to(BF16)
    close(ours.rms_norm(x, weight, 1e-5), torchs.rms_norm(x, weight, 1e-5))
    for found, expected in zip(
        ours.add_rms_norm(x, residual, weight, 1e-5),
        torchs.add_rms_norm(x, residual, weight, 1e-5),
        strict=True,
    ):
        close(found, expected)
    close(ours.silu_mul(gate_up), torchs.silu_mul(gate_up))
    close(ours.rotate(heads, cos, sin), torchs.rotate(heads, cos, sin))


def test_other_types_than_bfloat16_are_torchs(library: ctypes.CDLL) -> None:
    ours, torchs = NativeOperators(library), TorchOperators()
    x, weight = torch.randn(3, 64), torch.randn(64)
    assert torch.equal(ours.rms_norm(x, weight, 1e-5), torchs.rms_norm(x, weight, 1e-5))
    assert torch.equal(ours.silu_mul(x), torchs.silu_mul(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(library: ctypes.CDLL, bad: float) -> None:
    """The sampler must see that a request's numbers went wrong."""
    ours = NativeOperators(library)
    x = torch.ones(2, 64, dtype=BF16)
    x[1, 3] = bad
    out = ours.rms_norm(x, torch.ones(64, dtype=BF16), 1e-5)
    assert bool(out[0].isfinite().all()) and bool(out[1].isnan().any())
    assert bool(ours.silu_mul(torch.full((1, 64), float("nan"), dtype=BF16)).isnan().all())


@pytest.mark.parametrize(
    "says", ["/bin/false", "/no/such/compiler"], ids=["one that fails", "one that is not there"]
)
def test_without_a_compiler_there_is_no_library(
    says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", says)
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path))
    assert build.library.__wrapped__() is None
    assert not list(tmp_path.rglob("*.so"))


def test_who_wants_no_library_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINIVLLM_NATIVE", "0")
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path))
    assert build.library.__wrapped__() is None
    assert not list(tmp_path.rglob("*"))


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path))
    assert build.library.__wrapped__() is not None
    made = list(tmp_path.rglob("*"))
    monkeypatch.setenv("CC", "/bin/false")
    assert build.library.__wrapped__() is not None
    assert list(tmp_path.rglob("*")) == made
