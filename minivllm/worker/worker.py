"""Worker: one device with its model and its KV cache.

    load the model ─▶ how large may the pool be? ─▶ allocate it ─▶ (GPU) record decode graphs ─▶ run

Counterpart in vLLM: ``vllm/v1/worker/gpu_worker.py``. Left out: sleep mode, LoRA.
"""

from __future__ import annotations

import torch

from minivllm.attention.selector import select_kernels, select_native
from minivllm.config import HOST_KV_CACHE_MEMORY, EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import ConfigError
from minivllm.models.loader import load_model
from minivllm.models.source import ModelSource
from minivllm.worker.decode_graphs import CudaGraphCapture, GraphCapture, capture_sizes
from minivllm.worker.memory_profile import CudaMemory, DeviceMemory, profile_memory
from minivllm.worker.model_runner import ModelRunner
from minivllm.worker.step_inputs import GrowingInputs


class Worker:
    """Loads the model on construction."""

    def __init__(self, config: EngineConfig, source: ModelSource) -> None:
        self.config = config
        self.device = _device(config.parallel.data_parallel_rank)
        # Before the weights are read: a refusal should not take as long as they do.
        self.backend, operators = select_kernels(config.model.attention_backend, self.device)
        self.model = load_model(source, config.model.dtype, self.device, config.model.quantization)
        if self.device.type == "cpu":
            name = config.model.attention_backend
            native = select_native(name, self.model.spec, self.dtype)
            self.backend, operators = native or (self.backend, operators)
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
        self.max_blocks = -(-self.max_model_len // config.cache.block_size)  # of one request
        if self.device.type == "cuda":
            self.keep_buffers()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.dtype

    @property
    def graph_sizes(self) -> list[int]:
        """Batch sizes of the recorded decode steps; none on a CPU."""
        return self.runner.graphs.sizes if self.runner.graphs is not None else []

    @property
    def kernel_path(self) -> str:
        """Whose kernels run; and whether a token's numbers may vary with what else is in its
        batch, beyond float32's rounding."""
        names = (self.backend.name, self.model.kernels)
        steady = self.dtype == torch.float32 or names == ("native", "codes")
        return ", ".join(filter(None, (*names, "" if steady else "varies with the batch")))

    def _max_model_len(self) -> int:
        trained = self.model.spec.max_model_len
        asked = self.config.model.max_model_len or trained
        if asked > trained:
            raise ConfigError("max_model_len", asked, f"up to {trained}, what the model can take")
        return asked

    def keep_buffers(self) -> None:
        """From now on the arrays of a step go to buffers that stay on the device."""
        limits = self.config.scheduler
        # A static batch may carry rows of nobody on top of the budget.
        most_tokens = limits.max_num_batched_tokens + limits.max_num_seqs
        sizes = (most_tokens, limits.max_num_seqs, self.max_blocks)
        self.runner.inputs = GrowingInputs(self.device, sizes)

    def initialize_kv_cache(self) -> int:
        """Allocate the pool, and on a GPU record the decode steps over it; returns its number of
        blocks, the null block included."""
        num_blocks = self.config.cache.num_kv_blocks or self._blocks_that_fit()
        self.runner.initialize_kv_cache(num_blocks)
        if self._records_graphs:
            self.record_graphs(CudaGraphCapture())
        return num_blocks

    def _blocks_that_fit(self) -> int:
        cache = self.config.cache
        token_bytes = self.model.spec.kv_bytes_per_token(self.dtype.itemsize)
        block_bytes = cache.block_size * token_bytes  # K and V over all layers
        memory = cache.kv_cache_memory
        if memory is None and self.device.type == "cuda":
            memory = self.measure_kv_memory(CudaMemory(self.device))
        elif memory is None:
            memory = HOST_KV_CACHE_MEMORY
        if memory < 2 * block_bytes:
            raise ConfigError(
                "kv_cache_memory",
                memory,
                f"at least {2 * block_bytes} bytes: the null block and one of {block_bytes} bytes",
            )
        return memory // block_bytes

    def measure_kv_memory(self, memory: DeviceMemory) -> int:
        """Bytes for the pool, by one run of the largest step."""
        limits, parallel = self.config.scheduler, self.config.parallel
        on_one_gpu = -(-parallel.data_parallel_size // max(1, torch.cuda.device_count()))
        num_seqs = min(limits.max_num_seqs, limits.max_num_batched_tokens)
        profile = profile_memory(
            memory,
            self.config.cache.gpu_memory_utilization,
            lambda: self.runner.run_largest_step(limits.max_num_batched_tokens, num_seqs),
            on_one_gpu,
        )
        return profile.available

    @property
    def _records_graphs(self) -> bool:
        """Only Triton's attention asks the GPU nothing while a step is launched."""
        triton = self.backend.name == "triton"
        return self.device.type == "cuda" and triton and not self.config.model.enforce_eager

    def record_graphs(self, capture: GraphCapture) -> None:
        sizes = capture_sizes(self.config.scheduler.max_num_seqs)
        self.runner.record_graphs(sizes, self.max_blocks, capture)

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return self.runner.execute_model(scheduler_output)


def _device(rank: int) -> torch.device:
    """The GPU of the engine with this rank, engine after engine; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
