"""Logits processors: what a request does to its own logits before a token is drawn.

One small function each, in the order in which they run, which is vLLM's:

    masks     grammar, allowed_token_ids, bad_words, min_tokens    logit becomes -inf
    changes   logit_bias, repetition, frequency, presence penalty  logit moves
    ─ here the sampler divides by the temperature ─
    cuts      min_p, top_k, top_p                                  unlikely tokens go

A mask stays a mask: whatever is added to -inf, or divides it, leaves -inf. The cuts keep the order
of the scores, so each is one number, the lowest score that stays.

Counterpart in vLLM: ``vllm/v1/sample/logits_processor/builtin.py``, ``ops/bad_words.py`` and
``ops/penalties.py``, vectorised over the batch there. Here a row at a time: who asks for nothing
costs nothing. Left out: processors loaded from a user's module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minivllm.sample.row import SampleRow
from minivllm.sample.transfer import send
from minivllm.sampling_params import SamplingParams

TOP_P_LOOKS = (256, 4096)
"""Tokens that top_p sorts at first, and at second. They hold the mass almost always, and of a
vocabulary of 49,152 they take 0.1 and 0.6 ms a row against 3.6 for all of it (measured)."""

Watch = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Told of each processor: its name, the scores before and after; the trace's ear."""

# --- masks ---------------------------------------------------------------------------------------
# Each of these changes ``scores``, (vocab,) float32, in place.


def grammar(scores: torch.Tensor, row: SampleRow) -> None:
    """Only what the grammar takes next; the matcher has filled the row's bitmask."""
    words = row.grammar_bitmask  # (ceil(vocab / 32),)
    if words is None:
        return
    bits = words[:, None] >> torch.arange(32, dtype=words.dtype, device=words.device)
    allowed = (bits & 1).flatten()[: len(scores)].bool()  # (words, 32) → (vocab,)
    scores.masked_fill_(~allowed, -math.inf)


def allowed_token_ids(scores: torch.Tensor, row: SampleRow) -> None:
    ids = _index(row.params.allowed_token_ids or [], scores)
    kept = scores[ids]
    scores.fill_(-math.inf)
    scores[ids] = kept


def bad_words(scores: torch.Tensor, row: SampleRow) -> None:
    """The last token of a word, if all the others were said just now."""
    output = list(row.output_token_ids)
    last = []
    for *beginning, end in row.params.bad_words_token_ids:
        said = output[-len(beginning) :] if beginning else []
        if said == beginning:
            last.append(end)
    scores.index_fill_(0, _index(last, scores), -math.inf)


def min_tokens(scores: torch.Tensor, row: SampleRow) -> None:
    """EOS and the stop ids, while the output is too short; unless a grammar takes nothing else:
    then EOS, which stands first and ends the output in any case, or else a stop id."""
    ids = _index(row.stop_token_ids, scores)
    kept = scores[ids]
    scores.index_fill_(0, ids, -math.inf)
    if row.grammar_bitmask is not None:
        for back in (slice(0, 1), slice(None)):
            nothing_left = scores.amax() == -math.inf
            scores[ids[back]] = torch.where(nothing_left, kept[back], scores[ids[back]])


# --- changes -------------------------------------------------------------------------------------
# A token that stands in ``ids`` twice is read twice before it is written: it changes once.


def logit_bias(scores: torch.Tensor, row: SampleRow) -> None:
    bias = {i: value for i, value in row.params.logit_bias.items() if i < len(scores)}
    values = send(list(bias.values()), np.float32, scores.device)
    scores[_index(list(bias), scores)] += values


def repetition_penalty(scores: torch.Tensor, row: SampleRow) -> None:
    """For each token of prompt or output, once. Source: Keskar et al., "CTRL" (2019); that negative
    logits are multiplied is a later repair, else they would be rewarded."""
    ids = _index(row.token_ids, scores)
    seen, penalty = scores[ids], row.params.repetition_penalty
    scores[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)


def frequency_penalty(scores: torch.Tensor, row: SampleRow) -> None:
    """For each token of the output, as often as it was said."""
    said, times = np.unique(_known(row.output_token_ids, scores), return_counts=True)
    counts = send(times, np.float32, scores.device)
    scores[send(said, np.int64, scores.device)] -= row.params.frequency_penalty * counts


def presence_penalty(scores: torch.Tensor, row: SampleRow) -> None:
    """For each token of the output, once."""
    scores[_index(row.output_token_ids, scores)] -= row.params.presence_penalty


def _index(token_ids: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
    return send(_known(token_ids, scores), np.int64, scores.device)


def _known(token_ids: Sequence[int], scores: torch.Tensor) -> np.ndarray:
    """A tokenizer may know more ids than the model has logits. Sorted out on the host: on a GPU
    the length of the result would be a number to wait for."""
    ids: np.ndarray = np.array(token_ids, dtype=np.int64)
    return ids[ids < len(scores)]


@dataclass(frozen=True, slots=True)
class Processor:
    name: str
    wanted: Callable[[SampleRow], bool]
    """Does it concern this row? Cheap: asked of every row at every step."""
    apply: Callable[[torch.Tensor, SampleRow], None]


PROCESSORS = (
    Processor("grammar", lambda row: row.grammar_bitmask is not None, grammar),
    Processor(
        "allowed_token_ids",
        lambda row: row.params.allowed_token_ids is not None,
        allowed_token_ids,
    ),
    Processor("bad_words", lambda row: bool(row.params.bad_words_token_ids), bad_words),
    Processor("min_tokens", lambda row: row.num_output_tokens < row.params.min_tokens, min_tokens),
    Processor("logit_bias", lambda row: bool(row.params.logit_bias), logit_bias),
    Processor(
        "repetition_penalty", lambda row: row.params.repetition_penalty != 1, repetition_penalty
    ),
    Processor(
        "frequency_penalty", lambda row: row.params.frequency_penalty != 0, frequency_penalty
    ),
    Processor("presence_penalty", lambda row: row.params.presence_penalty != 0, presence_penalty),
)


def takes_the_largest(row: SampleRow) -> bool:
    """Greedy, and no processor concerns it: the largest logit is the answer."""
    return row.params.greedy and not any(processor.wanted(row) for processor in PROCESSORS)


def process(logits: torch.Tensor, row: SampleRow, watch: Watch | None = None) -> torch.Tensor:
    """All processors that the row asks for: (vocab,) → (vocab,), and ``logits`` stays as it is.

    The very same tensor if there are none.
    """
    scores = logits
    for processor in PROCESSORS:
        if not processor.wanted(row):
            continue
        before = scores
        if scores is logits or watch is not None:
            scores = scores.clone()
        processor.apply(scores, row)
        if watch is not None:
            watch(processor.name, before, scores)
    return scores


# --- cuts ----------------------------------------------------------------------------------------
# Each of these returns the lowest score that stays, of those at least ``cut``, which the cuts
# before it have left. Equal scores share one fate: ties all stay.


def min_p(scores: torch.Tensor, params: SamplingParams, cut: float) -> float:
    """``min_p`` times the probability of the most likely token."""
    return float(scores.max()) + math.log(params.min_p)


def top_k(scores: torch.Tensor, params: SamplingParams, cut: float) -> float:
    """The score of the k-th best token."""
    if params.top_k >= len(scores):
        return cut
    return float(scores.topk(params.top_k).values[-1])


def top_p(scores: torch.Tensor, params: SamplingParams, cut: float) -> float:
    """The last score in the smallest set of best tokens that holds ``top_p`` of what is left."""
    left = scores[scores >= cut] if cut > -math.inf else scores  # (left,)
    total = left.logsumexp(-1)
    for count in (*(look for look in TOP_P_LOOKS if look < len(left)), len(left)):
        best = left.topk(count).values  # (count,) descending
        mass = (best - total).exp().cumsum(-1)
        if float(mass[-1]) >= params.top_p:
            break
    last = min(int((mass < params.top_p).sum()), count - 1)
    return float(best[last])


@dataclass(frozen=True, slots=True)
class Cut:
    name: str
    wanted: Callable[[SamplingParams], bool]
    lowest: Callable[[torch.Tensor, SamplingParams, float], float]


CUTS = (
    Cut("min_p", lambda params: params.min_p > 0, min_p),
    Cut("top_k", lambda params: params.top_k > 0, top_k),
    Cut("top_p", lambda params: params.top_p < 1, top_p),
)


def lowest_score(scores: torch.Tensor, params: SamplingParams, watch: Watch | None = None) -> float:
    """What a score must reach to be drawn at all; -inf if nothing is cut off."""
    cut = -math.inf
    for step in CUTS:
        if not step.wanted(params):
            continue
        before, cut = cut, max(cut, step.lowest(scores, params, cut))
        if watch is not None:
            watch(step.name, _above(scores, before), _above(scores, cut))
    return cut


def _above(scores: torch.Tensor, cut: float) -> torch.Tensor:
    return scores.masked_fill(scores < cut, -math.inf)
