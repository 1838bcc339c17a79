"""Packed weights: the kernels behind them, and a model that runs on them beside the reference.

The way of a CPU that multiplies no bytes, so the faster one (``quantized.py``) is switched off;
what both promise alike is tried with and without it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
import torch.nn.functional as F

from minivllm.errors import ConfigError
from minivllm.models import cpu_linear, loader
from minivllm.models.cpu_linear import Int4Weight, OneDNNWeight, PlainWeight, available, make_weight
from minivllm.models.gguf import GGUFCheckpoint
from minivllm.models.gguf_file import GGUFFile, Groups
from minivllm.models.loader import load_model
from minivllm.models.packed import MOST_INT4_HEAD_ROWS, PackedHead, PackedLayer
from minivllm.models.source import ModelSource
from minivllm.native import codes
from tests.model.builders import (
    CPU,
    logits_of,
    random_prompt,
    reference_llama,
    reference_logits,
    reference_model,
    save_gguf,
    save_hf,
)

BF16 = torch.bfloat16
CODES = codes.available()
"""Whether this machine has the faster way at all."""


@pytest.fixture(autouse=True)
def no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "available", lambda: False)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def some_groups(rows: int, cols: int) -> Groups:
    """With scales that bfloat16 holds exactly."""
    torch.manual_seed(1)
    codes = torch.randint(0, 16, (rows, cols), dtype=torch.uint8)
    scale = torch.randint(1, 100, (rows, cols // 32)) / 4096
    return Groups(codes, scale, -8 * scale, 4)


def test_int4_weights_are_the_files_own_numbers() -> None:
    """A row of the unit matrix picks a column: what comes out is the weight, to the last bit."""
    groups = some_groups(64, 96)
    found = Int4Weight(groups)(torch.eye(96, dtype=BF16))  # (96, 64)
    assert torch.equal(found.T, groups.dense().to(BF16))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_groups_of_a_file_are_its_tensors_exactly(kind: str, tmp_path: Path) -> None:
    """As codes and as unpacked numbers: the same. Of eight bits, two halves of four add up."""
    source = save_gguf(
        reference_llama(), tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType[kind]
    )
    file = GGUFFile(source.path)
    names = [name for name in file.tensors if file.groups(name) is not None]
    assert len(names) >= 7
    for name in names:
        groups, tensor = file.groups(name), file.load(name)
        assert groups is not None and groups.bits == (8 if kind == "Q8_0" else 4)
        assert int(groups.codes.max()) < 2**groups.bits
        torch.testing.assert_close(groups.dense(), tensor, rtol=1e-6, atol=1e-6)
        if groups.bits == 8:
            halves = groups.halved()
            assert halves.bits == 4 and int(halves.codes.max()) <= 15
            high, low = halves.dense().split(tensor.shape[1], dim=1)
            torch.testing.assert_close(high + low, tensor, rtol=1e-5, atol=1e-5)


def test_parts_of_unlike_bits_are_joined_as_the_wider() -> None:
    narrow, wide = some_groups(64, 96), replace(some_groups(64, 96), bits=8)
    whole = Groups.joined([narrow, wide])
    assert whole.bits == 8
    assert torch.equal(whole.dense(), torch.cat((narrow.dense(), wide.dense())))


def test_groups_follow_the_rows_of_the_weights(tmp_path: Path) -> None:
    """Q and K are re-ordered on the way in; a group that is not, belongs to another head."""
    source = save_gguf(
        reference_llama(), tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q4_1
    )
    checkpoint = GGUFCheckpoint(source.path)
    found = 0
    for name, tensor in checkpoint.weights():
        if (groups := checkpoint.groups(name)) is not None:
            torch.testing.assert_close(groups.dense(), tensor, rtol=1e-6, atol=1e-6)
            found += 1
    assert found >= 7
    assert checkpoint.groups("model.norm.weight") is None
    assert checkpoint.groups("no.such.tensor") is None


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_what_follows_a_product_is_the_same_by_both_kernels(rows: int) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(48, 64, dtype=BF16) / 8, torch.randn(48, dtype=BF16)
    x, other = torch.randn(rows, 64, dtype=BF16), torch.randn(rows, 48, dtype=BF16)
    plain, fast = PlainWeight(weight, bias), make_weight(weight, bias)
    assert type(fast) is OneDNNWeight
    exact = F.linear(x.float(), weight.float(), bias.float())
    with torch.inference_mode():
        for kernel in (plain, fast):
            assert relative(kernel(x), exact) < 0.01
            assert relative(kernel.silu(x), F.silu(exact)) < 0.01
            assert relative(kernel.add(x, other), exact + other) < 0.01
            assert relative(kernel.mul(x, other), exact * other) < 0.01


@pytest.mark.parametrize("fault", ["gone", "wrong", "nan"])
@pytest.mark.parametrize("kernel", [OneDNNWeight, Int4Weight])
def test_a_kernel_that_is_gone_or_wrong_is_not_used(
    kernel: type, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(self: object, x: torch.Tensor) -> torch.Tensor:
        if fault == "gone":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")
        return torch.full((x.shape[0], 64), 1.0 if fault == "wrong" else torch.nan)

    available.cache_clear()
    monkeypatch.setattr(kernel, "__call__", call)
    try:
        assert not available(kernel, BF16)
        if kernel is OneDNNWeight:
            assert type(make_weight(torch.ones(8, 8, dtype=BF16))) is PlainWeight
            monkeypatch.setattr(cpu_linear, "bfloat16_pays", cpu_linear.bfloat16_pays.__wrapped__)
            assert not cpu_linear.bfloat16_pays()
    finally:
        available.cache_clear()


# Vocabulary and all else in multiples of 64 rows, as the 4-bit kernel wants them.
WIDE = {
    "vocab_size": 192,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
}


def gguf_source(tmp_path: Path, packing: str = "Q4_1") -> tuple[ModelSource, object]:
    model = reference_llama(**WIDE)
    return save_gguf(
        model, tmp_path / f"{packing}.gguf", kind=gguf.GGMLQuantizationType[packing]
    ), model


@pytest.mark.parametrize("length", [1, 3, 30])
def test_logits_of_a_packed_file_are_those_of_the_unpacked_one(length: int, tmp_path: Path) -> None:
    """By 4-bit weights (a short prompt) and by bfloat16 ones: close to float32 on the same file."""
    source, _ = gguf_source(tmp_path)
    exact = load_model(source, "float32", CPU)
    fast = load_model(source, "bfloat16", CPU, "auto")
    assert fast.has_int4 and all(type(layer) is PackedLayer for layer in fast.layers)
    assert "int4" in fast.kernels and "codes" not in fast.kernels and not exact.kernels
    prompt = random_prompt(length, seed=length)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < 0.05


def test_a_head_of_eight_bits_is_two_of_four_for_few_tokens(tmp_path: Path) -> None:
    source, _ = gguf_source(tmp_path, "Q8_0")
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert isinstance(fast.head, PackedHead) and not fast.has_int4
    rows = torch.randn(MOST_INT4_HEAD_ROWS, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = exact.compute_logits(rows)
        assert relative(fast.compute_logits(rows.to(BF16)), expected) < 0.02
        few, fast.head._few = fast.head._few, None
        assert few is not None, "there are no 4-bit weights of the head"
        assert relative(fast.compute_logits(rows.to(BF16)), expected) < 0.02


def test_without_quantization_no_4_bit_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = gguf_source(tmp_path)
    for there_are_codes in (False, CODES):
        monkeypatch.setattr(codes, "available", lambda there=there_are_codes: there)
        model = load_model(source, "bfloat16", CPU, "none")
        assert not model.has_int4 and "int4" not in model.kernels
        assert all(type(layer) is PackedLayer for layer in model.layers)


def test_q4_is_refused_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, model = gguf_source(tmp_path)
    eights, _ = gguf_source(tmp_path, "Q8_0")
    plain = save_hf(model, tmp_path / "hf")
    for there_are_codes in (False, CODES):
        monkeypatch.setattr(codes, "available", lambda there=there_are_codes: there)
        assert load_model(source, "bfloat16", CPU, "q4").has_int4
        with pytest.raises(ConfigError, match=r"quantization: .* the dtype is float32"):
            load_model(source, "float32", CPU, "q4")
        for without in (plain, eights):
            with pytest.raises(ConfigError, match="Q4_0 or Q4_1"):
                load_model(without, "bfloat16", CPU, "q4")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_architecture_runs_packed(kind: str, dtype: str, tmp_path: Path) -> None:
    model = reference_model(kind)
    packed_model = load_model(save_hf(model, tmp_path), dtype, CPU)
    prompt = random_prompt(20, seed=3)
    assert relative(logits_of(packed_model, prompt), reference_logits(model, prompt)) < 0.05


@pytest.mark.parametrize("pays", [True, False])
def test_fast_is_bfloat16_on_a_cpu_only_where_that_is_faster(
    pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "bfloat16_pays", lambda: pays)
    assert loader.choose_dtype("fast", CPU) == (BF16 if pays else torch.float32)
    assert loader.choose_dtype("fast", torch.device("cuda")) == BF16
    assert loader.choose_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize("there_are_codes", [True, False])
def test_fast_takes_codes_whatever_bfloat16_costs(
    there_are_codes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without: float32, packed, and as exact as the reference."""
    source, _ = gguf_source(tmp_path)
    monkeypatch.setattr(loader, "bfloat16_pays", lambda: False)
    monkeypatch.setattr(loader, "codes_run", lambda: there_are_codes)
    model = load_model(source, "fast", CPU, "auto")
    assert model.embed_tokens.dtype == (BF16 if there_are_codes else torch.float32)
    if there_are_codes:
        return
    assert all(type(layer) is PackedLayer for layer in model.layers) and not model.has_int4
    exact = load_model(source, "float32", CPU)
    assert all(type(layer) is not PackedLayer for layer in exact.layers)
    prompt = random_prompt(20, seed=1)
    assert relative(logits_of(model, prompt), logits_of(exact, prompt)) < 1e-5
