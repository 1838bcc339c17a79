"""The worker's memory of the requests, and the flat batch that is built from it each step.

The scheduler sends a request's tokens once; afterwards only what changed (``SchedulerOutput``).
So the worker keeps, per request, every token id (prompt and what it sampled itself) and the block
table, until the request is named as finished. A preempted request stays: it comes back with a new
table and computes all its tokens, the sampled ones too, again.

Counterpart in vLLM: ``vllm/v1/worker/gpu_input_batch.py`` and ``GPUModelRunner._prepare_inputs``.
Left out: persistent pinned buffers, batch re-ordering, multimodal positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minivllm.core.scheduler_output import SchedulerOutput, TokenLogprobs
from minivllm.sample.row import SampleRow
from minivllm.sampling_params import SamplingParams


@dataclass(slots=True)
class CachedRequest:
    """A request as the worker knows it."""

    token_ids: list[int]
    """Prompt and output."""
    num_prompt_tokens: int
    block_ids: list[int]
    sampling_params: SamplingParams
    seed: int
    stop_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of prompt tokens 1, 2, …, as far as the prompt has run; kept over a preemption, so that
    what runs again is not told again. Empty unless asked for."""

    def sample_row(self, drafts: list[int] | None = None) -> SampleRow:
        """What the sampler must know to draw what follows ``token_ids`` and ``drafts``."""
        return SampleRow(
            self.sampling_params,
            self.seed,
            self.token_ids + drafts if drafts else self.token_ids,
            self.num_prompt_tokens,
            self.stop_token_ids,
        )

    def prompt_targets(self, start: int, end: int) -> range:
        """Those among positions ``start`` to ``end`` of which the logits tell a prompt token that
        is wanted and not known yet."""
        known = len(self.prompt_logprobs)
        if self.sampling_params.prompt_logprobs is None or known == self.num_prompt_tokens - 1:
            return range(0)
        if start > known:  # nothing would ever fill the gap
            raise RuntimeError(
                f"prompt_logprobs: the prompt runs on at token {start}, but only {known} are known;"
                " such a request must not read the prefix cache"
            )
        return range(known, min(end, self.num_prompt_tokens - 1))


@dataclass(slots=True)
class PromptRows:
    """``count`` rows of the batch whose logits tell prompt tokens ``target`` and following."""

    req_id: str
    first_row: int
    target: int
    count: int


@dataclass(slots=True)
class SampledRows:
    """Rows to sample for one request: its last known token's, and one more for each draft."""

    req_id: str
    first_row: int
    drafts: list[int]

    @property
    def count(self) -> int:
        return 1 + len(self.drafts)


@dataclass(slots=True)
class FlatBatch:
    """One step's tokens, all requests one after the other; see ``AttentionMetadata``."""

    input_ids: np.ndarray
    """(num_tokens,) int64"""
    positions: np.ndarray
    """(num_tokens,) int64: index of each token in its own sequence."""
    query_start_loc: np.ndarray
    """(num_reqs + 1,) int32"""
    seq_lens: np.ndarray
    """(num_reqs,) int32"""
    block_table: np.ndarray
    """(num_reqs, max_blocks) int32"""
    slot_mapping: np.ndarray
    """(num_tokens,) int64"""
    sampled: list[SampledRows]
    """Of each request whose last known token is in this batch."""
    prompt_rows: list[PromptRows]
    """Where prompt logprobs come from; empty unless somebody asks for them."""


class InputBatch:
    """Every request the worker knows, by name."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.requests: dict[str, CachedRequest] = {}

    def update(self, output: SchedulerOutput) -> None:
        """Forget the finished, take up the new, extend or replace block tables."""
        for req_id in output.finished_req_ids:
            self.requests.pop(req_id, None)  # one that was aborted before it ever ran is unknown
        for new in output.scheduled_new_reqs:
            self.requests[new.req_id] = CachedRequest(
                token_ids=list(new.prompt_token_ids),
                num_prompt_tokens=len(new.prompt_token_ids),
                block_ids=list(new.block_ids),
                sampling_params=new.sampling_params,
                seed=new.seed,
                stop_token_ids=new.stop_token_ids,
            )
        cached = output.scheduled_cached_reqs
        for req_id, block_ids in zip(cached.req_ids, cached.new_block_ids, strict=True):
            request = self.requests[req_id]
            if req_id in cached.resumed_req_ids:
                request.block_ids = list(block_ids)
            else:
                request.block_ids.extend(block_ids)

    def build(self, output: SchedulerOutput) -> FlatBatch:
        """Lay the scheduled tokens out; call :meth:`update` first."""
        first = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        first.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))

        names = list(output.num_scheduled_tokens)
        counts = np.array(list(output.num_scheduled_tokens.values()), dtype=np.int32)
        starts = np.array([first[name] for name in names], dtype=np.int32)
        query_start_loc: np.ndarray = np.zeros(len(names) + 1, dtype=np.int32)
        np.cumsum(counts, out=query_start_loc[1:])
        num_tokens = int(query_start_loc[-1])

        requests = [self.requests[name] for name in names]
        width = max(len(request.block_ids) for request in requests)
        block_table: np.ndarray = np.zeros(
            (len(names), width), dtype=np.int32
        )  # 0 = the null block
        input_ids: list[int] = []
        sampled: list[SampledRows] = []
        num_padding = output.num_padding_tokens  # rows of nobody: token 0 at position 0, slot -1
        prompt_rows: list[PromptRows] = []
        for i, (name, request) in enumerate(zip(names, requests, strict=True)):
            end = int(starts[i] + counts[i])
            block_table[i, : len(request.block_ids)] = request.block_ids
            drafts = output.scheduled_spec_decode_tokens.get(name, [])
            known = request.token_ids + drafts if drafts else request.token_ids
            input_ids += known[starts[i] : end]
            if wanted := request.prompt_targets(int(starts[i]), end):
                row = int(query_start_loc[i]) + wanted.start - int(starts[i])
                prompt_rows.append(PromptRows(name, row, wanted.start + 1, len(wanted)))
            if end == len(known):
                last_row = int(query_start_loc[i + 1]) - 1
                sampled.append(SampledRows(name, last_row - len(drafts), drafts))
            if end > len(known) or end > len(request.block_ids) * self.block_size:
                raise RuntimeError(
                    f"step {output.step}: {name} is scheduled up to token {end}, but the worker "
                    f"knows {len(known)} tokens and {len(request.block_ids)} blocks "
                    f"of {self.block_size}"
                )

        row_of_token: np.ndarray = np.repeat(np.arange(len(names)), counts)  # (num_tokens,)
        within = np.arange(num_tokens) - query_start_loc[row_of_token]  # 0, 1, … in its own chunk
        positions = starts[row_of_token] + within
        blocks = block_table[row_of_token, positions // self.block_size].astype(np.int64)
        slots = blocks * self.block_size + positions % self.block_size
        return FlatBatch(
            input_ids=np.array(input_ids + [0] * num_padding, dtype=np.int64),
            positions=np.pad(positions, (0, num_padding)),
            query_start_loc=query_start_loc,
            seq_lens=starts + counts,
            block_table=block_table,
            slot_mapping=np.pad(slots, (0, num_padding), constant_values=-1),
            sampled=sampled,
            prompt_rows=prompt_rows,
        )
