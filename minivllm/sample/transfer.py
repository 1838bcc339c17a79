"""Between the host and the device: numbers are sent without waiting, and fetched once a step.

A GPU runs behind the CPU that commands it. Whoever looks at a number on it (``.item()``, ``if
tensor``, a shape that depends on values) waits until it has caught up, and then it has nothing to
do. So a step looks once: what it wants to know is gathered on the way, and the first who reads
fetches for all. A copy to the device waits, too, unless it comes from pinned memory.

Counterpart in vLLM: ``async_tensor_h2d`` in ``vllm/utils``, ``LogprobsTensors`` in
``vllm/v1/outputs.py``. Left out: a stream of its own for the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def send(values: Any, dtype: type[np.generic], device: torch.device) -> torch.Tensor:
    """The host's numbers as a tensor on the device."""
    tensor = torch.from_numpy(np.asarray(values, dtype))
    if device.type == "cpu":
        return tensor
    # Torch keeps the pinned memory until the copy has been made.
    return tensor.pin_memory().to(device, non_blocking=True)


class HostTransfer:
    """What the host wants to know of one step."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._numbers: list[list[float]] | None = None

    def add(self, *tensors: torch.Tensor) -> slice:
        """Fetch these, too. Returns what :meth:`read` takes."""
        if self._numbers is not None:
            raise RuntimeError("the step's transfer has been made; add before the first read")
        self._tensors += tensors
        return slice(len(self._tensors) - len(tensors), len(self._tensors))

    def read(self, which: slice) -> list[list[float]]:
        """The numbers of these tensors, flat; whole ones as floats. The first call waits."""
        if self._numbers is None:
            self._numbers = self._fetch()
        return self._numbers[which]

    def _fetch(self) -> list[list[float]]:
        """float64 holds every float32 and every index as they are."""
        numbers = torch.cat([tensor.flatten().double() for tensor in self._tensors]).tolist()
        result, start = [], 0
        for tensor in self._tensors:
            result.append(numbers[start : start + tensor.numel()])
            start += tensor.numel()
        return result
