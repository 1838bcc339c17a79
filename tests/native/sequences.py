"""Sequences fed to a model on its file's codes, in any chunks, beside any others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import pytest
import torch

from minivllm.attention.metadata import AttentionBackend, AttentionMetadata
from minivllm.attention.native_backend import NativeAttention
from minivllm.models.causal_lm import CausalLM
from minivllm.models.loader import load_model
from minivllm.models.quantized import QuantizedLayer
from minivllm.models.source import ModelSource
from minivllm.native import build, codes
from minivllm.native.operators import NativeOperators
from tests.model.builders import CPU, reference_model, save_gguf

needs_codes = pytest.mark.skipif(
    not codes.available(), reason="this CPU does not multiply bytes (AVX-512 VNNI)"
)
SHAPE = {
    "vocab_size": 288,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
"""Heads that the compiled attention takes; sides that are whole panels and groups."""
Chunk = tuple[int, int]
"""(which sequence, how many of its tokens)"""


def tiny_gguf(
    directory: Path, packing: str, kind: str = "llama", seed: int = 0, **changes: object
) -> ModelSource:
    model = reference_model(kind, seed, **{**SHAPE, **changes})
    path = directory / f"{kind}-{packing}.gguf"
    return save_gguf(model, path, gguf.GGMLQuantizationType[packing], tokenizer=True)


def on_codes(source: ModelSource) -> CausalLM:
    """As a worker has it: with the compiled operators."""
    model, library = load_model(source, "bfloat16", CPU, "auto"), build.library()
    assert library is not None
    assert all(type(layer) is QuantizedLayer for layer in model.layers)
    assert model.kernels == "codes"
    model.use(NativeOperators(library))
    return model


@torch.inference_mode()
def logits_in_steps(
    model: CausalLM,
    prompts: Sequence[list[int]],
    steps: Sequence[Sequence[Chunk]],
    backend: AttentionBackend | None = None,
    block_size: int = 16,
) -> list[torch.Tensor]:
    """Of every token of every prompt, (tokens, vocab) each. A step is a batch of chunks."""
    spec, library = model.spec, build.library()
    assert library is not None
    backend = backend or NativeAttention(library, spec.num_heads, spec.num_kv_heads)
    blocks = max(-(-len(prompt) // block_size) for prompt in prompts)
    num_blocks = 1 + blocks * len(prompts)
    shape = backend.kv_cache_shape(num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
    caches = [torch.zeros(shape, dtype=model.embed_tokens.dtype) for _ in model.layers]
    # Sequences take turns at the blocks, so that nobody's lie side by side.
    tables = 1 + torch.arange(blocks * len(prompts), dtype=torch.int32).view(blocks, -1).T
    done = [0] * len(prompts)
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for step in steps:
        starts, lens, slots, ids, positions = [0], [], [], [], []
        for which, count in step:
            at = torch.arange(done[which], done[which] + count)
            slots.append(tables[which, at // block_size].long() * block_size + at % block_size)
            ids += prompts[which][done[which] : done[which] + count]
            positions.append(at)
            done[which] += count
            starts.append(starts[-1] + count)
            lens.append(done[which])
        metadata = AttentionMetadata(
            query_start_loc=torch.tensor(starts, dtype=torch.int32),
            seq_lens=torch.tensor(lens, dtype=torch.int32),
            block_table=tables[[which for which, _ in step]].contiguous(),
            slot_mapping=torch.cat(slots),
        )
        hidden = model(
            torch.tensor(ids), torch.cat(positions), caches, backend.prepare(metadata, block_size)
        )
        logits = model.compute_logits(hidden).split([count for _, count in step])
        for (which, _), some in zip(step, logits, strict=True):
            found[which].append(some)
    assert done == [len(prompt) for prompt in prompts]
    return [torch.cat(some) for some in found]


def alone(model: CausalLM, prompt: list[int], chunk: int | None = None) -> torch.Tensor:
    """Whole, or in chunks of so many tokens."""
    size = chunk or len(prompt)
    steps = [[(0, min(size, len(prompt) - at))] for at in range(0, len(prompt), size)]
    return logits_in_steps(model, [prompt], steps)[0]
