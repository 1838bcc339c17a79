"""Every architecture through the whole engine: greedy tokens equal transformers' ``generate``.

Chunked prefill, prefix caching and a pool so small that requests are preempted, all at once; the
trace shows that each did happen.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from minivllm import LLM, SamplingParams
from minivllm.trace.file import read_trace
from tests.model.builders import (
    KINDS,
    random_prompt,
    reference_logits,
    reference_model,
    save_gguf,
    save_hf,
    save_tokenizer,
)

OUTPUT_TOKENS = 24
MARGIN = 0.2
"""In standard deviations of the logits: four times what was measured. Another token than the best
two or three is some 2 away."""
SHARED = random_prompt(20, seed=100, vocab=256)
PROMPTS = [SHARED + random_prompt(length, seed=length, vocab=256) for length in (3, 25, 11, 18)]


@torch.inference_mode()
def generated(reference: Any, prompt: list[int]) -> list[int]:
    """Transformers' own; without an EOS it goes on to the last token asked for."""
    ids = reference.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=OUTPUT_TOKENS, eos_token_id=None
    )
    return ids[0, len(prompt) :].tolist()


def run(path: Path, trace: Path, dtype: str = "float32") -> tuple[list[list[int]], Counter[str]]:
    """The outputs, and how often each kind of event happened."""
    with LLM(
        str(path),
        dtype=dtype,
        block_size=4,
        num_kv_blocks=30,
        max_num_batched_tokens=16,
        max_num_seqs=4,
        trace=str(trace),
    ) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in PROMPTS],
            SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
            use_tqdm=False,
        )
    kinds = Counter(event.kind for event in read_trace(trace).engine_events)
    return [output.outputs[0].token_ids for output in outputs], kinds


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_transformers_under_chunks_preemption_and_shared_prefixes(
    kind: str, tmp_path: Path
) -> None:
    reference = reference_model(kind, vocab_size=272)
    source = save_hf(reference, tmp_path / kind)
    save_tokenizer(source.path)
    outputs, happened = run(source.path, tmp_path / "run.trace.jsonl")
    assert outputs == [generated(reference, prompt) for prompt in PROMPTS]
    for event in ("sched.chunk", "req.preempt", "kv.hit"):
        assert happened[event] > 0, event


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_gguf_gives_the_same_tokens(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIVLLM_HOME", str(tmp_path / "home"))  # where tokenizers are kept
    reference = reference_model(kind, vocab_size=272)
    source = save_gguf(reference, tmp_path / f"{kind}.gguf", tokenizer=True)
    outputs, _ = run(source.path, tmp_path / "run.trace.jsonl")
    assert outputs == [generated(reference, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_takes_no_token_that_float32_finds_clearly_worse(
    kind: str, tmp_path: Path
) -> None:
    """Teacher-forced, as a path whose last bits depend on the batch is checked."""
    reference = reference_model(kind, vocab_size=272)
    source = save_hf(reference, tmp_path / kind)
    save_tokenizer(source.path)
    outputs, happened = run(source.path, tmp_path / "run.trace.jsonl", dtype="bfloat16")
    assert happened["req.preempt"] > 0
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert len(output) == OUTPUT_TOKENS
        logits = reference_logits(reference, prompt + output)[len(prompt) - 1 : -1]
        taken = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
        assert bool((logits.max(dim=1).values - taken < MARGIN * logits.std()).all())
