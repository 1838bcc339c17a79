"""The compiled operators against torch's, and how the library comes to be.

Where there is no C compiler there is nothing to test, and these fail and say so: the machines that
run them have one.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import pytest
import torch

from minivllm.attention import selector
from minivllm.attention.selector import select_native
from minivllm.errors import ConfigError
from minivllm.models.operators import TorchOperators
from minivllm.models.spec import ModelSpec
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


def load_anew(monkeypatch: pytest.MonkeyPatch, home: Path) -> ctypes.CDLL | None:
    """As a process does that has not asked yet, with its cache in ``home``."""
    monkeypatch.setenv("MINIVLLM_HOME", str(home))
    monkeypatch.setattr(build, "_load", cache(build._load.__wrapped__))
    return build.library.__wrapped__()


@pytest.mark.parametrize(
    ("says", "told"),
    [("/bin/false", "/bin/false says"), ("/no/such/compiler", "/no/such/compiler")],
    ids=["one that fails", "one that is not there"],
)
def test_without_a_compiler_there_is_no_library_and_it_is_told(
    says: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CC", says)
    assert load_anew(monkeypatch, tmp_path) is None
    assert not list(tmp_path.rglob("*.so"))
    assert told in build.why_none() and told in caplog.text
    spec = spec_of()
    monkeypatch.setattr(selector, "library", lambda: None)
    with pytest.raises(ConfigError, match=told):
        select_native("native", spec, BF16)
    assert select_native("auto", spec, BF16) is None


def test_who_wants_no_library_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MINIVLLM_NATIVE", "0")
    assert load_anew(monkeypatch, tmp_path) is None
    assert not list(tmp_path.rglob("*")) and not caplog.text


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And then needs no compiler."""
    monkeypatch.setenv("CC", "cc -O2")  # as people write it
    assert load_anew(monkeypatch, tmp_path) is not None
    made = list(tmp_path.rglob("*"))
    monkeypatch.setenv("CC", "/bin/false")
    assert load_anew(monkeypatch, tmp_path) is not None
    assert list(tmp_path.rglob("*")) == made


@pytest.mark.parametrize("left", [0, 30_000])
def test_a_library_that_is_not_whole_is_made_anew(
    left: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full disk, or no power: to load half of it would end the process."""
    assert load_anew(monkeypatch, tmp_path) is not None
    (made,) = tmp_path.rglob("*.so")
    whole = made.read_bytes()
    half = made.with_suffix(".half")
    half.write_bytes(whole[:left])
    half.replace(made)  # not written over: this process has the other one loaded
    assert load_anew(monkeypatch, tmp_path) is not None
    assert len(made.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    ("changed", "dtype", "told"),
    [
        ({}, torch.float32, "dtype bfloat16, this is float32"),
        ({"head_dim": 80}, BF16, "these have 80"),
        ({"num_heads": 97, "num_kv_heads": 1}, BF16, "96 query heads to a K/V head, this has 97"),
    ],
)
def test_what_the_compiled_attention_lacks_is_named(
    changed: dict[str, int], dtype: torch.dtype, told: str
) -> None:
    spec = spec_of(**changed)
    assert select_native("auto", spec, dtype) is None
    with pytest.raises(ConfigError, match=told):
        select_native("native", spec, dtype)


def spec_of(**changed: int) -> ModelSpec:
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, **changed}
    return ModelSpec(
        architecture="llama", vocab_size=64, hidden_size=64, intermediate_size=64, num_layers=1,
        max_model_len=64, rope_theta=1e4, rms_norm_eps=1e-5, tie_word_embeddings=True, **sizes,
    )  # fmt: skip
