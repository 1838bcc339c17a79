"""What the machine could do at most: how fast it reads memory, and how fast it multiplies.

A decode step of one stream must read every weight once; a prompt must be multiplied with every
weight. Measured with the same threads as the engines, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

READ_BYTES = 2**28
"""Beyond any cache."""
SIDE = 1024


@dataclass(slots=True)
class Roofline:
    read_bytes_s: float
    flops_s: float
    """bfloat16"""

    def decode_tokens_s(self, weight_bytes: int) -> float:
        """One stream's most tokens a second."""
        return self.read_bytes_s / weight_bytes

    def prompt_tokens_s(self, num_params: int) -> float:
        """Two FLOPs a weight and token; attention's own are left out."""
        return self.flops_s / (2 * num_params)


def measure(threads: int) -> Roofline:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        numbers = torch.ones(READ_BYTES // 4)
        read = _fastest(lambda: numbers.sum())
        a = torch.ones(SIDE, SIDE, dtype=torch.bfloat16)
        product = _fastest(lambda: a @ a)
    finally:
        torch.set_num_threads(before)
    return Roofline(READ_BYTES / read, 2 * SIDE**3 / product)


def _fastest(run: Callable[[], object], times: int = 7) -> float:
    found = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found = min(found, time.perf_counter() - begin)
    return found
