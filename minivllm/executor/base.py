"""The executor: runs one step's batch on the device(s), whatever they are.

Counterpart in vLLM: ``vllm/v1/executor/abstract.py``. The engine core knows only this interface.
"""

from __future__ import annotations

from typing import Protocol

from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput


class Executor(Protocol):
    """What the engine core asks of whatever runs the model."""

    def describe(self) -> dict[str, object]:
        """Facts for the trace's header: ``model``, ``dtype``, ``device``, ``threads``,
        ``kernel_path``, ``fidelity``."""
        ...

    @property
    def max_model_len(self) -> int:
        """Longest sequence the model takes, in tokens (already capped by the configuration)."""
        ...

    def initialize_kv_cache(self) -> int:
        """Allocate the KV pool; returns its number of blocks, the null block included."""
        ...

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step. Blocks until the sampled ids are known."""
        ...

    def shutdown(self) -> None: ...
