"""A whole small model on the Triton kernels: the same greedy tokens as on torch's."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm import LLM, SamplingParams
from minivllm.trace.file import Trace, read_trace
from tests.model.builders import random_prompt, reference_model, save_hf, save_tokenizer

SHARED = random_prompt(8, seed=100)
PROMPTS = [SHARED + random_prompt(length, seed=length) for length in (3, 14, 6)]
OUTPUT_TOKENS = 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3: the architecture that uses every kernel; it normalises heads, too."""
    directory = tmp_path_factory.mktemp("small") / "qwen3"
    save_hf(reference_model("qwen3", num_hidden_layers=2, vocab_size=260), directory)
    save_tokenizer(directory)
    return directory


def run(path: Path, trace: Path, backend: str) -> tuple[list[list[int]], Trace]:
    with LLM(
        str(path),
        dtype="float32",
        attention_backend=backend,
        block_size=4,
        num_kv_blocks=11,
        max_num_batched_tokens=12,
        max_num_seqs=3,
        trace=str(trace),
    ) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in PROMPTS],
            SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
            use_tqdm=False,
        )
    return [list(output.outputs[0].token_ids) for output in outputs], read_trace(trace)


def test_a_model_says_the_same_on_triton_and_on_torch(path: Path, tmp_path: Path) -> None:
    """With chunked prefill, prefix hits, and a pool too small for all three."""
    on_torch, _ = run(path, tmp_path / "torch.jsonl", "auto")  # on a CPU: torch
    on_triton, trace = run(path, tmp_path / "triton.jsonl", "triton")
    assert on_triton == on_torch
    assert trace.header.kernel_path == "triton-interpreted"
    kinds = {event.kind for event in trace.engine_events}
    assert {"sched.chunk", "kv.hit", "req.preempt"} <= kinds
