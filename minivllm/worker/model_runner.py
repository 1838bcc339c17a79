"""ModelRunner: one step on one device, from the scheduler's decision to the sampled ids.

    update the requests → build the flat batch → forward → logits of the last rows → sample

The rows before the last have logits, too: they say how likely the prompt's own next token was, for
the few who ask (``prompt_logprobs``).

Drafts run behind the last token, and each of their rows is sampled as ever; how many were right
is seen by comparing (vLLM's ``rejection_sampler.py`` compares distributions; this compares tokens,
which is the same where the noise of a position is fixed).

On a GPU the arrays go through buffers that stay where they are (``step_inputs.py``), and a step of
decodes alone is one launch (``decode_graphs.py``).

Counterpart in vLLM: ``vllm/v1/worker/gpu_model_runner.py``. Left out: LoRA, multimodal encoders,
pipeline stages.
"""

from __future__ import annotations

import numpy as np
import torch

from minivllm.attention.metadata import AttentionBackend
from minivllm.config import TraceConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import ConfigError
from minivllm.models.causal_lm import CausalLM
from minivllm.sample.logprobs import LogprobRows, gather_logprobs
from minivllm.sample.row import SampleRow
from minivllm.sample.sampler import NOTHING_LEFT, SamplerOutput, sample
from minivllm.sample.transfer import HostTransfer, send
from minivllm.sampling_params import SamplingParams
from minivllm.worker.capture import StepCapture
from minivllm.worker.decode_graphs import DecodeGraphs, GraphCapture
from minivllm.worker.input_batch import FlatBatch, InputBatch, PromptRows, SampledRows
from minivllm.worker.step_inputs import DeviceInputs, HostInputs, ModelInputs, StepInputs

PROMPT_ROWS_AT_ONCE = 64
"""Logits of so many prompt tokens are made at once: over a vocabulary of 49,152 that is 12 MiB,
and 400 for the 2,048 tokens of a full step."""


class ModelRunner:
    """Keeps the requests' tokens and the KV cache, and runs the model over each step's batch."""

    def __init__(
        self,
        model: CausalLM,
        backend: AttentionBackend,
        block_size: int,
        device: torch.device,
        explain: bool = False,
        tensors_limit: int = TraceConfig().tensors_limit,
    ) -> None:
        """``explain``: tell of each token how it came about (trace level ``sampling``).
        ``tensors_limit``: most bytes of a captured step's arrays."""
        self.model, self.backend, self.device = model, backend, device
        self.explain = explain
        self.tensors_limit = tensors_limit
        self.block_size = block_size
        self.batch = InputBatch(block_size)
        self.kv_caches: list[torch.Tensor] = []
        self.inputs: StepInputs = HostInputs()
        self.graphs: DecodeGraphs | None = None

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
        capture = (
            self._capture(scheduler_output, flat) if scheduler_output.capture_tensors else None
        )
        hidden = self._forward(flat, capture)  # (num_tokens, hidden)
        transfer = HostTransfer()  # whatever is read below comes to the host in one
        prompts = [self._score_prompt(hidden, rows, transfer) for rows in flat.prompt_rows]
        masks = scheduler_output.grammar_bitmask
        result = self._sample(hidden, flat.sampled, masks, capture, transfer)
        for rows, pending in zip(flat.prompt_rows, prompts, strict=True):
            request = self.batch.requests[rows.req_id]
            request.prompt_logprobs += [entry for part in pending for entry in part.read()]
        output = ModelRunnerOutput(sampled_token_ids={})
        first = 0
        for sampled in flat.sampled:
            self._keep(sampled, result, first, output)
            first += sampled.count
        if capture is not None:
            output.tensors = capture.result()
        return output

    def _capture(self, scheduler_output: SchedulerOutput, flat: FlatBatch) -> StepCapture:
        return StepCapture(
            list(scheduler_output.num_scheduled_tokens),
            flat,
            self.model.spec,
            self.model.embed_tokens.dtype,
            self.block_size,
            self.tensors_limit,
        )

    @torch.inference_mode()
    def record_graphs(self, sizes: list[int], max_blocks: int, capture: GraphCapture) -> None:
        """Record decode steps of these batch sizes, over the KV cache as it is now: call this
        after :meth:`initialize_kv_cache`. ``max_blocks``: longest row of a block table."""
        inputs = DeviceInputs(self.device, max(sizes), max(sizes), max_blocks)
        self.graphs = DecodeGraphs(sizes, inputs, self._run_model, capture)

    @torch.inference_mode()
    def run_largest_step(self, num_tokens: int, num_seqs: int) -> None:
        """One step as large as the limits allow, for nobody: what memory it takes is measured
        (``memory_profile.py``). Its K and V are stored nowhere."""
        share, rest = divmod(num_tokens, num_seqs)
        counts = np.array([share + (i < rest) for i in range(num_seqs)], dtype=np.int32)
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        caches, self.kv_caches = self.kv_caches, []
        self.initialize_kv_cache(num_blocks=1)
        flat = FlatBatch(
            input_ids=np.zeros(num_tokens, dtype=np.int64),
            positions=np.concatenate([np.arange(count) for count in counts]),
            query_start_loc=starts,
            seq_lens=counts,
            block_table=np.zeros((num_seqs, -(-int(counts.max()) // self.block_size)), np.int32),
            slot_mapping=np.full(num_tokens, -1, dtype=np.int64),
            sampled=[],
            prompt_rows=[],
        )
        hidden = self._run_model(self.inputs.load(flat))
        last = send(starts[1:] - 1, np.int64, self.device)
        drawing = SampleRow(SamplingParams(top_p=0.9), 0, [0], 1)  # what takes most memory
        sample(self.model.compute_logits(hidden[last]), [drawing] * num_seqs)
        self.kv_caches = caches

    def _forward(self, flat: FlatBatch, capture: StepCapture | None) -> torch.Tensor:
        if capture is None and self.graphs is not None:
            size = self.graphs.size_for(flat)
            if size is not None:
                return self.graphs.run(flat, size)
        return self._run_model(self.inputs.load(flat), capture)

    def _run_model(self, inputs: ModelInputs, capture: StepCapture | None = None) -> torch.Tensor:
        attention = self.backend.prepare(inputs.metadata, self.block_size)
        if capture is not None:
            attention = capture.watch(attention)
        return self.model(inputs.input_ids, inputs.positions, self.kv_caches, attention)

    def _score_prompt(
        self, hidden: torch.Tensor, rows: PromptRows, transfer: HostTransfer
    ) -> list[LogprobRows]:
        """The logprobs of prompt tokens that the batch's rows predict."""
        request = self.batch.requests[rows.req_id]
        pending = []
        for done in range(0, rows.count, PROMPT_ROWS_AT_ONCE):
            count = min(PROMPT_ROWS_AT_ONCE, rows.count - done)
            row, target = rows.first_row + done, rows.target + done
            logits = self.model.compute_logits(hidden[row : row + count])  # (count, vocab)
            # In one pass: over thousands of rows it counts that logsumexp takes several.
            logprobs = logits.log_softmax(-1)
            tokens = send(request.token_ids[target : target + count], np.int64, self.device)
            num_top = [request.sampling_params.prompt_logprobs or 0] * count
            zeros = logprobs.new_zeros(count)
            pending.append(gather_logprobs(logprobs, zeros, tokens, num_top, transfer))
        return pending

    def _sample(
        self,
        hidden: torch.Tensor,
        sampled: list[SampledRows],
        masks: dict[str, bytes],
        capture: StepCapture | None,
        transfer: HostTransfer,
    ) -> SamplerOutput:
        if not sampled:
            return SamplerOutput([], [], {})
        numbers = [s.first_row + k for s in sampled for k in range(s.count)]
        logits = self.model.compute_logits(hidden[send(numbers, np.int64, self.device)])
        # (num_rows, vocab) float32
        if capture is not None:
            capture.take_logits(numbers, logits)
        rows = [
            self.batch.requests[s.req_id].sample_row(s.drafts[:k])
            for s in sampled
            for k in range(s.count)
        ]
        owners = [s.req_id for s in sampled for _ in range(s.count)]
        bitmask = self._bitmask(owners, masks, logits.shape[1])
        # Who armed a step wants to see how its tokens were drawn, too.
        explain = self.explain or capture is not None
        return sample(logits, rows, bitmask, explain, transfer)

    def _keep(
        self, sampled: SampledRows, result: SamplerOutput, first: int, output: ModelRunnerOutput
    ) -> None:
        """One request's new tokens, from row ``first`` of the result on: the first, and after each
        that its draft had right, the next. What lies behind a wrong draft answers another text."""
        req_id, request = sampled.req_id, self.batch.requests[sampled.req_id]
        if result.logprobs[first] is None:
            output.errors[req_id] = result.errors[first]
            if result.errors[first] == NOTHING_LEFT:
                output.refused.add(req_id)
            return
        begins = len(request.token_ids) == request.num_prompt_tokens
        if begins and request.sampling_params.prompt_logprobs is not None:
            output.prompt_logprobs[req_id] = request.prompt_logprobs
        token_ids = output.sampled_token_ids[req_id] = []
        output.logprobs[req_id] = []
        for i, draft in enumerate([*sampled.drafts, None], start=first):
            logprobs, detail = result.logprobs[i], result.details[i]
            if logprobs is None:  # the row after a right draft failed: it is sampled again alone
                break
            token_ids.append(result.token_ids[i])
            output.logprobs[req_id].append(logprobs)
            if detail is not None:
                output.details.setdefault(req_id, []).append(detail)
            if token_ids[-1] != draft:
                break
        request.token_ids += token_ids

    def _bitmask(
        self, req_ids: list[str], masks: dict[str, bytes], vocab_size: int
    ) -> np.ndarray | None:
        """(num_rows, ceil(vocab / 32)) int32; a row without a grammar is all ones.

        The masks are as wide as the tokenizer's vocabulary. Of the model's, what goes beyond it
        (padding) is masked; what it lacks is cut off.
        """
        if not masks:
            return None
        width = -(-vocab_size // 32)
        bitmask: np.ndarray = np.full((len(req_ids), width), -1, dtype=np.int32)
        for row, req_id in zip(bitmask, req_ids, strict=True):
            if req_id in masks:
                words = np.frombuffer(masks[req_id], dtype="<i4")[:width]
                row[: len(words)], row[len(words) :] = words, 0
        return bitmask
