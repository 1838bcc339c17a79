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
drawn in turn, no row depends on another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from minivllm.core.scheduler_output import SampleDetail, TokenLogprobs
from minivllm.sample.explain import Explanation
from minivllm.sample.logits_processors import lowest_score, process, takes_the_largest
from minivllm.sample.logprobs import gather_logprobs
from minivllm.sample.noise import SPREAD, gumbel
from minivllm.sample.row import SampleRow
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
    grammar_bitmask: torch.Tensor | None = None,
    explain: bool = False,
) -> SamplerOutput:
    """Draw one token per row.

    ``logits``: (num_rows, vocab), not modified. ``grammar_bitmask``: (num_rows, ceil(vocab / 32))
    int32 on the same device, a set bit is an allowed token, -1 throughout for a row without a
    grammar. ``explain``: also fill ``details``.
    """
    logits = logits.float()
    if grammar_bitmask is not None:
        rows = _with_grammar(rows, grammar_bitmask, logits.shape[1])
    normaliser = logits.logsumexp(-1)  # (num_rows,); not finite iff the row holds NaN or +inf
    token_ids = logits.argmax(-1)  # (num_rows,); right already where greedy asks for nothing else
    errors: dict[int, str] = {}
    details: list[SampleDetail | None] = [None] * len(rows)

    # Rows that want more than the largest logit. They look at numbers on the way; the others wait
    # for a GPU once, when everything is fetched.
    picky = [i for i, row in enumerate(rows) if explain or not takes_the_largest(row)]
    if picky:
        finite = normaliser.isfinite().tolist()
        errors = {i: NOT_FINITE for i in picky if not finite[i]}
    for i in picky:
        if i in errors:
            continue
        row = rows[i]
        told = Explanation(logits[i], normaliser[i]) if explain else None
        raw = logits[i]  # (vocab,)
        scores = process(raw, row, told.watch if told else None)
        if scores is not raw:
            token_ids[i] = best = scores.argmax()
            if scores[best] == -torch.inf:
                errors[i] = NOTHING_LEFT
                continue
        if not row.params.greedy:
            token_ids[i] = draw(scores, row)
        details[i] = told.finish(scores, row) if told else None

    num_top = [row.params.logprobs or 0 for row in rows]
    logprobs = gather_logprobs(logits, normaliser, token_ids, num_top)
    for i in set(range(len(rows))).difference(picky):
        if math.isnan(logprobs[i].logprob):  # the largest is NaN or +inf, or all are -inf
            errors[i] = NOT_FINITE
    return SamplerOutput(
        [-1 if i in errors else entry.token_id for i, entry in enumerate(logprobs)],
        [None if i in errors else entry for i, entry in enumerate(logprobs)],
        errors,
        details,
    )


def draw(logits: torch.Tensor, row: SampleRow) -> torch.Tensor:
    """Draw one token from a row, (vocab,) → (); temperature, cuts and noise as the row asks."""
    scores = logits / row.params.temperature  # (vocab,)
    survivors = (scores >= threshold(scores, row.params)).nonzero()[:, 0]  # (survivors,) ids
    noisy = scores[survivors] + gumbel(row.seed, row.position, survivors)
    return survivors[noisy.argmax()]


def threshold(scores: torch.Tensor, params: SamplingParams) -> float:
    """The lowest score that may be drawn: what the cuts leave, and the noise can lift to the top
    (see ``noise.SPREAD``)."""
    return max(lowest_score(scores, params), float(scores.max()) - SPREAD)


def _with_grammar(rows: list[SampleRow], bitmask: torch.Tensor, vocab_size: int) -> list[SampleRow]:
    """The rows, each that has a grammar with its own line of the bitmask."""
    expected = (len(rows), -(-vocab_size // 32))
    if tuple(bitmask.shape) != expected or bitmask.dtype != torch.int32:
        raise ValueError(
            f"grammar_bitmask is {bitmask.dtype} of {tuple(bitmask.shape)}; must be int32 of "
            f"{expected}: a line for each row, a bit for each token"
        )
    limits = (bitmask != -1).any(-1).tolist()  # all ones limit nothing
    return [
        replace(row, grammar_bitmask=bitmask[i]) if limits[i] else row for i, row in enumerate(rows)
    ]
