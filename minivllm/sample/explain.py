"""explain_row: what became of one row's logits, processor by processor, for the trace.

Made only at trace level ``sampling``, on the host, after the draw: the row is processed once more,
and what it looks at costs more than the draw. It compares the scores before and after each
processor, so a processor need not know of it. No counterpart in vLLM.
"""

from __future__ import annotations

import math

import torch

from minivllm.core.scheduler_output import ProcessorEffect, SampleDetail
from minivllm.sample.logits_processors import lowest_score, process
from minivllm.sample.row import SampleRow

TOP = 10
"""Tokens shown before, after, and of what a processor did."""


def explain_row(logits: torch.Tensor, normaliser: float, row: SampleRow) -> SampleDetail:
    """``logits``: (vocab,) float32, raw, and the row's bitmask, both on the host; ``normaliser``:
    the logits' logsumexp.

    Follows the row through its processors, the temperature and the cuts to the distribution that
    is drawn from.
    """
    before = _best(logits - normaliser)
    effects: list[ProcessorEffect] = []

    def watch(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        """Note which scores a processor changed; nothing, if it changed none."""
        changed = (before != after).nonzero()[:, 0]  # (changed,) ids
        if not len(changed):
            return
        likeliest = changed[before[changed].topk(min(TOP, len(changed))).indices].tolist()
        masked = float(after[likeliest[0]]) == -math.inf
        effects.append(ProcessorEffect(name, masked, len(changed), likeliest))

    scores = process(logits, row, watch)
    if row.params.greedy:
        return SampleDetail(before, [(int(scores.argmax()), 1.0)], effects)
    tempered = scores / row.params.temperature
    watch("temperature", scores, tempered)
    cut = lowest_score(tempered, row.params, watch)
    left = tempered.masked_fill(tempered < cut, -math.inf).log_softmax(-1)
    drawn_from = [(token_id, math.exp(value)) for token_id, value in _best(left)]
    return SampleDetail(before, drawn_from, effects)


def _best(logprobs: torch.Tensor) -> list[tuple[int, float]]:
    """The ``TOP`` largest with their ids, best first, without those that are -inf."""
    top = logprobs.topk(min(TOP, len(logprobs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [(token_id, value) for token_id, value in pairs if value > -math.inf]
