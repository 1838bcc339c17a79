"""The fast paths beside the exact one on 4,000 tokens of prose, teacher-forced: the same text is
fed to both, so that no difference carries on.

Two promises, for the model on the file's codes (where this CPU multiplies bytes) and for each way
through the packed one: perplexity within 1 % of the same weights' in float32, and the same best
token wherever the two best are clearly apart. The packed head's logits come out in bfloat16, which
has steps of 1/8 between 16 and 32: what lies a few steps apart may change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from minivllm.attention.metadata import AttentionBackend, AttentionMetadata
from minivllm.attention.selector import select_native
from minivllm.attention.torch_backend import TorchAttention
from minivllm.models.causal_lm import CausalLM
from minivllm.models.loader import load_model
from minivllm.models.packed import MOST_INT4_HEAD_ROWS, MOST_INT4_ROWS
from minivllm.models.source import resolve
from minivllm.native import codes
from minivllm.tokenizer import get_tokenizer
from tests.native.sequences import needs_codes

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

PROSE = Path(__file__).parents[1] / "data" / "prose.txt"
MARGIN = 1.0
"""Two best tokens whose exact logits lie further apart must not change places."""
MOST_RATIO = 1.01
WINDOW = 512
"""Tokens of one sequence; each begins anew."""
BLOCK_SIZE = 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    ids = get_tokenizer(resolve("smollm2-135m")).encode(PROSE.read_text())
    assert len(ids) >= 4000
    return [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]


@dataclass
class Scored:
    """One window's tokens, scored."""

    best: torch.Tensor
    """(tokens,) the likeliest next token"""
    gap: torch.Tensor
    """(tokens,) from its logit to the second best's"""
    loss: float
    """Sum over the text of -log p(next token)."""


@pytest.fixture(scope="module")
def exact(windows: list[list[int]]) -> list[Scored]:
    model = load_model(resolve("smollm2-135m"), "float32", CPU)
    return [score(model, TorchAttention(), ids, WINDOW, 64) for ids in windows]


def score(
    model: CausalLM, backend: AttentionBackend, ids: list[int], per_step: int, rows: int
) -> Scored:
    best, gaps, loss = [], [], 0.0
    following = torch.tensor([*ids[1:], -1])
    for some in logits(model, backend, ids, per_step, rows):
        top = some.topk(2)
        best.append(top.indices[:, 0])
        gaps.append(top.values[:, 0] - top.values[:, 1])
        wanted, following = following[: len(some)], following[len(some) :]
        known = wanted >= 0  # after the last token nothing is known
        loss -= float(some.log_softmax(-1)[known].gather(1, wanted[known][:, None]).sum())
    return Scored(torch.cat(best), torch.cat(gaps), loss)


@torch.inference_mode()
def logits(
    model: CausalLM, backend: AttentionBackend, ids: list[int], per_step: int, rows: int
) -> Iterator[torch.Tensor]:
    """Of every token of one sequence that is fed ``per_step`` tokens at a time; ``rows`` at once
    are scored."""
    count, spec = len(ids), model.spec
    num_blocks = -(-count // BLOCK_SIZE)
    shape = backend.kv_cache_shape(num_blocks + 1, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim)
    caches = [torch.zeros(shape, dtype=model.embed_tokens.dtype) for _ in model.layers]
    for begin in range(0, count, per_step):
        end = min(begin + per_step, count)
        metadata = AttentionMetadata(
            query_start_loc=torch.tensor([0, end - begin], dtype=torch.int32),
            seq_lens=torch.tensor([end], dtype=torch.int32),
            block_table=torch.arange(1, num_blocks + 1, dtype=torch.int32)[None],
            slot_mapping=torch.arange(BLOCK_SIZE + begin, BLOCK_SIZE + end),
        )
        step = backend.prepare(metadata, BLOCK_SIZE)
        hidden = model(torch.tensor(ids[begin:end]), torch.arange(begin, end), caches, step)
        for some in hidden.split(rows):
            yield model.compute_logits(some)


@pytest.mark.parametrize(
    ("on_codes", "per_step", "rows"),
    [
        pytest.param(True, WINDOW, 64, marks=needs_codes, id="codes"),
        pytest.param(False, WINDOW, 64, id="many tokens: bfloat16"),
        pytest.param(False, MOST_INT4_ROWS, MOST_INT4_HEAD_ROWS, id="few tokens: 4 bit"),
    ],
)
def test_perplexity_and_best_tokens_are_the_exact_models(
    on_codes: bool,
    per_step: int,
    rows: int,
    windows: list[list[int]],
    exact: list[Scored],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not on_codes:
        monkeypatch.setattr(codes, "available", lambda: False)
    model = load_model(resolve("smollm2-135m"), "bfloat16", CPU, "auto")
    assert model.has_int4 and model.kernels.startswith("codes") == on_codes
    native = select_native("auto", model.spec, torch.bfloat16)
    backend: AttentionBackend = TorchAttention()
    if native is not None:
        backend, operators = native
        model.use(operators)
    loss, exact_loss, count = 0.0, 0.0, 0
    for ids, expected in zip(windows, exact, strict=True):
        found = score(model, backend, ids, per_step, rows)
        gaps = expected.gap[found.best != expected.best]
        assert not bool((gaps > MARGIN).any()), f"changed places over a gap of {gaps.max()}"
        loss, exact_loss = loss + found.loss, exact_loss + expected.loss
        count += len(ids) - 1
    ratio = math.exp((loss - exact_loss) / count)
    print(f"perplexity {math.exp(loss / count):.3f}, exact {math.exp(exact_loss / count):.3f}")
    assert ratio <= MOST_RATIO, f"perplexity is {ratio:.4f} times the exact one's"
