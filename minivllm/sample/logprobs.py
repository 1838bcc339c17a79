"""Raw logprobs: the log-softmax of logits that no processor has touched, for whoever asks.

Of the tokens that were sampled, and of a prompt's own tokens. Counterpart in vLLM:
``Sampler.gather_logprobs`` in ``vllm/v1/sample/sampler.py``. Left out: logprobs after processing
(``--logprobs-mode``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.sample.transfer import HostTransfer, send


@dataclass(slots=True)
class LogprobRows:
    """Logprobs that are on their way to the host."""

    transfer: HostTransfer
    place: slice
    num_top: Sequence[int]
    most: int
    """Width of the rows that ask for the most likely tokens."""

    def read(self) -> list[TokenLogprobs]:
        """An entry per row."""
        token_ids, ranks, values, top_ids, top_values = self.transfer.read(self.place)
        result, first = [], 0
        for i, count in enumerate(self.num_top):
            best = slice(first, first + min(count, self.most))
            top = list(zip(map(int, top_ids[best]), top_values[best], strict=True))
            result.append(TokenLogprobs(int(token_ids[i]), values[i], int(ranks[i]), top))
            first += self.most if count else 0
        return result


def gather_logprobs(
    logits: torch.Tensor,
    normaliser: torch.Tensor,
    token_ids: torch.Tensor,
    num_top: Sequence[int],
    transfer: HostTransfer,
) -> LogprobRows:
    """Row i: the logprob and rank of ``token_ids[i]``, and the ``num_top[i]`` most likely tokens.

    ``logits``: (num_rows, vocab) float32; ``normaliser``: (num_rows,), their logsumexp
    (zeros, where the rows are logprobs already);
    ``token_ids``: (num_rows,).
    """
    chosen = logits.gather(1, token_ids[:, None])  # (num_rows, 1)
    ranks = (logits > chosen).sum(-1, dtype=torch.int32) + 1  # int64 would take twice as long
    asking = [i for i, count in enumerate(num_top) if count]
    most = min(max(num_top, default=0), logits.shape[1])
    rows, their = logits, normaliser  # no copy where all ask
    if len(asking) < len(num_top):
        index = send(asking, np.int64, logits.device)
        rows, their = logits[index], normaliser[index]
    top, top_ids = rows.topk(most)  # (asking, most)
    place = transfer.add(token_ids, ranks, chosen[:, 0] - normaliser, top_ids, top - their[:, None])
    return LogprobRows(transfer, place, num_top, most)
