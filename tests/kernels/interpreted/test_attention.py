"""The triton backend against a float64 reference and against torch's, over ragged batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.attention.torch_backend import TorchAttention
from minivllm.attention.triton_backend import TritonAttention
from minivllm.errors import UnsupportedModelError
from tests.kernels.batches import TOLERANCE, Case, make, same_bits

BACKEND = TritonAttention(torch.device("cpu"))
HEAD_DIMS = (64, 80, 96, 128, 256)
BLOCK_SIZES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MIXED = [(37, 1), (20, 13), (0, 2)]
DECODES = [(200, 1), (0, 1), (15, 1), (16, 1)]


def check(case: Case) -> None:
    batch = make(case)
    out = batch.run(BACKEND)
    assert out.shape == batch.q.shape and out.dtype == case.dtype
    error = (out.double() - batch.expected).abs()
    # NaN from a cell that was not written, or from one that should not have been read, is no number
    # below the tolerance either.
    allowed = TOLERANCE[case.dtype] * (1 + batch.expected.abs())
    assert bool((error <= allowed).all()), f"off by {error.max()}"
    assert same_bits(batch.around, batch.cache_after), "the cache holds something else"
    padding = out[out.shape[0] - case.padding :]
    assert bool((padding == 0).all()), "a padding row is not zero"


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_mixed_batches_equal_the_float64_reference(head_dim: int, block_size: int) -> None:
    """The types in turn, so that each meets each head size and each block size."""
    turn = HEAD_DIMS.index(head_dim) + BLOCK_SIZES.index(block_size)
    check(Case(MIXED, block_size, 1, 3, head_dim, DTYPES[turn % 3], padding=2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_decodes_equal_the_float64_reference(head_dim: int, dtype: torch.dtype) -> None:
    check(Case(DECODES, 16, 2, 2, head_dim, dtype))


chunk = st.tuples(st.integers(0, 70), st.integers(1, 40))
decode = st.tuples(st.integers(0, 300), st.just(1))
idle = st.tuples(st.just(0), st.just(0))
shapes = {
    "block_size": st.sampled_from([1, 3, 16, 24, 128]),
    "num_kv_heads": st.sampled_from([1, 2]),
    "share": st.sampled_from([1, 3, 16]),
    "head_dim": st.sampled_from([2, 16, 40, 64, 80]),
    "dtype": st.sampled_from(DTYPES),
    "padding": st.sampled_from([0, 0, 1, 5]),
    "seed": st.integers(0, 10_000),
}


@settings(max_examples=20, deadline=None)
@given(
    case=st.builds(
        Case, chunks=st.lists(st.one_of(chunk, decode, idle), min_size=1, max_size=4), **shapes
    )
)
def test_ragged_batches_equal_the_float64_reference(case: Case) -> None:
    """An idle request is what pads a batch to the size of a captured graph."""
    check(case)


@settings(max_examples=10, deadline=None)
@given(case=st.builds(Case, chunks=st.lists(decode, min_size=1, max_size=4), **shapes))
def test_batches_of_decodes_alone_equal_the_reference(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("before", [15, 16, 31, 64])
@pytest.mark.parametrize("now", [1, 16, 17, 42, 43])
def test_chunks_that_end_at_and_beside_the_borders_of_blocks_and_tiles(
    before: int, now: int
) -> None:
    """43 tokens of 3 heads are one row more than the 128 of a program."""
    check(Case([(before, now)], 16, 1, 3, 16, torch.bfloat16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_very_long_sequence_is_split_and_merged(dtype: torch.dtype) -> None:
    check(Case([(4_000, 1)], 16, 1, 2, 64, dtype))


def test_short_sequences_beside_a_long_one_leave_splits_empty() -> None:
    """The number of splits follows the longest; a split without keys must not turn up as NaN."""
    check(Case([(3_000, 1), (0, 1), (40, 1)], 16, 1, 4, 80, torch.bfloat16))


def test_many_spare_columns_of_the_table_split_what_is_short() -> None:
    check(Case([(70, 1), (3, 1)], 16, 2, 2, 64, spare_columns=100))


def test_an_empty_batch_writes_nothing() -> None:
    batch = make(Case([], padding=0))
    out = batch.run(BACKEND)
    assert out.shape == (0, 4, 64) and same_bits(batch.around, batch.cache_after)


def test_a_batch_of_padding_alone_is_zeros() -> None:
    check(Case([(0, 0)], padding=3))


def test_hit_on_blocks_that_are_filled_in_the_same_batch() -> None:
    """Request B, first in the batch, reads the block that request A computes in this very step."""
    batch = make(Case([(4, 1), (0, 4)], block_size=4))
    table, slots = batch.metadata.block_table, batch.metadata.slot_mapping
    table[0, 0] = table[1, 0]
    slots[1:] = table[1, 0] * 4 + torch.arange(4)
    batch.kv_cache[:, table[1, 0]] = torch.nan  # as nobody has written it yet
    again = make(Case([(4, 1), (0, 4)], block_size=4))
    again.metadata, again.kv_cache = batch.metadata, batch.kv_cache.contiguous()
    out, expected = batch.run(BACKEND), again.run(TorchAttention())
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(
    chunks=st.lists(st.one_of(chunk, decode), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_triton_and_torch_agree(
    chunks: list[tuple[int, int]], dtype: torch.dtype, seed: int
) -> None:
    batch = make(Case(chunks, dtype=dtype, seed=seed))
    out = batch.run(BACKEND)
    batch.kv_cache = batch.kv_cache.contiguous()
    expected = batch.run(TorchAttention())
    torch.testing.assert_close(out, expected, rtol=0, atol=2 * TOLERANCE[dtype])


def test_what_the_kernel_cannot_take_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"head_dim of 288.*up to 256"):
        BACKEND.kv_cache_shape(10, 16, 2, 288)
    batch = make(Case([(0, 1)], num_kv_heads=1, share=17))
    with pytest.raises(UnsupportedModelError, match=r"17 query heads.*up to 16 on one"):
        batch.run(BACKEND)
