"""UniprocExecutor: one worker, in this process.

Counterpart in vLLM: ``vllm/v1/executor/uniproc_executor.py``. The simplest of the executors: a call
goes straight through.
"""

from __future__ import annotations

import torch

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.models.source import resolve
from minivllm.worker.worker import Worker


class UniprocExecutor:
    """Finds the model's files and loads them; then runs steps.

    Raises ModelError and its kinds when the model cannot be found, read or understood.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.source = resolve(config.model.model)
        self.worker = Worker(config, self.source)

    def describe(self) -> dict[str, object]:
        """Facts for the trace's header."""
        return {
            "model": self.source.name,
            "dtype": str(self.worker.dtype).removeprefix("torch."),
            "device": self.worker.device.type,
            "threads": torch.get_num_threads(),
            "kernel_path": self.worker.kernel_path,
            "fidelity": "live",
        }

    @property
    def max_model_len(self) -> int:
        return self.worker.max_model_len

    def initialize_kv_cache(self) -> int:
        return self.worker.initialize_kv_cache()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return self.worker.execute_model(scheduler_output)

    def shutdown(self) -> None:
        """Nothing to stop: the worker's memory goes when this object does."""
