"""Noise that is looked up, not drawn: a hash of (seed, position, token id).

A generator that is shared, or that advances with every draw, would make a request's output depend
on its neighbours in the batch and on how often it was preempted. A counter-based hash gives
each token of each position its own number, whoever asks and in whatever order. Source of the idea:
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); the mixing function is
splitmix64's (Steele et al., 2014). Counterpart in vLLM: a ``torch.Generator`` per seeded request.
"""

from __future__ import annotations

import math

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = 23
"""Bits of the uniform number: (k + ½) · 2⁻²³ is exact in float32 and never 0 or 1."""

SPREAD = math.log(-math.log(2.0 ** -(_BITS + 1))) - math.log(-math.log1p(-(2.0 ** -(_BITS + 1))))
"""Largest difference between two values of :func:`gumbel`: 19.5. A token whose score lies further
below the best one cannot be drawn, so its noise need not be computed."""


def _signed(value: int) -> int:
    """The 64 bits as torch's signed integer; its products wrap around just the same."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _mix_int(value: int) -> int:
    """splitmix64's finaliser on one Python integer."""
    value &= 2**64 - 1
    value = (value ^ (value >> 30)) * _MIX[0] & (2**64 - 1)
    value = (value ^ (value >> 27)) * _MIX[1] & (2**64 - 1)
    return value ^ (value >> 31)


def _xor_shift(bits: torch.Tensor, shift: int) -> torch.Tensor:
    """``bits ^ (bits >> shift)``; torch's shift copies the sign, so the copies are masked off."""
    return bits ^ ((bits >> shift) & (2 ** (64 - shift) - 1))


def stream(seed: int, position: int) -> int:
    """What names a row's noise: the numbers of all token ids follow from it."""
    return _signed(_mix_int(_mix_int(seed + _GOLDEN) + (position + 1) * _GOLDEN))


def gumbel(seed: int, position: int, token_ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float32, one for each of ``token_ids`` (any shape, int64).

    ``position`` is the index in the sequence that the drawn token will have. The token with the
    largest (logit + noise) is a fair draw from softmax(logits).
    """
    return gumbel_of(stream(seed, position), token_ids)


def gumbel_of(stream: int | torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """The same of a :func:`stream`, or of one for each row: (num_rows, 1) int64 and (vocab,) ids
    → (num_rows, vocab)."""
    bits = token_ids * _signed(_GOLDEN) + stream
    bits = _xor_shift(bits, 30) * _signed(_MIX[0])
    bits = _xor_shift(bits, 27) * _signed(_MIX[1])
    bits = _xor_shift(bits, 31)
    uniform = ((bits >> (64 - _BITS)) & (2**_BITS - 1)).float().add_(0.5).mul_(2.0**-_BITS)
    return uniform.neg_().log1p_().neg_().log_().neg_()  # -log(-log(1 - u)) is Gumbel
