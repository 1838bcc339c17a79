"""GGUF files: the same model as from safetensors, every packing, and damaged files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivllm.errors import ModelError, ModelFileError, UnsupportedModelError
from minivllm.models.gguf import undo_permutation
from minivllm.models.gguf_file import GGUFFile
from minivllm.models.loader import load_model, open_checkpoint
from minivllm.models.source import ModelSource
from tests.model.builders import (
    CPU,
    logits_of,
    permute_for_gguf,
    random_prompt,
    reference_llama,
    reference_logits,
    save_gguf,
)

Kind = gguf.GGMLQuantizationType


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_model_from_gguf_equals_transformers_on_the_same_weights(
    tied: bool, tmp_path: Path
) -> None:
    reference = reference_llama(tie_word_embeddings=tied)
    model = load_model(save_gguf(reference, tmp_path / "m.gguf"), "float32", CPU)
    prompt = random_prompt(60, seed=5)
    expected = reference_logits(reference, prompt)
    torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-4, atol=1e-4)


def test_permutation_of_q_and_k_is_undone() -> None:
    rows = np.arange(4 * 16 * 3, dtype=np.float32).reshape(64, 3)
    restored = undo_permutation(torch.from_numpy(permute_for_gguf(rows, 4)), 4)
    assert np.array_equal(restored.numpy(), rows)
    assert not np.array_equal(permute_for_gguf(rows, 4), rows)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_every_packing_unpacks_as_the_gguf_package_does(name: str, tmp_path: Path) -> None:
    reference = reference_llama()
    kind = Kind[name]
    source = save_gguf(reference, tmp_path / "m.gguf", kind)
    file = GGUFFile(source.path)
    original = reference.state_dict()["model.layers.2.mlp.down_proj.weight"].numpy()
    expected = gguf.dequantize(gguf.quantize(original, kind), kind)
    loaded = file.load("blk.2.ffn_down.weight").float().numpy()
    np.testing.assert_allclose(loaded, expected, rtol=1e-6, atol=1e-7)
    logits = logits_of(load_model(source, "float32", CPU), random_prompt(10, seed=6))
    assert bool(logits.isfinite().all())


def test_metadata_of_every_type_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values = {
        "t.bool": True,
        "t.int": -7,
        "t.uint": 2**40,
        "t.float": 0.25,
        "t.text": "žluťoučký 🐎",
        "t.ints": [1, -2, 3],
        "t.texts": ["a", "", "ß"],
        "t.floats": [0.5, -1.5],
    }
    for key, value in values.items():
        large = isinstance(value, int) and value > 2**31
        kind = gguf.GGUFValueType.UINT64 if large else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, kind)
    writer.add_tensor("odd", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    for key, value in values.items():
        found = file.metadata[key]
        assert (list(found) if isinstance(value, list) else found) == value, key
    assert file.load("odd").tolist() == [0, 1, 2, 3, 4]


# --- broken files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    save_gguf(reference_llama(num_hidden_layers=1), path, Kind.Q8_0)
    return path.read_bytes()


def load_bytes(content: bytes, directory: Path) -> None:
    path = directory / "broken.gguf"
    path.write_bytes(content)
    load_model(ModelSource("gguf", path, "broken"), "float32", CPU)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0, 1, exclude_max=True))
def test_file_cut_short_anywhere_is_named(
    whole: bytes, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        load_bytes(whole[: int(share * len(whole))], tmp_path_factory.mktemp("cut"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, 2000), value=st.integers(0, 255))
def test_damaged_header_gives_a_named_error_or_a_model(
    whole: bytes, at: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = bytearray(whole)
    damaged[at] = value
    try:
        load_bytes(bytes(damaged), tmp_path_factory.mktemp("damaged"))
    except ModelError:
        pass


def test_what_is_no_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="GGUF"):
        load_bytes(b"PK\x03\x04" + bytes(100), tmp_path)


def test_other_version_lists_the_supported_ones(whole: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"version 9; supported: \(2, 3\)"):
        load_bytes(whole[:4] + struct.pack("<I", 9) + whole[8:], tmp_path)


def test_unknown_architecture_lists_the_supported_ones(tmp_path: Path) -> None:
    source = save_gguf(reference_llama(), tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(
        UnsupportedModelError, match="'mamba'; supported in GGUF: llama, qwen2, qwen3"
    ):
        load_model(source, "float32", CPU)


def test_rope_frequencies_of_another_number_than_the_heads_are_named(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.ones(5, dtype=np.float32)}
    source = save_gguf(reference_llama(), tmp_path / "m.gguf", extra=extra)
    with pytest.raises(ModelFileError, match="by 5 numbers; that must be 8"):
        load_model(source, "float32", CPU)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rope.scaling.type", "yarn", "yarn"),
        ("attention.sliding_window", 128, "sliding_window of 128 tokens in a context of 512"),
    ],
)
def test_option_in_gguf_that_is_not_implemented_is_refused_not_ignored(
    key: str, value: Any, says: str, tmp_path: Path
) -> None:
    source = save_gguf(reference_llama(), tmp_path / "m.gguf", metadata={f"llama.{key}": value})
    with pytest.raises(UnsupportedModelError, match=says):
        load_model(source, "float32", CPU)


def test_unknown_tensor_type_lists_the_supported_ones(whole: bytes, tmp_path: Path) -> None:
    entry = b"blk.0.attn_q.weight"
    at = whole.index(entry) + len(entry) + 4 + 2 * 8  # past the number of sizes and two sizes
    broken = whole[:at] + struct.pack("<I", 9999) + whole[at + 4 :]
    with pytest.raises(UnsupportedModelError, match="9999; supported: F32, F16"):
        load_bytes(broken, tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(
    tmp_path: Path,
) -> None:
    source = save_gguf(reference_llama(vocab_size=200), tmp_path / "m.gguf", tokenizer=True)
    with pytest.raises(ModelFileError, match="tokenizer of 260 tokens and a model of only 200"):
        open_checkpoint(source)
