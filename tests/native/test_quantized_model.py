"""Whole models on their file's codes beside the exact ones, and what is not there in codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from minivllm.attention.metadata import AttentionMetadata
from minivllm.attention.torch_backend import TorchAttention
from minivllm.errors import ModelFileError
from minivllm.models.causal_lm import CausalLM
from minivllm.models.llama import LlamaLayer
from minivllm.models.loader import load_model
from minivllm.models.packed import PackedLayer
from minivllm.models.quantized import QuantizedLayer, QuantizedLinear
from minivllm.native import codes
from tests.model.builders import (
    CPU,
    KINDS,
    logits_of,
    random_prompt,
    reference_model,
    save_gguf,
)
from tests.native.sequences import needs_codes, on_codes, tiny_gguf

BF16 = torch.bfloat16
LIKE = 0.06
"""Relative error of a whole model's logits; a wrong matrix makes one near 1."""
TYPES = gguf.GGMLQuantizationType
DOWN = "model.layers.1.mlp.down_proj.weight"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def of_layer(model: CausalLM, i: int, x: torch.Tensor) -> torch.Tensor:
    """What a layer adds to x, the tokens of one request: (tokens, hidden)"""
    count, spec, backend = x.shape[0], model.spec, TorchAttention()
    shape = backend.kv_cache_shape(-(-count // 16) + 1, 16, spec.num_kv_heads, spec.head_dim)
    metadata = AttentionMetadata(
        query_start_loc=torch.tensor([0, count], dtype=torch.int32),
        seq_lens=torch.tensor([count], dtype=torch.int32),
        block_table=torch.arange(1, shape[1], dtype=torch.int32)[None],
        slot_mapping=torch.arange(16, 16 + count),
    )
    dtype = model.embed_tokens.dtype
    with torch.inference_mode():
        cos_sin = model.rotary(torch.arange(count), dtype)
        step = backend.prepare(metadata, 16)
        out = model.layers[i](x.to(dtype), cos_sin, torch.zeros(shape, dtype=dtype), step)
        return out.float() - x.float()


@needs_codes
@pytest.mark.parametrize("packing", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_layer_adds_what_the_reference_adds(kind: str, packing: str, tmp_path: Path) -> None:
    """The reference: LlamaLayer in float32 on the unpacked weights."""
    source = save_gguf(reference_model(kind), tmp_path / "tiny.gguf", TYPES[packing])
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert fast.kernels == "codes" and fast.has_int4 == (packing != "Q8_0")
    attention = exact.layers[0].self_attn
    assert (attention.qkv_proj.bias is not None) == (kind == "qwen2")
    assert (attention.q_norm is not None) == (kind == "qwen3")
    for tokens in (1, 7, 30):
        x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(tokens)).to(BF16)
        for i in range(3):
            assert type(exact.layers[i]) is LlamaLayer and type(fast.layers[i]) is QuantizedLayer
            assert relative(of_layer(fast, i, x), of_layer(exact, i, x)) < 0.02


@needs_codes
def test_every_matrix_may_have_a_bias(tmp_path: Path) -> None:
    """Gate's and up's are dealt out like their rows."""
    model = reference_model("llama", attention_bias=True, mlp_bias=True)
    source = save_gguf(model, tmp_path / "tiny.gguf", TYPES.Q4_1)
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert exact.layers[0].mlp.gate_up_proj.bias is not None and fast.kernels == "codes"
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(1)).to(BF16)
    assert relative(of_layer(fast, 0, x), of_layer(exact, 0, x)) < 0.02


@needs_codes
@pytest.mark.parametrize("packing", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_exact_models(kind: str, packing: str, tied: bool, tmp_path: Path) -> None:
    model = reference_model(kind, tie_word_embeddings=tied)
    source = save_gguf(model, tmp_path / "tiny.gguf", TYPES[packing])
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert isinstance(fast.head, QuantizedLinear) and fast.spec.tie_word_embeddings == tied
    assert not fast.lm_head.numel() and not fast.embed_tokens.numel(), "they are in memory twice"
    assert fast.embed is not None
    every = torch.arange(fast.spec.vocab_size).flip(0)
    assert torch.equal(fast.embed(every), exact.embed_tokens[every].to(BF16))
    for length in (1, 5, 40):
        prompt = random_prompt(length, seed=length)
        assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


@needs_codes
@pytest.mark.parametrize("other", ["model.embed_tokens.weight", "lm_head.weight"])
def test_of_embedding_and_head_one_may_be_of_another_type(other: str, tmp_path: Path) -> None:
    model = reference_model("llama", tie_word_embeddings=False)
    source = save_gguf(model, tmp_path / "tiny.gguf", TYPES.Q4_0, kinds={other: TYPES.F16})
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert (fast.embed is None) == other.startswith("model.embed")
    assert isinstance(fast.head, QuantizedLinear) == other.startswith("model.embed")
    prompt = random_prompt(30, seed=2)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


@needs_codes
def test_matrices_of_unlike_types_share_a_layer(tmp_path: Path) -> None:
    """V in 8 bits beside Q and K in 4, as llama.cpp's mixed files have it: one matrix of 8."""
    kinds = {f"model.layers.{i}.self_attn.v_proj.weight": TYPES.Q8_0 for i in range(3)}
    source = save_gguf(reference_model("llama"), tmp_path / "t.gguf", TYPES.Q4_0, kinds=kinds)
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert fast.kernels == "codes"
    prompt = random_prompt(30, seed=2)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


@needs_codes
def test_a_layer_with_one_matrix_of_another_type_is_packed(tmp_path: Path) -> None:
    source = save_gguf(
        reference_model("llama"), tmp_path / "tiny.gguf", TYPES.Q4_0, kinds={DOWN: TYPES.F16}
    )
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert [type(layer) for layer in fast.layers] == [QuantizedLayer, PackedLayer, QuantizedLayer]
    assert fast.kernels.split(", ")[0] == "codes" and len(fast.kernels.split(", ")) > 1
    assert isinstance(fast.head, QuantizedLinear)
    prompt = random_prompt(30, seed=2)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


@needs_codes
@pytest.mark.parametrize(
    ("changes", "layers", "head"),
    [
        ({"vocab_size": 170}, QuantizedLayer, False),  # rows of the head
        ({"num_key_value_heads": 1, "head_dim": 24}, PackedLayer, True),  # rows of q|k|v
    ],
)
def test_what_does_not_fit_the_panels_is_packed(
    changes: dict[str, Any], layers: type, head: bool, tmp_path: Path
) -> None:
    model = reference_model("llama", **changes)
    source = save_gguf(model, tmp_path / "tiny.gguf", TYPES.Q8_0, kinds=odd(model))
    exact, fast = load_model(source, "float32", CPU), load_model(source, "bfloat16", CPU, "auto")
    assert all(type(layer) is layers for layer in fast.layers)
    assert isinstance(fast.head, QuantizedLinear) == head
    prompt = random_prompt(30, seed=3)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


def odd(model: Any) -> dict[str, gguf.GGMLQuantizationType]:
    """Matrices that no blocks of 32 fit."""
    tensors = model.state_dict().items()
    return {n: TYPES.F16 for n, t in tensors if t.dim() == 2 and t.shape[1] % 32}


@needs_codes
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.down_proj", (64, 128)),
        ("model.layers.0.self_attn.o_proj", (96, 64)),
        ("model.layers.0.self_attn.v_proj", (64, 64)),
        ("model.layers.0.mlp.up_proj", (128, 64)),
        ("lm_head", (192, 64)),
    ],
)
def test_a_matrix_of_the_wrong_shape_is_named_and_its_file(
    name: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    wrong = {f"{name}.weight": np.ones(shape, dtype=np.float32)}
    model = reference_model("llama", tie_word_embeddings=False)
    source = save_gguf(model, tmp_path / "wrong.gguf", TYPES.Q4_0, extra=wrong)
    with pytest.raises(ModelFileError) as caught:
        load_model(source, "bfloat16", CPU, "auto")
    assert str(source.path) in str(caught.value) and f"{name}.weight" in str(caught.value)


@needs_codes
@pytest.mark.parametrize("up", [(128, 64), (96, 128)], ids=["rows", "columns"])
def test_parts_that_do_not_fit_one_another_are_refused(up: tuple[int, int], tmp_path: Path) -> None:
    """Gate and up may have the rows in all that they should, but not each."""
    gate = (192 - up[0], 64)
    wrong = {
        "model.layers.0.mlp.gate_proj.weight": np.ones(gate, dtype=np.float32),
        "model.layers.0.mlp.up_proj.weight": np.ones(up, dtype=np.float32),
    }
    source = save_gguf(reference_model("llama"), tmp_path / "wrong.gguf", TYPES.Q4_0, extra=wrong)
    with pytest.raises(ModelFileError, match=r"wrong.gguf: .*(gate|up)_proj.weight has shape"):
        load_model(source, "bfloat16", CPU, "auto")


def test_where_bytes_are_not_multiplied_the_model_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_gguf(reference_model("llama"), tmp_path / "tiny.gguf", TYPES.Q4_0)
    monkeypatch.setattr(codes, "available", lambda: False)
    fast = load_model(source, "bfloat16", CPU, "auto")
    assert all(type(layer) is PackedLayer for layer in fast.layers)
    assert "codes" not in fast.kernels and not isinstance(fast.head, QuantizedLinear)
    exact, prompt = load_model(source, "float32", CPU), random_prompt(30, seed=4)
    assert relative(logits_of(fast, prompt), logits_of(exact, prompt)) < LIKE


@pytest.mark.parametrize("library", [None, False])
def test_without_a_library_or_its_instructions_there_are_no_codes(
    library: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        def has_codes(self) -> int:
            return 0

    monkeypatch.setattr(codes, "library", lambda: None if library is None else Without())
    assert codes.available.__wrapped__() is False


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_codes_are_for_bfloat16_alone(dtype: str, tmp_path: Path) -> None:
    source = save_gguf(reference_model("llama"), tmp_path / "tiny.gguf", TYPES.Q4_0)
    model = load_model(source, dtype, CPU, "auto")
    assert "codes" not in model.kernels
    assert not any(type(layer) is QuantizedLayer for layer in model.layers)


@needs_codes
def test_a_layer_runs_on_the_threads_there_are_when_it_runs(tmp_path: Path) -> None:
    """Loading takes one for itself: it must not stay so."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = on_codes(tiny_gguf(tmp_path, "Q4_1"))
        told: list[int] = []
        for owner, name in (
            (model.layers[0], "_before"),
            (model.layers[0], "_after"),
            (model.head, "_multiply"),
        ):
            call = getattr(owner, name)
            setattr(owner, name, lambda *given, call=call: (told.append(given[-1]), call(*given)))
        logits_of(model, random_prompt(3, seed=1))
        assert told == [3, 3, 3]
    finally:
        torch.set_num_threads(before)
