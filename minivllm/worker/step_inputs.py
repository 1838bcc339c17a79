"""StepInputs: one step's arrays, where the model reads them.

On a CPU they are the batch's own arrays. On a GPU each array has two buffers, allocated once for
the largest step that may come: a staging buffer in pinned memory, which the GPU can fetch by
itself, and the device's own::

    FlatBatch (numpy)  ──write──▶  staging (pinned)  ──copy, asynchronous──▶  device buffer [:n]

So a step allocates nothing on the GPU, the CPU does not wait for the copies, and the addresses stay
the same, which is what a captured graph reads from (``decode_graphs.py``).

Counterpart in vLLM: ``vllm/v1/utils.py`` (``CpuGpuBuffer``) and the buffers of
``GPUModelRunner.__init__``. Left out: writing only the rows of the block table that changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from minivllm.attention.metadata import AttentionMetadata
from minivllm.worker.input_batch import FlatBatch


@dataclass(slots=True)
class ModelInputs:
    """What one forward pass reads."""

    input_ids: torch.Tensor
    """(num_tokens,) int64"""
    positions: torch.Tensor
    """(num_tokens,) int64"""
    metadata: AttentionMetadata


class StepInputs(Protocol):
    def load(self, flat: FlatBatch) -> ModelInputs:
        """The batch on the model's device."""
        ...


class HostInputs:
    """For a model on the CPU: the arrays as they are, without a copy."""

    def load(self, flat: FlatBatch) -> ModelInputs:
        return ModelInputs(
            torch.from_numpy(flat.input_ids),
            torch.from_numpy(flat.positions),
            AttentionMetadata(
                query_start_loc=torch.from_numpy(flat.query_start_loc),
                seq_lens=torch.from_numpy(flat.seq_lens),
                block_table=torch.from_numpy(flat.block_table),
                slot_mapping=torch.from_numpy(flat.slot_mapping),
            ),
        )


class Buffer:
    """An array's two homes. Its first dimension is how many tokens or requests there may be.
    ``fill``: what stands there until something is loaded."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *shape: int, fill: int = 0
    ) -> None:
        pinned = device.type == "cuda"
        self.staging = torch.full(shape, fill, dtype=dtype, pin_memory=pinned)
        self.array: np.ndarray = self.staging.numpy()
        self.device = torch.full(shape, fill, dtype=dtype, device=device)

    def send(self, count: int) -> torch.Tensor:
        """Start the copy of the first ``count`` entries; they are on the device for whatever is
        launched after this."""
        target = self.device[:count]
        return target.copy_(self.staging[:count], non_blocking=True)


class DeviceInputs:
    """Persistent buffers for up to ``max_num_tokens`` tokens of ``max_num_reqs`` requests with
    ``max_blocks`` blocks each. Raises ValueError for a batch beyond that (see :meth:`holds`)."""

    def __init__(
        self, device: torch.device, max_num_tokens: int, max_num_reqs: int, max_blocks: int
    ) -> None:
        self.sizes = (max_num_tokens, max_num_reqs, max_blocks)
        self._input_ids = Buffer(device, torch.int64, max_num_tokens)
        self._positions = Buffer(device, torch.int64, max_num_tokens)
        self._slot_mapping = Buffer(device, torch.int64, max_num_tokens, fill=-1)  # nowhere
        self._query_start_loc = Buffer(device, torch.int32, max_num_reqs + 1)
        self._seq_lens = Buffer(device, torch.int32, max_num_reqs)
        self._block_table = Buffer(device, torch.int32, max_num_reqs, max_blocks)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def holds(self, flat: FlatBatch) -> bool:
        """Does the batch fit?"""
        sizes = (len(flat.input_ids), len(flat.seq_lens), flat.block_table.shape[1])
        return all(size <= most for size, most in zip(sizes, self.sizes, strict=True))

    def load(self, flat: FlatBatch, pad_to: int = 0) -> ModelInputs:
        """The batch in the first rows of the buffers. With ``pad_to``, for a batch of one token a
        request: as many rows as that, those behind the batch belonging to nobody."""
        if not self.holds(flat) or pad_to > min(self.sizes[:2]):
            raise ValueError(
                f"a batch of {len(flat.input_ids)} tokens, {len(flat.seq_lens)} requests and "
                f"{flat.block_table.shape[1]} blocks each, padded to {pad_to}; the buffers hold "
                f"{self.sizes}"
            )
        if self._copied is not None:
            # The last step's copies may still be on their way if it sampled nothing: only then
            # has the CPU not waited for the GPU since.
            self._copied.synchronize()
        num_tokens, num_reqs = len(flat.input_ids), len(flat.seq_lens)
        for buffer, source in (
            (self._input_ids, flat.input_ids),
            (self._positions, flat.positions),
            (self._slot_mapping, flat.slot_mapping),
            (self._query_start_loc, flat.query_start_loc),
            (self._seq_lens, flat.seq_lens),
        ):
            buffer.array[: len(source)] = source
        width = flat.block_table.shape[1]
        # Beyond a request's last block stands what an earlier one had there: nobody reads it,
        # since seq_lens ends before. A copy of whole rows is one copy.
        self._block_table.array[:num_reqs, :width] = flat.block_table
        if pad_to:
            self._pad(num_tokens, pad_to)
            num_tokens = num_reqs = pad_to
        for buffer in (self._input_ids, self._positions, self._slot_mapping):
            buffer.send(num_tokens)
        self._query_start_loc.send(num_reqs + 1)
        self._seq_lens.send(num_reqs)
        self._block_table.send(num_reqs)
        if self._copied is not None:
            self._copied.record()
        return self.views(num_tokens, num_reqs, self.sizes[2] if pad_to else width)

    def _pad(self, count: int, size: int) -> None:
        """Rows count … size - 1: token 0 at position 0, stored nowhere, of a request without a
        token or a key."""
        self._input_ids.array[count:size] = 0
        self._positions.array[count:size] = 0
        self._slot_mapping.array[count:size] = -1
        self._query_start_loc.array[count + 1 : size + 1] = count
        self._seq_lens.array[count:size] = 0

    def views(self, num_tokens: int, num_reqs: int, num_blocks: int) -> ModelInputs:
        """The first rows of the device's buffers: the same addresses each time."""
        return ModelInputs(
            self._input_ids.device[:num_tokens],
            self._positions.device[:num_tokens],
            AttentionMetadata(
                query_start_loc=self._query_start_loc.device[: num_reqs + 1],
                seq_lens=self._seq_lens.device[:num_reqs],
                block_table=self._block_table.device[:num_reqs, :num_blocks],
                slot_mapping=self._slot_mapping.device[:num_tokens],
            ),
        )


class GrowingInputs:
    """DeviceInputs for the steps that no graph has recorded: limits may be raised while the engine
    runs, and then the buffers are made anew, larger."""

    def __init__(self, device: torch.device, sizes: tuple[int, int, int]) -> None:
        self.device = device
        self._inputs = DeviceInputs(device, *sizes)

    def load(self, flat: FlatBatch) -> ModelInputs:
        if not self._inputs.holds(flat):
            needed = (len(flat.input_ids), len(flat.seq_lens), flat.block_table.shape[1])
            sizes = [max(pair) for pair in zip(needed, self._inputs.sizes, strict=True)]
            self._inputs = DeviceInputs(self.device, *sizes)
        return self._inputs.load(flat)
