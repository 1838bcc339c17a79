"""Launch: a kernel with its grid and its arguments, before it runs.

The backend runs it. ``minivllm bench kernels --aot`` makes the same launches of tensors without
memory, and compiles what they would run for a GPU that is not here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
"""Triton reads this variable when it is imported: kernels then run as Python on the CPU."""


@dataclass(slots=True)
class Launch:
    """One call of a kernel."""

    kernel: Any
    grid: tuple[int, ...]
    """Programs along each axis."""
    args: dict[str, Any]
    """By the kernel's own names: tensors, numbers, and the constants it is compiled for."""
    num_warps: int = 4
    """Groups of 32 threads that run one program."""
    num_stages: int = 1
    """Tiles of a loop that are on their way from memory while one is computed."""

    max_registers: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """By Triton's names."""
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.max_registers,
        }

    def run(self) -> None:
        if 0 not in self.grid:
            self.kernel[self.grid](**self.args, **self.options)
