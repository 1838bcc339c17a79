"""How large may the KV pool be? What a GPU has left beside the weights and the largest step.

    total × gpu_memory_utilization
    ├ others         what other programs hold, and CUDA itself
    ├ peak           weights, and what the largest step needs on top for a moment
    └ the KV pool    the rest

The peak is measured, by running such a step once. What the recorded graphs take comes out of the
share that is not used (0.1 unless told otherwise).

Engines on one GPU have equal parts of ``total × gpu_memory_utilization``. Whoever measures sees of
its sisters whatever they hold by then: nothing yet, weights, all of their part. So ``others``
counts against the whole, and an engine's own peak against its part::

    pool = min(whole / engines, whole - others) - peak

The first is what each gets if all measure at the same time. The second is what is there: where
another program has taken some, the engine that comes last has less.

Counterpart in vLLM: ``GPUWorker.determine_available_memory`` in ``vllm/v1/worker/gpu_worker.py``.
Left out: an estimate of the graphs' memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from minivllm.errors import ConfigError


class DeviceMemory(Protocol):
    """What is asked of a device, in bytes."""

    def reset_peak(self) -> None: ...

    def free_and_total(self) -> tuple[int, int]: ...

    def reserved(self) -> int:
        """Held by torch, in use or not."""
        ...

    def peak(self) -> int:
        """Most that torch had in use since the last reset."""
        ...


class CudaMemory:
    """Of one NVIDIA GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def free_and_total(self) -> tuple[int, int]:
        torch.cuda.synchronize(self.device)
        return torch.cuda.mem_get_info(self.device)

    def reserved(self) -> int:
        return torch.cuda.memory_reserved(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """Bytes."""

    total: int
    others: int
    peak: int
    utilization: float
    num_engines: int = 1

    @property
    def part(self) -> int:
        """Of one engine, weights and all."""
        return int(self.total * self.utilization / self.num_engines)

    @property
    def available(self) -> int:
        """For the KV pool; not above 0 if nothing is left."""
        left = int(self.total * self.utilization) - self.others
        return min(self.part, left) - self.peak


def profile_memory(
    memory: DeviceMemory,
    utilization: float,
    run_largest_step: Callable[[], None],
    num_engines: int = 1,
) -> MemoryProfile:
    """``num_engines``: that share the device. Raises ConfigError if nothing is left for a pool."""
    memory.reset_peak()
    run_largest_step()
    peak = memory.peak()
    free, total = memory.free_and_total()
    others = total - free - memory.reserved()
    profile = MemoryProfile(total, others, peak, utilization, num_engines)
    if profile.available <= 0:
        part = f"each of {num_engines} engines may have {profile.part:,}, " * (num_engines > 1)
        raise ConfigError(
            "gpu_memory_utilization",
            utilization,
            f"more: of {total:,} bytes of GPU memory others hold {others:,}, "
            f"{part}weights and the largest step need {peak:,}, and nothing is left for the KV "
            "pool. Or a smaller max_num_batched_tokens, or a smaller model",
        )
    return profile
