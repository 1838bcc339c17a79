"""The registry: what is in it, and an architecture of one's own, from a file to the last token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minivllm import LLM, SamplingParams
from minivllm.errors import UnsupportedModelError
from minivllm.models.loader import load_model
from minivllm.models.registry import MODELS, find, gguf_names, register
from minivllm.models.source import ModelSource
from tests.conftest import ROOT, RunPython
from tests.model import made_up
from tests.model.builders import (
    CPU,
    logits_of,
    random_prompt,
    reference_model,
    save_gguf,
    save_hf,
    save_tokenizer,
)
from tests.model.test_hf_files import change_config

NAME = "SideBySideForCausalLM"


@pytest.fixture
def registered() -> Iterator[None]:
    register(NAME, made_up.ARCHITECTURE)
    yield
    del MODELS[NAME]


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """The made-up model's files: a Qwen3's without the second norm of each layer."""
    reference = reference_model("qwen3", vocab_size=272)
    source = save_hf(reference, tmp_path / "side-by-side")
    weights = load_file(source.path / "model.safetensors")
    kept = {name: t for name, t in weights.items() if "post_attention_layernorm" not in name}
    save_file(kept, source.path / "model.safetensors")
    change_config(source, lambda config: config.update(architectures=[NAME], damping=0.5))
    save_tokenizer(source.path)
    return source


@torch.inference_mode()
def greedy(source: ModelSource, prompt: list[int], count: int) -> list[int]:
    """The whole sequence once more for each token: no cache, no scheduler."""
    model = load_model(source, "float32", CPU)
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_of(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def test_made_up_architecture_in_one_short_file_runs_through_llm(
    registered: None, source: ModelSource
) -> None:
    assert len(Path(made_up.__file__).read_text().splitlines()) < 40
    prompts = [random_prompt(length, seed=length, vocab=256) for length in (5, 30, 17)]
    with LLM(str(source.path), dtype="float32", block_size=4, max_num_batched_tokens=16) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=8, ignore_eos=True),
            use_tqdm=False,
        )
    found = [output.outputs[0].token_ids for output in outputs]
    assert found == [greedy(source, prompt, 8) for prompt in prompts]


def test_numbers_that_only_one_architecture_has_reach_its_layers(
    registered: None, source: ModelSource
) -> None:
    prompt = random_prompt(10, seed=1)
    damped = logits_of(load_model(source, "float32", CPU), prompt)
    change_config(source, lambda config: config.update(damping=1.0))
    assert not torch.allclose(damped, logits_of(load_model(source, "float32", CPU), prompt))


def test_registered_architecture_is_listed_and_known_to_both_readers(
    registered: None, tmp_path: Path
) -> None:
    assert gguf_names()["sidebyside"] == NAME
    unknown = save_hf(reference_model("llama"), tmp_path / "m")
    change_config(unknown, lambda config: config.update(architectures=["MambaForCausalLM"]))
    with pytest.raises(UnsupportedModelError, match=rf"MambaForCausalLM; supported: .*{NAME}"):
        load_model(unknown, "float32", CPU)
    unknown = save_gguf(reference_model("llama"), tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(UnsupportedModelError, match=r"'mamba'; supported in GGUF: .*sidebyside"):
        load_model(unknown, "float32", CPU)


def test_a_registered_name_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "Qwen2ForCausalLM", "qwen2")  # put back afterwards
    register("Qwen2ForCausalLM", made_up.ARCHITECTURE)
    assert find("Qwen2ForCausalLM") is made_up.ARCHITECTURE


def test_every_entry_names_a_file_with_an_architecture() -> None:
    for name, module in MODELS.items():
        assert (ROOT / f"minivllm/models/{module}.py").is_file()
        assert find(name).build is not None
    assert gguf_names() == {
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
    }


def test_list_of_what_is_supported_needs_no_torch(python_without: RunPython) -> None:
    result = python_without("from minivllm.models.registry import MODELS; print(*MODELS)")
    assert result.stdout.split() == list(MODELS), result.stderr
