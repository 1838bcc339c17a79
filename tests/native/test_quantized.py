"""The product of codes with activations rounded to bytes, against float64.

Where this CPU multiplies no bytes there is nothing to compare; the first test says whether it
should.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from minivllm.models.gguf_file import GROUP_SIZE, Groups
from minivllm.models.quantized import QuantizedLinear
from minivllm.native import build, codes
from tests.kernels.batches import same_bits
from tests.native.sequences import needs_codes

BF16 = torch.bfloat16
TOKENS = [*range(14), 253]
"""Tiles are of six tokens; from eight on, threads share the panels in another way."""
SHAPES = [(32, 32), (64, 96), (160, 64), (96, 576)]


def some_groups(rows: int, cols: int, bits: int, seed: int = 0, size: float = 0.01) -> Groups:
    """Scales and minima as a file has them, in float16; all codes, the largest and 0 included."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (rows, cols), generator=generator, dtype=torch.uint8)
    codes[0, 0], codes[-1, -1] = 0, 2**bits - 1
    scale, minimum = torch.randn(2, rows, cols // GROUP_SIZE, generator=generator) * size
    return Groups(codes, scale.half().float(), (8 * minimum).half().float(), bits)


def integers(tokens: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Activations that are bytes already: of each group the largest is 127, or -127."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (tokens, cols // GROUP_SIZE, GROUP_SIZE), generator=generator)
    at = torch.randint(0, GROUP_SIZE, x.shape[:2], generator=generator)
    sign = torch.randint(0, 2, x.shape[:2], generator=generator) * 2 - 1
    x.scatter_(2, at[..., None], (127 * sign)[..., None])
    return x.view(tokens, cols).to(BF16)


def product(x: torch.Tensor, groups: Groups, bias: torch.Tensor | None) -> torch.Tensor:
    y = x.double() @ exact(groups).T
    return y if bias is None else y + bias.double()


def exact(groups: Groups) -> torch.Tensor:
    wide = groups.codes.view(*groups.scale.shape, GROUP_SIZE).double()
    scaled = wide * groups.scale.double()[..., None]
    return (scaled + groups.minimum.double()[..., None]).view(groups.codes.shape)


def summed(x: torch.Tensor, groups: Groups) -> torch.Tensor:
    """What is added up, without its signs: (tokens, rows). Float32 rounds in proportion to it."""
    wide = groups.codes.view(*groups.scale.shape, GROUP_SIZE).double()
    parts = wide * groups.scale.double().abs()[..., None] + groups.minimum.double().abs()[..., None]
    return x.double().abs() @ parts.view(groups.codes.shape).T


def rounding(x: torch.Tensor, groups: Groups) -> torch.Tensor:
    """How far a result may move, half a step of each group's activations: (tokens, rows)"""
    by_group = x.double().view(x.shape[0], -1, GROUP_SIZE).abs().amax(2)
    weights = exact(groups).abs().view(*groups.scale.shape, GROUP_SIZE).sum(2)
    return by_group / 254 @ weights.T


def test_there_is_a_product_of_codes_where_the_cpu_multiplies_bytes() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    assert build.library() is not None
    assert codes.available() == ("avx512_vnni" in flags)


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_integers_are_multiplied_exactly(
    shape: tuple[int, int], bits: int, with_bias: bool
) -> None:
    rows, cols = shape
    groups = some_groups(rows, cols, bits)
    bias = torch.randn(rows, generator=torch.Generator().manual_seed(1)) if with_bias else None
    linear = QuantizedLinear(groups, bias)
    for tokens in TOKENS:
        x = integers(tokens, cols, seed=tokens)
        expected = product(x, groups, bias)
        found = linear(x)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        error = (found.double() - expected).abs()
        assert bool((error <= 1e-6 * summed(x, groups) + 1e-6).all()), error.max()
        if tokens:
            assert float(error.norm() / expected.norm()) < 1e-5


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_an_activation_moves_by_half_a_step_of_its_group(
    shape: tuple[int, int], bits: int, size: float
) -> None:
    rows, cols = shape
    groups = some_groups(rows, cols, bits, seed=2)
    linear = QuantizedLinear(groups)
    for tokens in TOKENS[1:]:
        x = torch.randn(tokens, cols, generator=torch.Generator().manual_seed(tokens))
        x[:, ::7] *= 30  # some stand out, as in a real model
        x = (x * size).to(BF16)
        error = (linear(x).double() - product(x, groups, None)).abs()
        most = 1.001 * rounding(x, groups) + 1e-6 * summed(x, groups)
        assert bool((error <= most).all()), (error / most).max()
        assert bool((error > 0).any()), "nothing was rounded: this is another product"


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_may_be_anything_a_file_can_hold(bits: int) -> None:
    """Zeros, float16's smallest and largest, negative ones: each as it is, row by row."""
    groups = some_groups(64, 96, bits, seed=3)
    sizes = torch.tensor([0.0, 2**-24, 6.1e-5, -0.5, 65504.0, -65504.0]).half().float()
    scale = sizes[torch.arange(64 * 3) % 6].view(64, 3)
    minimum = sizes[torch.arange(64 * 3) // 6 % 6].view(64, 3)
    groups = Groups(groups.codes, scale, minimum, bits)
    x = integers(7, 96, seed=4)
    error = (QuantizedLinear(groups)(x).double() - product(x, groups, None)).abs()
    assert bool((error <= 1e-6 * summed(x, groups)).all())


@needs_codes
def test_what_is_nothing_is_nothing_and_what_is_tiny_stays_so() -> None:
    """1e-38 and less has no byte: it counts as 0, and what stands beside it is what it was."""
    groups = some_groups(64, 96, 4, seed=5)
    linear, bias = QuantizedLinear(groups), torch.randn(64)
    assert torch.equal(linear(torch.zeros(3, 96, dtype=BF16)), torch.zeros(3, 64))
    assert torch.equal(
        QuantizedLinear(groups, bias)(torch.zeros(3, 96, dtype=BF16)), bias.expand(3, -1)
    )
    x = integers(4, 96, seed=6)
    x[0], x[1, :32], x[2, 32:64], x[3, 64:] = 1e-38, -1e-38, 1e-40, 1e-29
    error = (linear(x).double() - product(x, groups, None)).abs()
    assert bool((error <= 1e-6 * summed(x, groups) + 1e-28).all())
    assert float(linear(x)[0].abs().max()) < 1e-28


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_stays_in_its_token_and_shows_there(bits: int, bad: float) -> None:
    """In every result of the token, never as a plausible number; all else to the last bit."""
    linear = QuantizedLinear(some_groups(64, 96, bits, seed=7))
    for tokens in (1, 2, 7, 13):
        clean = torch.randn(tokens, 96, generator=torch.Generator().manual_seed(8)).to(BF16)
        expected = linear(clean)
        for token in {0, tokens // 2, tokens - 1}:
            for at in (0, 17, 40, 95):
                x = clean.clone()
                x[token, at] = bad
                found = linear(x)
                assert not bool(found[token].isfinite().any())
                others = torch.arange(tokens) != token
                assert same_bits(found[others], expected[others])


@needs_codes
def test_rows_need_not_lie_one_behind_the_other() -> None:
    linear, x = QuantizedLinear(some_groups(64, 96, 4)), integers(9, 192)
    assert same_bits(linear(x[::2, 96:]), linear(x[::2, 96:].contiguous()))


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [32, 160, codes.ROWS_AT_ONCE + 64])
def test_a_row_is_looked_up_as_it_was(rows: int, bits: int) -> None:
    """An embedding's; packed some rows at a time."""
    groups = some_groups(rows, 96, bits, seed=10)
    linear = QuantizedLinear(groups)
    numbers = torch.tensor([0, 1, 15, 16, 31, rows - 1, rows - 17, 16])
    assert torch.equal(linear.rows(numbers), groups.dense()[numbers].to(BF16))
    x = integers(2, 96)
    error = (linear(x).double() - product(x, groups, None)).abs()
    assert bool((error <= 1e-6 * summed(x, groups)).all())


@needs_codes
@pytest.mark.parametrize("bits", [4, 8])
def test_threads_change_no_bit(bits: int) -> None:
    linear = QuantizedLinear(some_groups(160, 96, bits))
    for tokens in (1, 5, 8, 40):
        x = torch.randn(tokens, 96, generator=torch.Generator().manual_seed(9)).to(BF16)
        linear._threads = 1
        expected = linear(x)
        for threads in (2, 3):
            linear._threads = threads
            assert same_bits(linear(x), expected)


def test_only_whole_panels_and_groups_fit() -> None:
    assert codes.fits(32, 32) and codes.fits(160, 576)
    assert not codes.fits(48, 32) and not codes.fits(32, 48)
