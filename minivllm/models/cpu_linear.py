"""Matrix products on a CPU with weights that are laid out for it once: oneDNN's, and 4 bit.

Two of torch's kernels, each better where the other is weak. A batch of few tokens waits for the
weights to come from memory, and a 4-bit weight is a quarter of a bfloat16 one; a batch of many
tokens waits for the multiplications, which oneDNN does best. The 120 matrices of SmolLM2-135M, one
core, milliseconds::

    tokens in the batch      1      4      8     16     64
    F.linear, bfloat16    26.6   29.4   35.5   44.5    101
    oneDNN, reordered     17.9   16.2   20.2   26.4     82
    4 bit                  6.6   11.5   21.7   43.3    165

Neither is torch's public interface, so both are tried first (:func:`available`): a name that is
gone, or a wrong number, and everything runs on ``F.linear``. Counterpart in vLLM:
``vllm/model_executor/layers/utils.py`` (``dispatch_cpu_unquantized_gemm``) and
``vllm/model_executor/kernels/linear/``. Left out: torch's int8 products, which round a whole row of
activations by one scale (it ruins a small model: perplexity 12 → 29).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F

from minivllm.models.gguf_file import GROUP_SIZE, Groups

MOST_INT4_ROWS = 4
"""Tokens in a batch up to which the 4-bit kernel is used; its time grows with each (see above)."""
ROWS_AT_ONCE = 64 * 64
MOST_ERROR = 0.02
"""Relative error at which a kernel counts as broken. In bfloat16, right ones have 0.003."""


class OneDNNWeight:
    """A (rows, cols) matrix in oneDNN's own order; and what may follow a product, in one pass."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        ops = torch.ops.mkldnn
        self._weight, self._bias = ops._reorder_linear_weight(weight.contiguous(), 64), bias
        self._product, self._product_and = (
            ops._linear_pointwise.default,
            ops._linear_pointwise.binary,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, self._weight, self._bias, "none", [], "")  # (tokens, rows)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, self._weight, self._bias, "swish", [], "")

    def add(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """x Wᵀ + other"""
        return self._product_and(x, other, self._weight, self._bias, "add")

    def mul(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """x Wᵀ · other"""
        return self._product_and(x, other, self._weight, self._bias, "mul")


class PlainWeight:
    """The same by ``F.linear``: what runs where oneDNN's names are not what they were."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self(x))

    def add(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(x) + other

    def mul(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(x) * other


Weight = OneDNNWeight | PlainWeight


class Int4Weight:
    """A matrix of 4-bit codes, 32 of which share a scale and a minimum: a checkpoint's own.

    The kernel computes (code − 8) · scale + middle, so middle = minimum + 8 · scale. Codes are
    taken over as they are; scale and middle are rounded to bfloat16, as every weight here is.
    """

    def __init__(self, groups: Groups, bias: torch.Tensor | None = None) -> None:
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self._product = torch.ops.aten._weight_int4pack_mm_for_cpu.default
        # Some rows at a time: as integers of four bytes, all of them would be eight times as large.
        # The kernel's order goes by 64 rows, so the pieces fit together.
        pieces = [pack(some.int(), 1) for some in groups.codes.split(ROWS_AT_ONCE)]
        self._codes, self._bias = torch.cat(pieces), bias  # (rows, cols / 2) bytes
        middle = groups.minimum + 8 * groups.scale
        both = torch.stack((groups.scale, middle), dim=-1)  # (rows, groups, 2)
        self._scales = both.transpose(0, 1).bfloat16().contiguous()  # (groups, rows, 2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self._product(x, self._codes, GROUP_SIZE, self._scales)  # (tokens, rows)
        return y if self._bias is None else y + self._bias


@cache
def available(kernel: type[OneDNNWeight] | type[Int4Weight], dtype: torch.dtype) -> bool:
    """Whether this torch has the kernel and it computes what it should, on this machine."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (64, 64), generator=generator, dtype=torch.uint8)
    groups = Groups(codes, torch.full((64, 2), 0.01), torch.full((64, 2), -0.07), 4)
    x = torch.randn(3, 64, generator=generator).to(dtype)
    expected = x.float() @ groups.dense().T
    try:
        with torch.inference_mode():
            if kernel is Int4Weight:
                found = [Int4Weight(groups)(x)]
            else:
                weight = OneDNNWeight(groups.dense().to(dtype))
                one = torch.ones(3, 64, dtype=dtype)
                found = [weight(x), weight.mul(x, one), weight.add(x, one) - one]
                expected_silu = F.silu(expected)
                if _error(weight.silu(x), expected_silu) > MOST_ERROR:
                    return False
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return all(_error(y, expected) <= MOST_ERROR for y in found)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative; NaN, which is larger than nothing, as infinity."""
    error = float((found.float() - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def make_weight(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Weight:
    """In oneDNN's order, where that works; then ``weight`` itself is no longer needed."""
    if available(OneDNNWeight, weight.dtype):
        return OneDNNWeight(weight, bias)
    return PlainWeight(weight, bias)


@cache
def bfloat16_pays() -> bool:
    """Whether products are clearly faster in bfloat16 than in float32: measured, in some 20 ms.

    A CPU without bfloat16 instructions is slower in it, one that has them twice as fast; so where
    the line is drawn between the two does not matter, and a busy machine does not move it.
    """
    if not available(OneDNNWeight, torch.bfloat16):
        return False
    with torch.inference_mode():
        x, weight = torch.ones(256, 576), torch.ones(1536, 576)
        narrow, packed = x.bfloat16(), OneDNNWeight(weight.bfloat16())
        float32 = _fastest(lambda: F.linear(x, weight))
        bfloat16 = _fastest(lambda: packed(narrow))
    return bfloat16 * 1.3 < float32


def _fastest(run: Callable[[], object], times: int = 7) -> float:
    """Seconds of the fastest of several runs."""
    found = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found = min(found, time.perf_counter() - begin)
    return found
