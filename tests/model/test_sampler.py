"""The sampler against a slow float64 reference, and what a draw may and may not depend on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sample import logits_processors, sampler
from minivllm.sample.draw_batch import lowest_scores
from minivllm.sample.logits_processors import process
from minivllm.sample.noise import SPREAD
from minivllm.sample.row import SampleRow
from minivllm.sample.sampler import draw, sample, threshold
from minivllm.sampling_params import SamplingParams


def row(
    seed: int = 0,
    position: int = 5,
    prompt: Sequence[int] | None = None,
    output: Sequence[int] = (),
    stop_ids: Sequence[int] = (),
    **fields: Any,
) -> SampleRow:
    """A row at ``position``, behind a prompt of zeros; or behind this prompt and output."""
    before = [0] * position if prompt is None else list(prompt)
    params = SamplingParams(max_tokens=None, **fields)
    return SampleRow(params, seed, before + list(output), len(before), stop_ids)


def random_logits(rows: int, vocab: int, seed: int, step: float = 0.0) -> torch.Tensor:
    """Normal logits; ``step`` rounds them, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    return (logits / step).round() * step if step else logits


# --- greedy and logprobs -------------------------------------------------------------------------


def test_greedy_takes_the_largest_logit() -> None:
    logits = random_logits(5, 300, seed=1)
    result = sample(logits, [row(temperature=0) for _ in range(5)])
    assert result.token_ids == logits.argmax(-1).tolist()
    assert [entry.rank for entry in result.logprobs if entry] == [1] * 5


@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_logprobs_are_raw_whatever_the_sampler_does(temperature: float) -> None:
    logits = random_logits(4, 200, seed=2)
    expected = torch.log_softmax(logits.double(), -1)
    rows = [row(temperature=temperature, top_k=50, logprobs=k, seed=k) for k in (0, 1, 5, 20)]
    result = sample(logits, rows)
    for i, asked in enumerate((0, 1, 5, 20)):
        entry = result.logprobs[i]
        assert entry is not None and entry.token_id == result.token_ids[i]
        assert entry.logprob == pytest.approx(expected[i, entry.token_id].item(), abs=1e-4)
        assert entry.rank == int((logits[i] > logits[i, entry.token_id]).sum()) + 1
        best = expected[i].topk(asked)
        assert [token_id for token_id, _ in entry.top] == best.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_more_logprobs_than_the_vocabulary_has_gives_the_whole_vocabulary() -> None:
    """Each row's own, and no more."""
    logits = random_logits(3, 6, seed=3)
    result = sample(logits, [row(temperature=0, logprobs=k) for k in (20, 3, 9)])
    tops = [[token_id for token_id, _ in entry.top] for entry in result.logprobs if entry]
    best = logits.argsort(-1, descending=True).tolist()
    assert tops == [best[0], best[1][:3], best[2]]


def test_min_tokens_masks_the_stop_ids_and_leaves_the_raw_logprobs_alone() -> None:
    logits = random_logits(2, 50, seed=4)
    before = logits.clone()
    best, second = logits[0].topk(2).indices.tolist()
    result = sample(
        logits, [row(stop_ids=[best, 999], min_tokens=1, temperature=0), row(temperature=0)]
    )
    assert result.token_ids == [second, int(logits[1].argmax())]
    assert result.logprobs[0] is not None and result.logprobs[0].rank == 2
    assert torch.equal(logits, before)


def test_banned_ids_are_never_drawn_at_any_temperature() -> None:
    logits = torch.zeros(1, 4)
    drawn = {
        sample(logits, [row(position=p, stop_ids=[1, 2], min_tokens=1)]).token_ids[0]
        for p in range(200)
    }
    assert drawn == {0, 3}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_fail_their_own_row_only(
    value: float, temperature: float
) -> None:
    logits = random_logits(3, 40, seed=5)
    alone = [sample(logits[i : i + 1], [row(i, temperature=temperature)]) for i in range(3)]
    logits[1, 7] = value
    result = sample(logits, [row(i, temperature=temperature, logprobs=2) for i in range(3)])
    assert list(result.errors) == [1] and "not finite" in result.errors[1]
    assert result.token_ids == [alone[0].token_ids[0], -1, alone[2].token_ids[0]]
    assert result.logprobs[1] is None


# --- what survives the cuts ----------------------------------------------------------------------


def allowed(logits: torch.Tensor, params: SamplingParams, slack: float) -> set[int]:
    """Ids that min_p, top_k and top_p leave, in float64 and by definition; ``slack`` widens (or,
    negative, narrows) the limits by what rounding may do."""
    scores = logits.double() / params.temperature
    probs = torch.softmax(scores, -1)
    left = set(range(len(probs)))
    least = min(params.min_p * (1 - slack), 1.0) * probs.max()
    left = {i for i in left if probs[i] >= least}
    if 0 < params.top_k < len(left):
        kth = sorted((float(scores[i]) for i in left), reverse=True)[params.top_k - 1]
        left = {i for i in left if float(scores[i]) >= kth}
    if params.top_p < 1:
        order = sorted(left, key=lambda i: -float(scores[i]))
        total, mass, last = float(sum(probs[i] for i in left)), 0.0, order[0]
        for last in order:
            mass += float(probs[last])
            if mass >= params.top_p * total + slack:
                break
        left = {i for i in left if scores[i] >= scores[last]}
    return left


@settings(max_examples=150, deadline=None)
@given(
    data_seed=st.integers(0, 10_000),
    vocab=st.sampled_from([5, 60, 700]),
    step=st.sampled_from([0.0, 0.5, 3.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([-1, 0, 1, 3, 50, 10_000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    masked=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_cuts_leave_what_the_float64_reference_leaves(
    data_seed: int,
    vocab: int,
    step: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    masked: float,
) -> None:
    """Of logits of which a processor may have masked a share."""
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = random_logits(1, vocab, data_seed, step)[0]
    logits[: int(masked * vocab)] = -math.inf
    scores = logits / temperature
    got = set((scores >= threshold(scores, params)).nonzero().flatten().tolist())
    reachable = set((scores >= scores.max() - SPREAD).nonzero().flatten().tolist())
    at_least, at_most = allowed(logits, params, -1e-5), allowed(logits, params, 1e-5)
    assert at_least & reachable <= got <= at_most
    got = set((scores >= lowest_scores(scores[None], [params])[0]).nonzero().flatten().tolist())
    assert at_least <= got and got & reachable <= at_most


def test_top_p_looks_further_when_the_first_look_does_not_hold_the_mass() -> None:
    logits = torch.linspace(0, 0.1, 4 * logits_processors.TOP_P_LOOKS[-1])
    cut = threshold(logits, SamplingParams(top_p=0.9))
    count = int((logits >= cut).sum())
    assert abs(count / len(logits) - 0.9) < 0.01


def test_top_p_of_everything_and_top_k_of_everything_cut_nothing() -> None:
    logits = random_logits(1, 64, seed=6)[0]
    for params in (SamplingParams(top_p=1.0), SamplingParams(top_k=64), SamplingParams(top_k=-1)):
        assert threshold(logits, params) == pytest.approx(float(logits.max()) - SPREAD)


def test_noise_is_drawn_for_the_survivors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncation or noise over the whole vocabulary for every row costs more than the model."""
    asked: list[int] = []
    real = sampler.gumbel

    def counting(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
        asked.append(token_ids.numel())
        return real(seed, position, token_ids)

    monkeypatch.setattr(sampler, "gumbel", counting)
    logits = random_logits(3, 20_000, seed=7)
    sample(logits, [row(temperature=0), row(top_k=40), row(top_p=0.5)])
    assert len(asked) == 2 and asked[0] == 40 and asked[1] < 2_000


# --- what a draw depends on ----------------------------------------------------------------------


def test_a_seeded_request_is_not_changed_by_its_batch_mates() -> None:
    logits = random_logits(6, 500, seed=8)
    rows = [
        row(11, temperature=0.8),
        row(12, temperature=0),
        row(13, top_k=5),
        row(14, top_p=0.7, temperature=1.5),
        row(15, min_p=0.1, logprobs=3),
        row(16, stop_ids=[3], min_tokens=1),
    ]
    alone = [sample(logits[i : i + 1], [rows[i]]).token_ids[0] for i in range(6)]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [4, 0]):
        together = sample(logits[order], [rows[i] for i in order]).token_ids
        assert together == [alone[i] for i in order]


def test_same_seed_and_position_draw_the_same_token_and_others_do_not() -> None:
    logits = torch.zeros(1, 1000)
    first = sample(logits, [row(3, 10)]).token_ids
    assert sample(logits, [row(3, 10)]).token_ids == first
    others = {sample(logits, [row(seed, 10)]).token_ids[0] for seed in range(50)}
    assert len(others) > 40
    others = {sample(logits, [row(3, position)]).token_ids[0] for position in range(50)}
    assert len(others) > 40


def chi_square(counts: torch.Tensor, probs: torch.Tensor) -> float:
    expected = probs * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("along", ["positions", "seeds"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_follow_the_softmax(along: str, temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0])
    probs = torch.softmax(logits.double() / temperature, -1)
    counts = torch.zeros(8, dtype=torch.float64)
    for i in range(5_000):
        where = {"seed": 1, "position": i} if along == "positions" else {"seed": i, "position": 1}
        counts[int(draw(logits, row(**where, temperature=temperature)))] += 1
    assert chi_square(counts, probs) < 24.3  # 7 degrees of freedom: exceeded once in 1000


def test_draws_at_successive_positions_are_independent() -> None:
    logits = torch.zeros(4)
    drawn = [int(draw(logits, row(9, position))) for position in range(5_000)]
    counts = torch.zeros(16, dtype=torch.float64)
    for first, second in itertools.pairwise(drawn):
        counts[4 * first + second] += 1
    assert chi_square(counts, torch.full((16,), 1 / 16)) < 37.7  # 15 degrees: once in 1000


def test_top_k_draws_follow_the_softmax_of_the_survivors() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0])
    probs = torch.softmax(logits[:3].double(), -1)
    counts = torch.zeros(6, dtype=torch.float64)
    for position in range(4_000):
        counts[int(draw(logits, row(2, position, top_k=3)))] += 1
    assert counts[3:].sum() == 0
    assert chi_square(counts[:3], probs) < 13.8  # 2 degrees of freedom: once in 1000


DRAWS: dict[str, dict[str, Any]] = {
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1, "temperature": 1.3},
    "all cuts": {"top_k": 6, "top_p": 0.9, "min_p": 0.02, "temperature": 0.8},
    "penalties": {
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.4,
        "presence_penalty": -0.3,
        "temperature": 0.9,
    },
    "bias and masks": {
        "logit_bias": {4: 1.5, 9: -2.0},
        "allowed_token_ids": [0, 1, 4, 5, 8, 9],
        "bad_words_token_ids": [[1], [3, 5]],
    },
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_follow_the_distribution_that_the_fields_define(name: str) -> None:
    """The expected one by definition and in float64; 4,000 seeds, always the same."""
    fields = DRAWS[name]
    logits = random_logits(1, 10, seed=12)
    before = {"prompt": [2, 7], "output": [3, 3, 6], **fields}
    asking = row(**before)
    scores = process(logits[0], asking).double()
    probs = torch.softmax(scores / asking.params.temperature, -1)
    left = sorted(allowed(scores, asking.params, 0.0) & set(probs.nonzero()[:, 0].tolist()))
    probs = probs[left] / probs[left].sum()
    counts = torch.zeros(10, dtype=torch.float64)
    for seed in range(4_000):
        counts[sample(logits, [row(seed, **before)]).token_ids[0]] += 1
    assert counts.sum() == counts[left].sum()
    common = probs * 4_000 >= 5  # what chi-square can judge
    expected, observed = probs[common], counts[left][common]
    assert len(expected) >= 2
    limit = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5, 6: 22.5, 7: 24.3, 8: 26.1, 9: 27.9}
    assert chi_square(observed, expected / expected.sum()) < limit[len(expected) - 1]
