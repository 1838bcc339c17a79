"""Explanation: what became of one row's logits, processor by processor, for the trace.

Filled only at trace level ``sampling``: the copies that it compares cost more than the draw. It
looks at the scores before and after each processor, so a processor need not know of it. No
counterpart in vLLM.
"""

from __future__ import annotations

import math

import torch

from minivllm.core.scheduler_output import ProcessorEffect, SampleDetail
from minivllm.sample.logits_processors import lowest_score
from minivllm.sample.row import SampleRow

TOP = 10
"""Tokens shown before, after, and of what a processor did."""


class Explanation:
    """Of one row. ``logits``: (vocab,), raw; ``normaliser``: their logsumexp, a scalar."""

    def __init__(self, logits: torch.Tensor, normaliser: torch.Tensor) -> None:
        self._before = _best(logits - normaliser)
        self._effects: list[ProcessorEffect] = []

    def watch(self, name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        """Note which scores a processor changed; nothing, if it changed none."""
        changed = (before != after).nonzero()[:, 0]  # (changed,) ids
        if not len(changed):
            return
        likeliest = changed[before[changed].topk(min(TOP, len(changed))).indices].tolist()
        masked = float(after[likeliest[0]]) == -math.inf
        self._effects.append(ProcessorEffect(name, masked, len(changed), likeliest))

    def finish(self, scores: torch.Tensor, row: SampleRow) -> SampleDetail:
        """Follow the processed ``scores``, (vocab,), through temperature and cuts to the
        distribution that is drawn from."""
        if row.params.greedy:
            return SampleDetail(self._before, [(int(scores.argmax()), 1.0)], self._effects)
        tempered = scores / row.params.temperature
        self.watch("temperature", scores, tempered)
        cut = lowest_score(tempered, row.params, self.watch)
        left = tempered.masked_fill(tempered < cut, -math.inf).log_softmax(-1)
        drawn_from = [(token_id, math.exp(value)) for token_id, value in _best(left)]
        return SampleDetail(self._before, drawn_from, self._effects)


def _best(logprobs: torch.Tensor) -> list[tuple[int, float]]:
    """The ``TOP`` largest with their ids, best first, without those that are -inf."""
    top = logprobs.topk(min(TOP, len(logprobs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [(token_id, value) for token_id, value in pairs if value > -math.inf]
