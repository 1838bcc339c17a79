"""DecodeGraphs: a decode step of the whole model as one launch.

A decode does so little work per kernel that a GPU is faster through with one than Python is with
launching the next. A CUDA graph is a recording of the launches, with the addresses they read and
write, that the GPU runs by itself. It cannot change its shapes, so one is recorded for each of some
batch sizes, and a batch in between is padded with rows of nobody up to the next::

    5 requests, one token each ──▶ rows  r1 r2 r3 r4 r5 ·  ·  ·  ──▶ graph of 8 ──▶ hidden[:5]

Everything else (a prompt, a chunk, drafts, a step whose arrays are captured for the trace) runs
eagerly. What a graph has recorded must hold for every later step: it reads the same buffers
(``step_inputs.py``), and nothing in it depended on a number that Python looked up.

Counterpart in vLLM: ``vllm/v1/worker/gpu_model_runner.py`` (``capture_model``) and
``vllm/compilation/cuda_graph.py``, mode ``FULL_DECODE_ONLY``. Left out: piecewise graphs that also
cover prefills.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from minivllm.worker.input_batch import FlatBatch
from minivllm.worker.step_inputs import DeviceInputs, ModelInputs

LARGEST = 512
"""Rows: beyond, a step is long enough to hide its launches (vLLM's bound, too)."""

Forward = Callable[[ModelInputs], torch.Tensor]
"""Inputs → hidden, (num_tokens, hidden)."""


class GraphCapture(Protocol):
    """How a computation is recorded."""

    def __call__(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Record ``run``. What comes back does the same again, on what then stands in the memory
        that ``run`` read, and returns the same tensor each time."""
        ...


class CudaGraphCapture:
    """By ``torch.cuda.CUDAGraph``; all graphs share one pool of memory, since only one runs at a
    time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        # Once beforehand, beside the graph: Triton compiles, cuBLAS takes its workspace. Neither
        # may happen while a graph is recorded.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay


def capture_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to record: 1, 2, 4, then every eighth, up to the first that holds
    ``max_num_seqs`` (at most ``LARGEST``).

    The steps of eight bound the padding; a row of nobody costs what any row costs, which is next
    to nothing while a decode waits for its weights to come from memory.
    """
    most = min(max_num_seqs, LARGEST)
    sizes = [1, 2, 4, *range(8, LARGEST + 1, 8)]
    return [size for i, size in enumerate(sizes) if i == 0 or sizes[i - 1] < most]


def decode_of_nobody(size: int, num_blocks: int) -> FlatBatch:
    """A decode as any other, to record: ``size`` requests of one token, the first of its text, in
    rows of the block table as wide as they may be. Its K and V are stored nowhere, so the null
    block, which the rows name, stays zero."""
    return FlatBatch(
        input_ids=np.zeros(size, dtype=np.int64),
        positions=np.zeros(size, dtype=np.int64),
        query_start_loc=np.arange(size + 1, dtype=np.int32),
        seq_lens=np.ones(size, dtype=np.int32),
        block_table=np.zeros((size, num_blocks), dtype=np.int32),
        slot_mapping=np.full(size, -1, dtype=np.int64),
        sampled=[],
        prompt_rows=[],
    )


class DecodeGraphs:
    """One recording for each batch size."""

    def __init__(
        self, sizes: list[int], inputs: DeviceInputs, forward: Forward, capture: GraphCapture
    ) -> None:
        """Records at once, the largest first: the smaller ones then find their memory in the
        pool."""
        self._inputs = inputs
        self._replays = {}
        for size in sorted(sizes, reverse=True):
            loaded = inputs.load(decode_of_nobody(size, inputs.sizes[2]))
            self._replays[size] = capture(lambda loaded=loaded: forward(loaded))  # type: ignore[misc]
        self.sizes = sorted(sizes)

    def size_for(self, flat: FlatBatch) -> int | None:
        """The recording that can run this batch: its number of rows, or None."""
        num_reqs = len(flat.seq_lens)
        decodes = len(flat.input_ids) == num_reqs  # every request has a token, so each has one
        if not decodes or not self._inputs.holds(flat):
            return None
        return next((size for size in self.sizes if size >= num_reqs), None)

    def run(self, flat: FlatBatch, size: int) -> torch.Tensor:
        """Hidden states of the batch's rows, (num_tokens, hidden): valid until the next run."""
        self._inputs.load(flat, pad_to=size)
        return self._replays[size]()[: len(flat.input_ids)]
