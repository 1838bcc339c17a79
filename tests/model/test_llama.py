"""The forward pass against transformers, in every shape a Llama checkpoint comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minivllm.models.loader import choose_dtype, load_model
from tests.model.builders import (
    CPU,
    LLAMA3_ROPE,
    logits_of,
    random_prompt,
    reference_llama,
    reference_logits,
    save_hf,
)

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "a K/V head per query head": {"num_key_value_heads": 4},
    "one K/V head": {"num_key_value_heads": 1},
    "untied head": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "heads wider than hidden / heads": {"head_dim": 32},
    "large rope theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "Llama 3 rope scaling": {"rope_parameters": LLAMA3_ROPE},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_transformers_in_float32(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_llama(**changes)
    model = load_model(save_hf(reference, tmp_path), "float32", CPU)
    prompt = random_prompt(150, seed=1)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-4, atol=1e-4)


def test_sharded_files_give_the_same_model(tmp_path: Path) -> None:
    reference = reference_llama(tie_word_embeddings=False)
    save_hf(reference, tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model = load_model(save_hf(reference, tmp_path, max_shard_size="100KB"), "float32", CPU)
    prompt = random_prompt(20, seed=2)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    reference = reference_llama()
    source = save_hf(reference, tmp_path)
    model = load_model(source, "bfloat16", CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    prompt = random_prompt(40, seed=3)
    exact = reference_logits(reference, prompt)
    rounded = logits_of(model, prompt)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.03


def test_auto_dtype_is_float32_on_a_cpu_and_bfloat16_on_a_gpu() -> None:
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_a_token_depends_on_its_past_only(tmp_path: Path) -> None:
    model = load_model(save_hf(reference_llama(), tmp_path), "float32", CPU)
    prompt = random_prompt(40, seed=4)
    whole = logits_of(model, prompt)
    part = logits_of(model, prompt[:25])
    torch.testing.assert_close(whole[:25], part, rtol=1e-4, atol=1e-4)
