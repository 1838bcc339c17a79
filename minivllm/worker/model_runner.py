"""ModelRunner: one step on one device, from the scheduler's decision to the sampled ids.

    update the requests → build the flat batch → forward → logits of the last rows → sample

Counterpart in vLLM: ``vllm/v1/worker/gpu_model_runner.py``. Left out: CUDA graphs, speculative
decoding, LoRA, multimodal encoders, pipeline stages.
"""

from __future__ import annotations

import numpy as np
import torch

from minivllm.attention.metadata import AttentionBackend, AttentionMetadata
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import ConfigError
from minivllm.models.causal_lm import CausalLM
from minivllm.sample.sampler import sample
from minivllm.worker.input_batch import FlatBatch, InputBatch


class ModelRunner:
    """Keeps the requests' tokens and the KV cache, and runs the model over each step's batch."""

    def __init__(
        self,
        model: CausalLM,
        backend: AttentionBackend,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.model, self.backend, self.device = model, backend, device
        self.block_size = block_size
        self.batch = InputBatch(block_size)
        self.kv_caches: list[torch.Tensor] = []

    def initialize_kv_cache(self, num_blocks: int) -> None:
        """Allocate K and V of ``num_blocks`` blocks for every layer.

        Zeros, because attention reads the null block as padding. The system hands out the memory
        when it is first written, so an unused pool costs nothing. Raises ConfigError for a pool
        that it does not hand out at all.
        """
        spec = self.model.spec
        shape = self.backend.kv_cache_shape(
            num_blocks, self.block_size, spec.num_kv_heads, spec.head_dim
        )
        dtype = self.model.embed_tokens.dtype
        try:
            self.kv_caches = [
                torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(spec.num_layers)
            ]
        except (RuntimeError, OverflowError, TypeError) as error:  # the last two: beyond 64 bits
            wanted = num_blocks * self.block_size * spec.kv_bytes_per_token(dtype.itemsize)
            raise ConfigError(
                "num_kv_blocks",
                num_blocks,
                f"a pool that fits in memory; {wanted} bytes wanted, "
                "reduce num_kv_blocks or kv_cache_memory",
            ) from error

    @torch.inference_mode()
    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step and remember what it sampled.

        A request is sampled only if its last known token is in the batch; one that ran a chunk in
        the middle of its prompt has no entry in the result.
        """
        self.batch.update(scheduler_output)
        if not scheduler_output.num_scheduled_tokens:
            return ModelRunnerOutput(sampled_token_ids={})
        flat = self.batch.build(scheduler_output)
        hidden = self._forward(flat)  # (num_tokens, hidden)
        return self._sample(hidden, flat.sampled)

    def _forward(self, flat: FlatBatch) -> torch.Tensor:
        metadata = AttentionMetadata(
            query_start_loc=self._tensor(flat.query_start_loc),
            seq_lens=self._tensor(flat.seq_lens),
            block_table=self._tensor(flat.block_table),
            slot_mapping=self._tensor(flat.slot_mapping),
        )
        attention = self.backend.prepare(metadata, self.block_size)
        input_ids, positions = self._tensor(flat.input_ids), self._tensor(flat.positions)
        return self.model(input_ids, positions, self.kv_caches, attention)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _sample(self, hidden: torch.Tensor, sampled: list[tuple[str, int]]) -> ModelRunnerOutput:
        output = ModelRunnerOutput(sampled_token_ids={})
        if not sampled:
            return output
        last_rows = torch.tensor([row for _, row in sampled], device=self.device)
        logits = self.model.compute_logits(hidden[last_rows])  # (num_sampled, vocab) float32
        requests = [self.batch.requests[req_id] for req_id, _ in sampled]
        result = sample(logits, [request.sample_row() for request in requests])
        for i, (req_id, _) in enumerate(sampled):
            logprobs = result.logprobs[i]
            if logprobs is None:
                output.errors[req_id] = result.errors[i]
                continue
            requests[i].token_ids.append(result.token_ids[i])
            output.sampled_token_ids[req_id] = [result.token_ids[i]]
            output.logprobs[req_id] = [logprobs]
        return output
