"""Raw logprobs: the log-softmax of logits that no processor has touched, for whoever asks.

Of the tokens that were sampled, and of a prompt's own tokens. Counterpart in vLLM:
``Sampler.gather_logprobs`` in ``vllm/v1/sample/sampler.py``. Left out: logprobs after processing
(``--logprobs-mode``).
"""

from __future__ import annotations

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
    ranks = ((logits > chosen).count_nonzero(-1) + 1).tolist()
    values = (chosen[:, 0] - normaliser).tolist()
    tops = _most_likely(logits, normaliser, num_top)
    return [
        TokenLogprobs(token_id, values[i], ranks[i], tops.get(i, []))
        for i, token_id in enumerate(token_ids.tolist())
    ]


def _most_likely(
    logits: torch.Tensor, normaliser: torch.Tensor, num_top: Sequence[int]
) -> dict[int, list[tuple[int, float]]]:
    """Row → its best tokens with their logprobs, for the rows that ask for some."""
    asking = [i for i, count in enumerate(num_top) if count]
    if not asking:
        return {}
    most = min(max(num_top), logits.shape[1])
    rows = logits if len(asking) == len(num_top) else logits[asking]  # no copy where all ask
    values, ids = rows.topk(most)  # (asking, most)
    values = values - normaliser[asking, None]
    result = {}
    for i, row_ids, row_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
        result[i] = list(zip(row_ids, row_values, strict=True))[: num_top[i]]
    return result
