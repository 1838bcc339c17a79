"""Mistral, Qwen2 and Qwen3 against transformers, from safetensors and from GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from minivllm.errors import ModelFileError, UnsupportedModelError
from minivllm.models.loader import load_model
from minivllm.models.source import ModelSource
from tests.model.builders import (
    CPU,
    KINDS,
    LLAMA3_ROPE,
    logits_of,
    random_prompt,
    reference_logits,
    reference_model,
    save_gguf,
    save_hf,
)
from tests.model.test_hf_files import change_config

Kind = gguf.GGMLQuantizationType
ROPE = {"rope_parameters": LLAMA3_ROPE}
UNTIED = {"tie_word_embeddings": False}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    *[(kind, changes) for kind in KINDS for changes in ({}, UNTIED, ROPE)],
    ("mistral", {"head_dim": 32}),
    ("mistral", {"sliding_window": 512}),  # as long as the context
    ("qwen2", {"num_key_value_heads": 1}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}),  # of three layers: none
    ("qwen3", {"num_key_value_heads": 4}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"attention_bias": True}),
]


def shape_id(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value) or "as it is"


@pytest.mark.parametrize(("kind", "changes"), SHAPES, ids=shape_id)
def test_logits_equal_transformers_in_float32(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    reference = reference_model(kind, **changes)
    model = load_model(save_hf(reference, tmp_path), "float32", CPU)
    prompt = random_prompt(150, seed=1)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_from_gguf_equal_transformers(kind: str, tied: bool, tmp_path: Path) -> None:
    reference = reference_model(kind, tie_word_embeddings=tied)
    model = load_model(save_gguf(reference, tmp_path / "m.gguf"), "float32", CPU)
    prompt = random_prompt(60, seed=2)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rope_scaling_of_llama_3_is_read_from_gguf(kind: str, tmp_path: Path) -> None:
    reference = reference_model(kind, **ROPE)
    from_hf = load_model(save_hf(reference, tmp_path / "hf"), "float32", CPU)
    plain = reference_model(kind, rope_parameters={"rope_theta": LLAMA3_ROPE["rope_theta"]})
    # The divisors as transformers has them: what the converter writes.
    divisors = inverse_frequencies(plain) / inverse_frequencies(reference)
    extra = {"rope_freqs.weight": divisors.numpy()}
    source = save_gguf(reference, tmp_path / "m.gguf", extra=extra)
    prompt = random_prompt(150, seed=3)
    found = logits_of(load_model(source, "float32", CPU), prompt)
    torch.testing.assert_close(found, logits_of(from_hf, prompt), rtol=1e-4, atol=1e-4)
    assert 1 < divisors.max() <= LLAMA3_ROPE["factor"] and divisors.min() == 1


def inverse_frequencies(reference: Any) -> torch.Tensor:
    frequencies: torch.Tensor = reference.model.rotary_emb.inv_freq
    return frequencies


@pytest.mark.parametrize("packing", ["F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_packed_gguf_equals_transformers_on_the_unpacked_weights(
    kind: str, packing: str, tmp_path: Path
) -> None:
    reference = reference_model(kind)
    source = save_gguf(reference, tmp_path / "m.gguf", Kind[packing])
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 2:
                packed = gguf.quantize(parameter.numpy(), Kind[packing])
                unpacked = gguf.dequantize(packed, Kind[packing])
                parameter.copy_(torch.from_numpy(unpacked))
    prompt = random_prompt(30, seed=4)
    found = logits_of(load_model(source, "float32", CPU), prompt)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_near_float32(kind: str, tmp_path: Path) -> None:
    reference = reference_model(kind)
    model = load_model(save_hf(reference, tmp_path), "bfloat16", CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    prompt = random_prompt(40, seed=5)
    exact = reference_logits(reference, prompt)
    rounded = logits_of(model, prompt)
    assert rounded.dtype == torch.float32
    # No further away than what transformers makes of it.
    theirs = reference_logits(reference.to(torch.bfloat16), prompt)
    assert (rounded - exact).norm() < 1.25 * (theirs - exact).norm()


# --- windows and other refusals ------------------------------------------------------------------


def refusal(source: ModelSource) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(source, "float32", CPU)
    return str(caught.value)


def test_window_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    source = save_hf(reference_model("mistral", sliding_window=128), tmp_path)
    assert "sliding_window of 128 tokens in a context of 512" in refusal(source)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_window_in_the_upper_layers_only_is_refused(kind: str, tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 2}
    source = save_hf(reference_model(kind, **window), tmp_path)
    assert "sliding_window of 128" in refusal(source)
    change_config(source, lambda config: config.pop("layer_types"))  # as older files are
    assert "sliding_window of 128" in refusal(source)


def test_window_that_is_switched_off_does_not_matter(tmp_path: Path) -> None:
    source = save_hf(reference_model("qwen2"), tmp_path)
    change_config(source, lambda config: config.update(sliding_window=128))
    load_model(source, "float32", CPU)
    change_config(source, lambda config: config.pop("use_sliding_window"))
    load_model(source, "float32", CPU)


def test_window_from_a_layer_on_that_does_not_exist_is_none(tmp_path: Path) -> None:
    window = {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 3}
    source = save_hf(reference_model("qwen2", **window), tmp_path)
    change_config(source, lambda config: config.pop("layer_types"))
    load_model(source, "float32", CPU)
    change_config(source, lambda config: config.pop("max_window_layers"))  # then it is 28
    load_model(source, "float32", CPU)


def test_mistral_that_says_nothing_of_a_window_has_its_first_releases_one(tmp_path: Path) -> None:
    source = save_hf(reference_model("mistral", max_position_embeddings=8192), tmp_path)
    load_model(source, "float32", CPU)
    change_config(source, lambda config: config.pop("sliding_window"))
    assert "sliding_window of 4096 tokens in a context of 8192" in refusal(source)


@pytest.mark.parametrize(
    ("kind", "lacking"), [("qwen2", "k_proj.bias"), ("qwen3", "k_norm.weight")]
)
def test_checkpoint_of_another_architecture_lacks_what_this_one_has(
    kind: str, lacking: str, tmp_path: Path
) -> None:
    source = save_hf(reference_model("llama"), tmp_path)
    change_config(
        source, lambda config: config.update(architectures=[f"{kind.title()}ForCausalLM"])
    )
    with pytest.raises(ModelFileError, match=rf"lacks model\.layers\.0\.self_attn\.{lacking}"):
        load_model(source, "float32", CPU)
