"""The draw on a GPU: all rows at once, and no look at a number on the way.

``sampler.draw`` looks: how many tokens are left decides how many it sorts and makes noise for. On a
GPU each look waits for the whole step (``transfer.py``), and work over the vocabulary is cheap. So
here shapes depend on nothing but the parameters, which the host knows: every token gets its noise,
and the scores are sorted as far down as the largest top_k, to the end if a row has top_p alone. The
cuts are those of ``logits_processors.py``, the noise is the same, and so is the token; where
rounding decides whether top_p has been reached, two devices may differ.

Counterpart in vLLM: ``vllm/v1/sample/ops/topk_topp_sampler.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from minivllm.sample.noise import gumbel_of, stream
from minivllm.sample.row import SampleRow
from minivllm.sample.transfer import send
from minivllm.sampling_params import SamplingParams


def draw_batch(scores: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """One token per row, (num_rows, vocab) → (num_rows,) int64. A row of NaN, or in which nothing
    is left, gets any token."""
    device = scores.device
    params = [row.params for row in rows]
    scores = scores / _column([p.temperature for p in params], device)
    streams = send([[stream(row.seed, row.position)] for row in rows], np.int64, device)
    noise = gumbel_of(streams, torch.arange(scores.shape[1], device=device))  # (num_rows, vocab)
    cut = lowest_scores(scores, params)  # (num_rows, 1)
    return noise.add_(scores).masked_fill_(scores < cut, -math.inf).argmax(-1)


def lowest_scores(scores: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """What a score must reach to be drawn at all, (num_rows, vocab) → (num_rows, 1); -inf if
    nothing is cut off."""
    device, vocab = scores.device, scores.shape[1]
    cut = torch.full_like(scores[:, :1], -math.inf)
    if any(p.min_p > 0 for p in params):
        below = [[math.log(p.min_p) if p.min_p > 0 else -math.inf] for p in params]
        # In float64, as the host adds.
        cut = (scores.amax(-1, keepdim=True).double() + send(below, np.float64, device)).float()
    top_k = [p.top_k if 0 < p.top_k < vocab else vocab for p in params]
    need = [k if k < vocab or p.top_p < 1 else 1 for k, p in zip(top_k, params, strict=True)]
    depth = max(need)
    best = scores.topk(depth).values  # (num_rows, depth), descending
    if any(k < vocab for k in top_k):
        kth = best.gather(1, send([[min(k, depth) - 1] for k in top_k], np.int64, device))
        limited = send([[k < vocab] for k in top_k], np.bool_, device)
        cut = torch.where(limited, torch.maximum(cut, kth), cut)
    if any(p.top_p < 1 for p in params):
        total = scores.masked_fill(scores < cut, -math.inf).logsumexp(-1, keepdim=True)
        mass = (best - total).exp().cumsum(-1)
        wanted = _column([p.top_p for p in params], device)
        last = (mass < wanted).sum(-1, keepdim=True).clamp_(max=depth - 1)
        # Ties behind the k-th token are not in ``best``; they have its score, so its cut is right.
        cut = torch.where(wanted < 1, torch.maximum(cut, best.gather(1, last)), cut)
    return cut


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return send([[value] for value in values], np.float32, device)  # (num_rows, 1)
