"""Capture: the arrays of one step, copied beside the computation (trace level ``tensors``).

A captured step runs as every other. What differs: the step's attention is wrapped, so that after
each layer the queries, the new K and V and the cache are seen here. A step that is not captured
makes no object of this file and takes no branch in any layer.

The sizes are known before the first layer, so what the limit has no room for is left out from the
start, and named: first each request's attention weights in batch order (a long prompt's are
the largest, queries × keys for every head), then K and V. No counterpart in vLLM.
"""

from __future__ import annotations

import numpy as np
import torch

from minivllm.attention.metadata import AttentionStep
from minivllm.attention.weights import attention_weights
from minivllm.core.scheduler_output import StepTensors, TensorArray
from minivllm.models.spec import ModelSpec
from minivllm.worker.input_batch import FlatBatch

NUM_TOP = 10
"""Likeliest tokens kept of each row that was sampled."""

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}


class StepCapture:
    """The arrays of one step, filled layer by layer."""

    def __init__(
        self,
        req_ids: list[str],
        flat: FlatBatch,
        spec: ModelSpec,
        dtype: torch.dtype,
        block_size: int,
        limit_bytes: int,
    ) -> None:
        self._req_ids, self._spec = req_ids, spec
        self._arrays: dict[str, torch.Tensor] = {
            name: torch.from_numpy(getattr(flat, name))
            for name in (
                "input_ids",
                "positions",
                "query_start_loc",
                "seq_lens",
                "slot_mapping",
                "block_table",
            )
        }
        self._room = limit_bytes - sum(array.nbytes for array in self._arrays.values())
        self._left_out: list[tuple[str, int]] = []
        self._watched: list[tuple[str, slice, torch.Tensor]] = []
        """(array's name, the request's rows, cache slots of its keys)"""
        starts = flat.query_start_loc.tolist()
        for i, seq_len in enumerate(flat.seq_lens.tolist()):
            name, rows = f"attention.{req_ids[i]}", slice(starts[i], starts[i + 1])
            shape = (spec.num_layers, spec.num_heads, rows.stop - rows.start, seq_len)
            if self._make(name, shape, torch.float16):
                positions = np.arange(seq_len)
                blocks: np.ndarray = flat.block_table[i, positions // block_size].astype(np.int64)
                slots = blocks * block_size + positions % block_size
                self._watched.append((name, rows, torch.from_numpy(slots)))
        self._num_tokens = starts[-1]  # without the rows that static batching pads with
        kv_shape = (spec.num_layers, self._num_tokens, spec.num_kv_heads, spec.head_dim)
        for name in ("k", "v"):
            self._make(name, kv_shape, dtype)
        self._layer = 0

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        """Set an array aside, if there is room for it."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > self._room:
            self._left_out.append((name, size))
            return False
        self._room -= size
        self._arrays[name] = torch.empty(shape, dtype=dtype)
        return True

    def watch(self, attention: AttentionStep) -> AttentionStep:
        return _WatchedAttention(attention, self)

    def take_layer(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> None:
        """One layer's, after its attention has run; shapes as in ``AttentionStep.forward``."""
        key_cache = kv_cache[0].view(-1, *k.shape[1:])  # (slots, kv heads, head_dim)
        for name, rows, slots in self._watched:
            keys = key_cache.index_select(0, slots.to(key_cache.device))
            self._arrays[name][self._layer] = attention_weights(q[rows], keys)
        for name, new in (("k", k), ("v", v)):
            if name in self._arrays:
                self._arrays[name][self._layer] = new[: self._num_tokens]
        self._layer += 1

    def take_logits(self, rows: list[int], logits: torch.Tensor) -> None:
        """The likeliest tokens after these rows of the batch. logits: (rows, vocab) float32."""
        top = torch.log_softmax(logits, dim=-1).topk(min(NUM_TOP, logits.shape[-1]), dim=-1)
        self._arrays["top.rows"] = torch.tensor(rows)
        self._arrays["top.token_ids"] = top.indices
        self._arrays["top.logprobs"] = top.values

    def result(self) -> StepTensors:
        arrays = [
            TensorArray(name, _DTYPES[array.dtype], list(array.shape), _bytes(array))
            for name, array in self._arrays.items()
        ]
        return StepTensors(self._req_ids, arrays, self._left_out)


class _WatchedAttention:
    """A backend's attention, and each layer shown to the capture afterwards."""

    def __init__(self, inner: AttentionStep, capture: StepCapture) -> None:
        self._inner, self._capture = inner, capture

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        out = self._inner.forward(q, k, v, kv_cache)
        self._capture.take_layer(q, k, v, kv_cache)
        return out


def _bytes(array: torch.Tensor) -> bytes:
    return array.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
