"""Broken and unknown Hugging Face directories: each ends in a named error that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from minivllm.errors import ModelFileError, UnsupportedModelError
from minivllm.models.loader import load_model
from minivllm.models.source import ModelSource
from tests.model.builders import CPU, reference_llama, save_hf


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return save_hf(reference_llama(), tmp_path)


def change_config(source: ModelSource, change: Callable[[dict[str, Any]], object]) -> None:
    path = source.path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


ALL = "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architectures": ["MambaForCausalLM"]}, ALL),
    "no architecture": ({"architectures": None}, ALL),
    "architecture of a wrong type": ({"architectures": [["LlamaForCausalLM"]]}, ALL),
    "one name, unknown": ({"architectures": "MambaForCausalLM"}, "architecture MambaForCausalLM"),
    "activation": ({"hidden_act": "gelu"}, "supported: silu"),
    "rope": ({"rope_parameters": {"rope_type": "yarn"}}, "supported: default, llama3"),
    "quantised": ({"quantization_config": {"bits": 4}}, "supported: float32, float16, bfloat16"),
    "heads": ({"num_key_value_heads": 3}, "multiple"),
}


@pytest.mark.parametrize(("fields", "says"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_implemented_is_named_with_what_is(
    source: ModelSource, fields: dict[str, Any], says: str
) -> None:
    change_config(source, lambda config: config.update(fields))
    with pytest.raises(UnsupportedModelError, match=says):
        load_model(source, "float32", CPU)


def test_an_architecture_that_is_one_name_and_no_list_is_taken(source: ModelSource) -> None:
    change_config(source, lambda config: config.update(architectures="LlamaForCausalLM"))
    assert load_model(source, "float32", CPU).spec.architecture == "LlamaForCausalLM"


def test_unknown_kind_of_files_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="gguf, safetensors"):
        load_model(ModelSource("onnx", tmp_path, "x"), "float32", CPU)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"a":' * 20_000], ids=range(5))
def test_damaged_config_is_named(source: ModelSource, content: str) -> None:
    (source.path / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_model(source, "float32", CPU)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_attention_heads"])
def test_missing_field_is_named(source: ModelSource, field: str) -> None:
    change_config(source, lambda config: config.pop(field))
    with pytest.raises(ModelFileError, match=field):
        load_model(source, "float32", CPU)


def test_field_of_the_wrong_type_is_named(source: ModelSource) -> None:
    change_config(source, lambda config: config.update(hidden_size="wide"))
    with pytest.raises(ModelFileError, match="wide"):
        load_model(source, "float32", CPU)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("rms_norm_eps", eps) for eps in (0, -1, 3, 1e12)),
        *(("eos_token_id", i) for i in ("x", -1, 10**9, [1, 10**9], True)),
        *((name, "yes") for name in ("tie_word_embeddings", "attention_bias", "mlp_bias")),
        ("use_sliding_window", "no"),
        ("layer_types", ["foo", "bar"]),
        ("layer_types", ["full_attention"]),
        ("layer_types", "full_attention"),
        ("rope_parameters", {"factor": 2}),
        ("rope_parameters", [1]),
    ],
)
def test_value_that_no_model_has_is_named(source: ModelSource, field: str, value: Any) -> None:
    """Each would load, and the text be another, or nonsense."""
    change_config(source, lambda config: config.update({field: value}))
    named = "factor and no rope_type" if value == {"factor": 2} else field
    with pytest.raises(ModelFileError, match=named):
        load_model(source, "float32", CPU)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -4])
def test_weights_cut_short_are_named(source: ModelSource, keep: int) -> None:
    path = source.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="Fetch it again"):
        load_model(source, "float32", CPU)


def rewrite(source: ModelSource, change: Callable[[dict[str, Any]], object]) -> None:
    path = source.path / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_missing_tensor_is_named(source: ModelSource) -> None:
    rewrite(source, lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(ModelFileError, match=r"lacks model\.layers\.1\.self_attn\.k_proj") as error:
        load_model(source, "float32", CPU)
    assert str(source.path) in str(error.value) and "Fetch it again" in str(error.value)


def test_unknown_tensor_is_named(source: ModelSource) -> None:
    rewrite(source, lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()))
    with pytest.raises(ModelFileError, match="extra"):
        load_model(source, "float32", CPU)


def test_tensor_of_another_shape_is_named(source: ModelSource) -> None:
    change_config(source, lambda config: config.update(vocab_size=150))
    with pytest.raises(ModelFileError, match=r"embed_tokens.*\(160, 64\).*\(150, 64\)"):
        load_model(source, "float32", CPU)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    source = save_hf(reference_llama(), tmp_path, max_shard_size="100KB")
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(ModelFileError, match=victim.name):
        load_model(source, "float32", CPU)


def test_index_cannot_name_a_file_outside_its_directory(tmp_path: Path) -> None:
    outside = save_hf(reference_llama(), tmp_path / "outside")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "config.json").write_text((outside.path / "config.json").read_text())
    index = {"weight_map": {"model.norm.weight": "../outside/model.safetensors"}}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=r"lacks model\.safetensors"):
        load_model(ModelSource("safetensors", inside, "inside"), "float32", CPU)
