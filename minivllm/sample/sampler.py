"""The sampler: from the logits of a step's last rows to one token id each.

In this order, for each row (counterpart in vLLM: ``vllm/v1/sample/sampler.py``):

1. raw logprobs: the log-softmax of the untouched logits, for the caller who asks for them
2. float32, whatever the model's own numbers are
3. masks: the grammar, allowed ids, bad words, stop ids before min_tokens
4. changes: logit_bias, then repetition, frequency and presence penalty
5. temperature; 0 means greedy, the largest logit, and this is the end
6. min_p, top_k, top_p: the unlikely tokens are cut off
7. draw: add noise that belongs to (seed, position, token id), take the largest

Steps 3, 4 and 6 are in ``logits_processors.py``. Noise is computed only for what survives them:
over the whole vocabulary it would cost more than the model does. Since it is looked up and not
drawn in turn, no row depends on another. That is the CPU's way, where a look at a number is free
and work is not; a GPU's, which looks once at the end and not before, is in ``draw_batch.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from minivllm.core.scheduler_output import SampleDetail, TokenLogprobs
from minivllm.sample.draw_batch import draw_batch
from minivllm.sample.explain import explain_row
from minivllm.sample.logits_processors import lowest_score, process, takes_the_largest
from minivllm.sample.logprobs import gather_logprobs
from minivllm.sample.noise import SPREAD, gumbel
from minivllm.sample.row import SampleRow
from minivllm.sample.transfer import HostTransfer, send
from minivllm.sampling_params import SamplingParams

NOT_FINITE = "the model returned logits that are not finite (NaN or infinity)"
NOTHING_LEFT = (
    "no token is left to draw: allowed_token_ids, bad_words, min_tokens, logit_bias and the "
    "grammar together exclude the whole vocabulary"
)


@dataclass(slots=True)
class SamplerOutput:
    """One entry per row."""

    token_ids: list[int]
    """-1 where the row failed."""
    logprobs: list[TokenLogprobs | None]
    errors: dict[int, str]
    """Row → why nothing could be drawn from it."""
    details: list[SampleDetail | None] = field(default_factory=list)
    """What each row's processors did, where that was asked for."""


def sample(
    logits: torch.Tensor,
    rows: list[SampleRow],
    grammar_bitmask: np.ndarray | None = None,
    explain: bool = False,
    transfer: HostTransfer | None = None,
) -> SamplerOutput:
    """Draw one token per row.

    ``logits``: (num_rows, vocab), not modified. ``grammar_bitmask``: (num_rows, ceil(vocab / 32))
    int32, a set bit is an allowed token, -1 throughout for a row without a grammar. ``explain``:
    also fill ``details``, at the price of fetching the logits. ``transfer``: what else the step
    wants to know; it is made here.
    """
    logits = logits.float()
    transfer = transfer or HostTransfer()
    normaliser = logits.logsumexp(-1)  # (num_rows,); not finite iff the row holds NaN or +inf
    token_ids, largest = _choose(logits, normaliser, _with_grammar(rows, grammar_bitmask, logits))
    num_top = [row.params.logprobs or 0 for row in rows]
    pending = gather_logprobs(logits, normaliser, token_ids, num_top, transfer)
    totals, best = transfer.read(transfer.add(normaliser, largest))
    logprobs = pending.read()

    errors: dict[int, str] = {}
    for i in range(len(rows)):
        if not math.isfinite(totals[i]):
            errors[i] = NOT_FINITE
        elif best[i] == -math.inf:
            errors[i] = NOTHING_LEFT
    details: list[SampleDetail | None] = [None] * len(rows)
    if explain:
        on_host = logits.cpu()
        for i, row in enumerate(_with_grammar(rows, grammar_bitmask, on_host)):
            if i not in errors:
                details[i] = explain_row(on_host[i], totals[i], row)
    return SamplerOutput(
        [-1 if i in errors else entry.token_id for i, entry in enumerate(logprobs)],
        [None if i in errors else entry for i, entry in enumerate(logprobs)],
        errors,
        details,
    )


def _choose(
    logits: torch.Tensor, normaliser: torch.Tensor, rows: list[SampleRow]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each row, and its largest score: -inf where there is nothing to choose from (of
    a row without processors it tells no more than the ``normaliser``). Both (num_rows,)."""
    token_ids = logits.argmax(-1)  # right already where greedy asks for nothing else
    largest = normaliser.clone()
    may_look = looks_are_free(logits.device)
    waiting: dict[int, torch.Tensor] = {}
    for i, row in enumerate(rows):
        if takes_the_largest(row):
            continue
        raw = logits[i]  # (vocab,)
        scores = process(raw, row)
        if scores is not raw:
            token_ids[i] = at = scores.argmax(-1, keepdim=True)
            largest[i] = scores.gather(0, at)
        if row.params.greedy:
            continue
        if not may_look:
            waiting[i] = scores
        elif float(largest[i]) > -math.inf:  # nor NaN
            token_ids[i] = draw(scores, row)
    if waiting:
        drawn = draw_batch(torch.stack(list(waiting.values())), [rows[i] for i in waiting])
        token_ids.index_copy_(0, send(list(waiting), np.int64, logits.device), drawn)
    return token_ids, largest


def looks_are_free(device: torch.device) -> bool:
    """Is nothing waited for where a number is read? (see ``transfer.py``)"""
    return device.type == "cpu"


def draw(logits: torch.Tensor, row: SampleRow) -> torch.Tensor:
    """Draw one token from a row, (vocab,) → (); temperature, cuts and noise as the row asks."""
    scores = logits / row.params.temperature  # (vocab,)
    limited = 0 < row.params.top_k < len(scores)
    if limited:  # then little is left for the other cuts to go through
        ids = best_ids(scores, row.params.top_k)
        scores = scores[ids]
    places = (scores >= threshold(scores, row.params)).nonzero()[:, 0]  # (survivors,)
    survivors = ids[places] if limited else places  # their ids
    noisy = scores[places] + gumbel(row.seed, row.position, survivors)
    return survivors[noisy.argmax()]


def best_ids(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ids, ascending, of the ``count`` largest scores, and of all that equal the last of them."""
    best = scores.topk(count + 1)
    last, next_one = best.values[count - 1 :].tolist()
    if next_one < last:  # no tie, so nobody else needs to be looked for
        return best.indices[:count].sort().values
    return (scores >= last).nonzero()[:, 0]


def threshold(scores: torch.Tensor, params: SamplingParams) -> float:
    """The lowest score that may be drawn: what the cuts leave, and the noise can lift to the top
    (see ``noise.SPREAD``)."""
    return max(lowest_score(scores, params), float(scores.max()) - SPREAD)


def _with_grammar(
    rows: list[SampleRow], bitmask: np.ndarray | None, logits: torch.Tensor
) -> list[SampleRow]:
    """The rows, each that has a grammar with its own line of the bitmask, where the logits are."""
    if bitmask is None:
        return rows
    expected = (len(rows), -(-logits.shape[1] // 32))
    if bitmask.shape != expected or bitmask.dtype != np.int32:
        raise ValueError(
            f"grammar_bitmask is {bitmask.dtype} of {bitmask.shape}; must be int32 of "
            f"{expected}: a line for each row, a bit for each token"
        )
    limits = (bitmask != -1).any(-1)  # all ones limit nothing
    lines = send(bitmask, np.int32, logits.device)
    return [
        replace(row, grammar_bitmask=lines[i]) if limits[i] else row for i, row in enumerate(rows)
    ]
