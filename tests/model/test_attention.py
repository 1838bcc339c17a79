"""Paged attention against a plain float64 reference, over ragged batches of every kind.

Every cache cell that no token was written to holds NaN, except in the null block, and so does
every freshly allocated output: whatever is read or left without having been written, shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.attention.metadata import AttentionMetadata
from minivllm.attention.torch_backend import SAME_GROUP_LEN, TorchAttention


@pytest.fixture(autouse=True)
def fresh_tensors_hold_nan() -> Iterator[None]:
    """In torch's deterministic mode ``empty`` fills what it allocates with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@dataclass
class Case:
    """Per request (tokens computed before, tokens now); then the shapes."""

    chunks: list[tuple[int, int]]
    block_size: int
    num_kv_heads: int
    share: int
    padding: int = 0
    head_dim: int = 8
    seed: int = 0


def run(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(the backend's output, the reference's, the cache after it)."""
    generator = torch.Generator().manual_seed(case.seed)
    num_heads = case.num_kv_heads * case.share
    lens = [before + now for before, now in case.chunks]
    blocks_of = [-(-length // case.block_size) for length in lens]
    num_blocks = 1 + sum(blocks_of) + 2  # the null block, all tables, two that stay unused
    order = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()

    table = torch.zeros(len(lens), max(blocks_of) + 1, dtype=torch.int32)
    cache = torch.full(
        TorchAttention().kv_cache_shape(
            num_blocks, case.block_size, case.num_kv_heads, case.head_dim
        ),
        math.nan,
    )
    cache[:, 0] = 0
    flat = cache.view(2, -1, case.num_kv_heads, case.head_dim)
    q_rows, k_rows, v_rows, slots, expected, starts = [], [], [], [], [], [0]
    for i, (before, now) in enumerate(case.chunks):
        mine = [order.pop() for _ in range(blocks_of[i])]
        table[i, : len(mine)] = torch.tensor(mine, dtype=torch.int32)
        where = [mine[p // case.block_size] * case.block_size + p % case.block_size
                 for p in range(before + now)]  # fmt: skip
        q = torch.randn(now, num_heads, case.head_dim, generator=generator)
        k, v = torch.randn(
            2, before + now, case.num_kv_heads, case.head_dim, generator=generator
        ).unbind()
        flat[0, where[:before]], flat[1, where[:before]] = k[:before], v[:before]
        q_rows.append(q)
        k_rows.append(k[before:])
        v_rows.append(v[before:])
        slots += where[before:]
        starts.append(starts[-1] + now)
        expected.append(reference(q, k, v, before))

    junk = torch.full((case.padding, num_heads, case.head_dim), 7.0)
    q = torch.cat([*q_rows, junk])
    k = torch.cat([*k_rows, junk[:, : case.num_kv_heads]])
    v = torch.cat([*v_rows, junk[:, : case.num_kv_heads]])
    metadata = AttentionMetadata(
        query_start_loc=torch.tensor(starts, dtype=torch.int32),
        seq_lens=torch.tensor(lens, dtype=torch.int32),
        block_table=table,
        slot_mapping=torch.tensor(slots + [-1] * case.padding),
    )
    out = TorchAttention().prepare(metadata, case.block_size).forward(q, k, v, cache)
    assert out.shape == q.shape
    assert bool((out[starts[-1] :] == 0).all()), "a padding row holds what nobody wrote"
    return out[: starts[-1]], torch.cat(expected), cache


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, before: int) -> torch.Tensor:
    """One request, one query and one head at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    share = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for i in range(q.shape[0]):
        end = before + i + 1  # a query sees itself and what is before it
        for head in range(q.shape[1]):
            keys, values = k[:end, head // share], v[:end, head // share]
            weights = torch.softmax(keys @ q[i, head] / math.sqrt(q.shape[2]), dim=0)
            out[i, head] = weights @ values
    return out


chunk = st.tuples(st.integers(0, 20), st.integers(1, 12))
decode = st.tuples(st.integers(0, 40), st.just(1))
cases = st.builds(
    Case,
    chunks=st.lists(st.one_of(chunk, decode), min_size=1, max_size=7),
    block_size=st.sampled_from([1, 3, 4, 16]),
    num_kv_heads=st.sampled_from([1, 2, 3]),
    share=st.sampled_from([1, 3, 4]),
    padding=st.sampled_from([0, 0, 1, 3]),
    seed=st.integers(0, 10_000),
)


@settings(max_examples=150, deadline=None)
@given(case=cases)
def test_ragged_batches_equal_the_float64_reference(case: Case) -> None:
    out, expected, cache = run(case)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    assert bool((cache[:, 0] == 0).all()), "the null block was written"


@settings(max_examples=40, deadline=None)
@given(
    chunks=st.lists(decode, min_size=1, max_size=9),
    block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 10_000),
)
def test_batches_of_decodes_alone_equal_the_reference(
    chunks: list[tuple[int, int]], block_size: int, seed: int
) -> None:
    out, expected, _ = run(Case(chunks, block_size, 3, 3, seed=seed))
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_decodes_of_very_different_lengths_equal_the_reference() -> None:
    lens = [3, SAME_GROUP_LEN - 2, SAME_GROUP_LEN + 1, 3 * SAME_GROUP_LEN, 5, 4 * SAME_GROUP_LEN]
    out, expected, _ = run(Case([(length, 1) for length in lens], 16, 1, 2))
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("before", [0, 3, 4, 5, 16])
@pytest.mark.parametrize("now", [1, 2, 4, 7])
def test_prefix_hit_with_chunked_prefill_attends_to_the_end_of_the_chunk_only(
    before: int, now: int
) -> None:
    """The key length is the chunk's end: what a later chunk will write is NaN here."""
    out, expected, _ = run(Case([(before, now)], 4, 2, 2))
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_hit_on_blocks_that_are_filled_in_the_same_batch() -> None:
    """Request B's table begins with the block that request A computes in this very step."""
    torch.manual_seed(1)
    q = torch.randn(5, 2, 8)
    k, v = torch.randn(2, 5, 1, 8).unbind()
    cache = torch.full((2, 3, 4, 1, 8), math.nan)
    cache[:, 0] = 0
    metadata = AttentionMetadata(
        # B comes first in the batch: reading before everything is written would give NaN.
        query_start_loc=torch.tensor([0, 1, 5], dtype=torch.int32),
        seq_lens=torch.tensor([5, 4], dtype=torch.int32),
        block_table=torch.tensor([[1, 2], [1, 0]], dtype=torch.int32),
        slot_mapping=torch.tensor([8, 4, 5, 6, 7]),
    )
    out = TorchAttention().prepare(metadata, 4).forward(q, k, v, cache)
    order = [1, 2, 3, 4, 0]  # positions 0 … 3 are A's rows, position 4 is B's
    expected = reference(q[:1], k[order], v[order], before=4)
    torch.testing.assert_close(out[:1].double(), expected, rtol=1e-4, atol=1e-5)


def test_nan_left_by_an_earlier_owner_of_a_block_is_never_read() -> None:
    """A request whose values became NaN must not harm the next owner of its blocks."""
    out, expected, cache = run(Case([(5, 1), (2, 1), (9, 3)], 16, 1, 1))
    assert bool(cache.isnan().any())  # the unfilled rest of every block still holds it
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
