"""Worker: one device with its model and its KV cache.

Counterpart in vLLM: ``vllm/v1/worker/gpu_worker.py``. Left out: sleep mode, LoRA, and measuring
free memory with a dummy run: the pool's size is configured.
"""

from __future__ import annotations

import torch

from minivllm.attention.selector import select_kernels
from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import ConfigError
from minivllm.models.loader import load_model
from minivllm.models.source import ModelSource
from minivllm.worker.model_runner import ModelRunner


class Worker:
    """Loads the model on construction."""

    def __init__(self, config: EngineConfig, source: ModelSource) -> None:
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Before the weights are read: a refusal should not take as long as they do.
        self.backend, operators = select_kernels(config.model.attention_backend, self.device)
        self.model = load_model(source, config.model.dtype, self.device)
        self.model.use(operators)
        self.runner = ModelRunner(
            self.model,
            self.backend,
            config.cache.block_size,
            self.device,
            explain=config.trace.level in ("sampling", "tensors"),
            tensors_limit=config.trace.tensors_limit,
        )
        self.max_model_len = self._max_model_len()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.dtype

    def _max_model_len(self) -> int:
        trained = self.model.spec.max_model_len
        asked = self.config.model.max_model_len or trained
        if asked > trained:
            raise ConfigError("max_model_len", asked, f"up to {trained}, what the model can take")
        return asked

    def initialize_kv_cache(self) -> int:
        """Allocate the pool; returns its number of blocks, the null block included."""
        cache = self.config.cache
        token_bytes = self.model.spec.kv_bytes_per_token(self.dtype.itemsize)
        block_bytes = cache.block_size * token_bytes  # K and V over all layers
        num_blocks = cache.num_kv_blocks or cache.kv_cache_memory // block_bytes
        if num_blocks < 2:
            raise ConfigError(
                "kv_cache_memory",
                cache.kv_cache_memory,
                f"at least {2 * block_bytes} bytes: the null block and one of {block_bytes} bytes",
            )
        self.runner.initialize_kv_cache(num_blocks)
        return num_blocks

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return self.runner.execute_model(scheduler_output)
