"""The threads of OpenMP, which torch and the compiled code share.

Between two parallel loops a thread waits turning, for some microseconds; it falls asleep at once if
there are more threads than cores, and to wake it takes longer than a layer of a small model. Each
thread that has ever begun a loop keeps helpers of its own, so the one that loads a model and the
one that runs it have twice as many as there are cores: at one token a step that costs more than
the step (12.6 instead of 5.0 ms).
"""

from __future__ import annotations

import ctypes

SOFT = 1
"""``omp_pause_soft``: helpers go; settings stay."""


def release_threads() -> None:
    """Let the calling thread's helpers go; they come again when it needs some. Nothing happens
    where OpenMP's library is not GNU's (5.0 of the standard, GCC 9)."""
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if pause is not None:
        pause(SOFT)
