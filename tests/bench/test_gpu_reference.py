"""``bench gpu``'s first question, asked of the real model: does it say what transformers says?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minivllm.bench.gpu import engine
from minivllm.bench.gpu.check import Check
from minivllm.models.source import ModelSource
from minivllm.tokenizer import get_tokenizer

END, COUNT = 2, 32


@pytest.mark.model
def test_tokens_equal_transformers_beyond_an_end_token(
    smollm2: ModelSource, transformers_smollm2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side may stop there, and neither may put it off."""

    def tokenizer(prompt: str, **_: Any) -> SimpleNamespace:
        """Ours: it takes transformers seconds to read its own, which is the same."""
        return SimpleNamespace(input_ids=torch.tensor([get_tokenizer(smollm2).encode(prompt)]))

    said: list[list[int]] = []
    greedy = engine.greedy

    def listening(*arguments: Any, **flags: Any) -> tuple[list[list[int]], float]:
        answers, seconds = greedy(*arguments, **flags)
        said.extend(answers)
        return answers, seconds

    monkeypatch.setattr(engine, "PROMPTS", engine.PROMPTS[:1])
    monkeypatch.setattr(engine, "reference", lambda *_: (transformers_smollm2, tokenizer))
    monkeypatch.setattr(engine, "greedy", listening)
    check = Check("tokens against transformers")
    engine.equals_transformers(check, str(smollm2.path), torch.device("cpu"), COUNT)
    assert END in said[0][:-1], "else this test would not go through one"
    assert check.state == "passed", check.words
    assert (check.rows[0]["same_tokens"], check.rows[0]["of"]) == (COUNT, COUNT)
