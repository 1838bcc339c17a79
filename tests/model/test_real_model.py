"""The real SmolLM2-135M from its GGUF: our weights, logits and tokens against transformers'."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minivllm.attention.torch_backend import TorchAttention
from minivllm.models.causal_lm import CausalLM
from minivllm.models.gguf import GGUFCheckpoint
from minivllm.models.loader import load_model
from minivllm.models.source import ModelSource
from minivllm.tokenizer import get_tokenizer
from minivllm.worker.model_runner import ModelRunner
from tests.model.builders import CPU, logits_of, reference_greedy, reference_logits
from tests.model.driver import Driver

pytestmark = pytest.mark.model

TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n",
    "À l'été, le café était fermé ; où est-ce que",
    "東京の天気は今日🙂",
]


@pytest.fixture(scope="module")
def model(smollm2: ModelSource) -> CausalLM:
    return load_model(smollm2, "float32", CPU)


@pytest.fixture(scope="module")
def prompts(smollm2: ModelSource) -> list[list[int]]:
    tokenizer = get_tokenizer(smollm2)
    return [tokenizer.encode(text) for text in TEXTS]


def test_every_weight_equals_the_one_transformers_reads(
    smollm2: ModelSource, transformers_smollm2: Any
) -> None:
    """Bit for bit: the unpacking of Q4_1 and Q8_0 and the order of the rows of Q and K."""
    expected = transformers_smollm2.state_dict()
    names = set()
    for name, tensor in GGUFCheckpoint(smollm2.path).weights():
        assert torch.equal(tensor, expected[name]), name
        names.add(name)
    assert set(expected) - names == {"lm_head.weight"}  # tied to the embedding


def test_logits_equal_transformers(
    model: CausalLM, transformers_smollm2: Any, prompts: list[list[int]]
) -> None:
    for prompt in prompts:
        expected = reference_logits(transformers_smollm2, prompt)
        torch.testing.assert_close(logits_of(model, prompt), expected, rtol=1e-3, atol=1e-3)


def test_greedy_tokens_equal_transformers_in_a_mixed_batch(
    model: CausalLM, transformers_smollm2: Any, prompts: list[list[int]]
) -> None:
    expected = [reference_greedy(transformers_smollm2, prompt, 8) for prompt in prompts]
    d = Driver(ModelRunner(model, TorchAttention(), 16, CPU))
    names = [f"r{i}" for i in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        d.add(name, prompt)
    d.step({"r0": len(prompts[0]), "r1": 4})
    d.step({"r0": 1, "r1": len(prompts[1]) - 4, "r2": len(prompts[2]), "r3": len(prompts[3])})
    while any(len(d.requests[name].output) < 8 for name in names):
        d.step({name: 1 for name in names if len(d.requests[name].output) < 8})
    assert [d.requests[name].output for name in names] == expected


def test_bfloat16_agrees_wherever_the_two_best_logits_are_apart(
    model: CausalLM, smollm2: ModelSource, prompts: list[list[int]]
) -> None:
    """Teacher-forced, as a path whose numbers are rounded is checked: margin 1.0 in the logits."""
    rounded = load_model(smollm2, "bfloat16", CPU)
    for prompt in prompts[:1]:
        exact, other = logits_of(model, prompt), logits_of(rounded, prompt)
        best = exact.topk(2, dim=-1).values
        clear = best[:, 0] - best[:, 1] > 1.0
        assert int(clear.sum()) > 0
        assert torch.equal(exact.argmax(-1)[clear], other.argmax(-1)[clear])
