"""Raw logprobs: the log-softmax of logits that no processor has touched, for whoever asks.

Of the tokens that were sampled, and of a prompt's own tokens. Counterpart in vLLM:
``Sampler.gather_logprobs`` in ``vllm/v1/sample/sampler.py``. Left out: logprobs after processing
(``--logprobs-mode``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from minivllm.core.scheduler_output import TokenLogprobs


def gather_logprobs(
    logits: torch.Tensor,
    normaliser: torch.Tensor,
    token_ids: torch.Tensor,
    num_top: Sequence[int],
) -> list[TokenLogprobs]:
    """Row i: the logprob and rank of ``token_ids[i]``, and the ``num_top[i]`` most likely tokens.

    ``logits``: (num_rows, vocab) float32; ``normaliser``: (num_rows,), their logsumexp
    (zeros, where the rows are logprobs already);
    ``token_ids``: (num_rows,).
    """
    chosen = logits.gather(1, token_ids[:, None])  # (num_rows, 1)
    ranks = (logits > chosen).count_nonzero(-1) + 1
    asking = [i for i, count in enumerate(num_top) if count]
    most = min(max(num_top, default=0), logits.shape[1])
    rows = logits if len(asking) == len(num_top) else logits[asking]  # no copy where all ask
    top, top_ids = rows.topk(most)  # (asking, most)
    top_logprobs = top - normaliser[asking, None]
    ids, rank, values, ids_of_top, values_of_top = _to_host(
        token_ids, ranks, chosen[:, 0] - normaliser, top_ids, top_logprobs
    )
    tops: dict[int, list[tuple[int, float]]] = {}
    for k, i in enumerate(asking):
        first = k * most
        best = slice(first, first + num_top[i])
        tops[i] = list(zip(map(int, ids_of_top[best]), values_of_top[best], strict=True))
    return [
        TokenLogprobs(int(token_id), values[i], int(rank[i]), tops.get(i, []))
        for i, token_id in enumerate(ids)
    ]


def _to_host(*tensors: torch.Tensor) -> list[list[float]]:
    """Their numbers, flat, in one transfer, so that a GPU is waited for once. float64 holds every
    float32 and every index as they are."""
    numbers = torch.cat([tensor.flatten().double() for tensor in tensors]).tolist()
    ends = list(itertools.accumulate(tensor.numel() for tensor in tensors))
    return [numbers[end - tensor.numel() : end] for tensor, end in zip(tensors, ends, strict=True)]
