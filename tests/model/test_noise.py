"""The counter-based noise: what it depends on, and how it is distributed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivllm.sample.noise import SPREAD, gumbel

IDS = torch.arange(50_000)
WORD = 2**64 - 1


def splitmix64(state: int) -> int:
    """Written down from the paper's definition, in Python's own integers."""
    z = state & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    position=st.integers(0, 10**6),
    token_id=st.integers(0, 10**6),
)
def test_noise_is_the_hash_it_says_it_is(seed: int, position: int, token_id: int) -> None:
    golden = 0x9E3779B97F4A7C15
    stream = splitmix64(splitmix64(seed + golden) + (position + 1) * golden)
    uniform = ((splitmix64(token_id * golden + stream) >> 41) + 0.5) / 2**23
    expected = -math.log(-math.log1p(-uniform))
    assert gumbel(seed, position, torch.tensor([token_id])).item() == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


def test_noise_of_a_token_does_not_depend_on_who_else_is_asked_for() -> None:
    whole = gumbel(7, 3, IDS)
    some = torch.tensor([49_000, 5, 17])
    assert torch.equal(gumbel(7, 3, some), whole[some])


def test_seed_position_and_token_each_change_the_noise() -> None:
    base = gumbel(7, 3, IDS)
    for other in (gumbel(8, 3, IDS), gumbel(7, 4, IDS), gumbel(7, 3, IDS + 1)):
        assert (base == other).float().mean() < 0.001
        correlation = torch.corrcoef(torch.stack([base, other]))[0, 1]
        assert abs(float(correlation)) < 0.02


def test_noise_has_the_mean_and_variance_of_a_gumbel_distribution() -> None:
    values = torch.cat([gumbel(1, position, IDS) for position in range(20)]).double()
    assert float(values.mean()) == pytest.approx(0.5772, abs=0.005)
    assert float(values.var()) == pytest.approx(math.pi**2 / 6, abs=0.02)


def test_no_two_values_differ_by_more_than_the_spread() -> None:
    values = torch.cat([gumbel(2, position, IDS) for position in range(40)])
    assert bool(values.isfinite().all())
    # The ends of the range, from the first and the last uniform number there is.
    lowest, highest = -math.log(24 * math.log(2)), 24 * math.log(2)
    assert highest - lowest == pytest.approx(SPREAD, abs=1e-4)
    assert lowest <= float(values.min()) and float(values.max()) <= highest + 1e-4
