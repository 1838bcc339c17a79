"""Which cells the attention's kernels write: all of theirs, and none of anybody else's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from minivllm.attention.kernels.configs import AttentionConfig
from minivllm.attention.kernels.launch import Launch
from minivllm.attention.kernels.merge_splits import merge_splits
from minivllm.attention.kernels.paged_attention import paged_attention
from minivllm.attention.kernels.reshape_and_cache import reshape_and_cache
from tests.kernels.batches import TOLERANCE, Batch, Case, make, reference

CONFIG = AttentionConfig(16, 16, num_warps=4, num_stages=1)
CASE = Case([(37, 1), (12, 6), (90, 1)], num_kv_heads=1, share=3, head_dim=80, padding=2)
EDGE = 100


def guarded(*shape: int, strides: tuple[int, ...] | None = None) -> tuple[torch.Tensor, ...]:
    """(a tensor of NaN, the memory it lies in, EDGE cells wider on both sides)."""
    span = math.prod(shape)
    if strides is not None:
        span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = torch.full((EDGE + span + EDGE,), math.nan)
    inside = memory[EDGE:-EDGE]
    return (inside.as_strided(shape, strides) if strides else inside.view(shape)), memory


def attention(batch: Batch, out: torch.Tensor, lse: torch.Tensor | None = None) -> Launch:
    m = batch.metadata
    where = m.query_start_loc, m.seq_lens, m.block_table
    reshape_and_cache(batch.k, batch.v, batch.kv_cache, m.slot_mapping).run()
    return paged_attention(out, lse, batch.q, batch.kv_cache, *where, CONFIG)


def close(out: torch.Tensor, batch: Batch) -> None:
    allowed = TOLERANCE[torch.float32] * (1 + batch.expected.abs())
    assert bool(((out.double() - batch.expected).abs() <= allowed).all())


def test_attention_writes_each_cell_of_a_strided_output_and_no_gap() -> None:
    batch = make(CASE)
    _, num_heads, head_dim = batch.q.shape
    strides = (num_heads * (head_dim + 7) + 5, head_dim + 7, 1)  # gaps behind heads and tokens
    out, memory = guarded(*batch.q.shape, strides=strides)
    attention(batch, out).run()
    close(out, batch)
    assert int(memory.isfinite().sum()) == out.numel(), "a gap was written"


def test_a_program_writes_the_tokens_of_its_own_and_not_the_next_ones() -> None:
    """Of 16 rows, 5 tokens of 3 heads use 15. A later program would write over what the last one
    does, here where they run one after the other; on a GPU nobody says who is later."""
    batch = make(Case([(0, 12)], num_kv_heads=1, share=3))
    out, _ = guarded(*batch.q.shape)
    launch = attention(batch, out)
    launch.grid = (1, *launch.grid[1:])
    launch.run()
    assert out[:, 0, 0].isfinite().tolist() == [True] * 5 + [False] * 7


@pytest.mark.parametrize("splits", [2, 8])
def test_splits_merge_to_the_whole_and_keep_to_their_cells(splits: int) -> None:
    """91 keys are 6 tiles of 16: of 8 splits the last have none. And of 2 splits of the chunk's 18
    keys the second has none that its first tokens may see."""
    batch = make(CASE)
    num_tokens, num_heads, head_dim = batch.q.shape
    parts, parts_memory = guarded(num_tokens, num_heads, splits, head_dim)
    lse, lse_memory = guarded(num_tokens, num_heads, splits)
    out, out_memory = guarded(num_tokens, num_heads, head_dim)
    attention(batch, parts, lse).run()
    assert not bool(lse.isnan().any()), "each split of each row says what it weighs"
    written = ~parts.isnan().all(-1)
    assert torch.equal(written, lse.isfinite()), "a part is written where there were keys"
    merge_splits(out, parts, lse).run()
    close(out, batch)
    for memory in (parts_memory, lse_memory, out_memory):
        assert bool(memory[:EDGE].isnan().all() and memory[-EDGE:].isnan().all())


def test_parts_of_very_different_weight_do_not_overflow() -> None:
    """Scores of ±300: 2^300 is no float32, the difference of two logarithms is."""
    lse = torch.tensor([[[300.0, -300.0, 299.0, -math.inf]]])
    parts = torch.tensor([1.0, 50.0, 4.0, math.nan])[None, None, :, None].expand(1, 1, 4, 16)
    out = torch.full((1, 1, 16), math.nan)
    merge_splits(out, parts.contiguous(), lse).run()
    torch.testing.assert_close(out, torch.full((1, 1, 16), (2 * 1.0 + 4.0) / 3))


@contextmanager
def without_copying_back() -> Iterator[None]:
    """The interpreter copies every argument's memory onto itself after a kernel. On a CPU that does
    nothing but touch it, and a cache of 9 GB of which two blocks are used must not be touched."""
    with mock.patch.object(GridExecutor, "_restore_args_dev", lambda *_: None):
        yield


def test_offsets_beyond_two_to_the_31_elements_do_not_wrap_around() -> None:
    """A cache of 2.1 × 2³¹ elements (K alone: 1.05 ×), by its addresses: memory that nobody
    touches costs none. The request's keys lie in the last blocks."""
    size, kv_heads, head_dim = 128, 8, 128
    num_blocks = int(1.05 * 2**31) // (size * kv_heads * head_dim)
    torch.use_deterministic_algorithms(False)  # it would fill the memory with NaN
    kv_cache = torch.empty(2, num_blocks, size, kv_heads, head_dim, dtype=torch.float16)
    assert kv_cache[0].numel() > 2**31
    last = [num_blocks - 1, num_blocks - 2]
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(130, kv_heads, head_dim, generator=generator).half() for _ in range(2))
    q = torch.randn(1, kv_heads, head_dim, generator=generator).half()
    for half, rows in ((0, k), (1, v)):  # the first 129 tokens; the kernel stores the last
        kv_cache[half, last[0]] = rows[:128]
        kv_cache[half, last[1], 0] = rows[128]
    int32 = torch.int32
    out = torch.full_like(q, math.nan)
    with without_copying_back():
        slot = torch.tensor([last[1] * size + 1])
        reshape_and_cache(k[129:], v[129:], kv_cache, slot).run()
        starts, lens = torch.tensor([0, 1], dtype=int32), torch.tensor([130], dtype=int32)
        table = torch.tensor([last], dtype=int32)
        paged_attention(out, None, q, kv_cache, starts, lens, table, CONFIG).run()
    assert torch.equal(kv_cache[0, last[1], 1], k[129])
    expected = reference(q, k, v, before=129)
    torch.testing.assert_close(out.double(), expected, rtol=2e-3, atol=2e-3)
