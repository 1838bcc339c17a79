"""An executor without a model that hands made-up arrays back where a step is to be captured."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from minivllm.core.scheduler_output import (
    ModelRunnerOutput,
    SchedulerOutput,
    StepTensors,
    TensorArray,
)
from minivllm.executor.scripted import ScriptedExecutor


def floats(name: str, shape: list[int], values: Sequence[float], dtype: str = "F32") -> TensorArray:
    letter = {"F32": "f", "F16": "e", "I64": "q", "I32": "i"}[dtype]
    return TensorArray(name, dtype, shape, struct.pack(f"<{len(values)}{letter}", *values))


def made_up(requests: list[str], layers: int = 2, heads: int = 3, keys: int = 4) -> StepTensors:
    """One query token each; key i of layer l, head h has the weight l + h/10 + i/100."""
    arrays = [floats("seq_lens", [len(requests)], [keys] * len(requests), "I32")]
    for req in requests:
        weights = [la + h / 10 + i / 100 for la in range(layers) for h in range(heads)
                   for i in range(keys)]  # fmt: skip
        arrays.append(floats(f"attention.{req}", [layers, heads, 1, keys], weights, "F16"))
    return StepTensors(requests, arrays, [])


class TensorExecutor(ScriptedExecutor):
    """``left_out`` is what it says that the limit had no room for."""

    left_out: tuple[tuple[str, int], ...] = ()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        output = super().execute_model(scheduler_output)
        if scheduler_output.capture_tensors:
            made = made_up(list(scheduler_output.num_scheduled_tokens))
            output.tensors = StepTensors(made.requests, made.arrays, list(self.left_out))
        return output
