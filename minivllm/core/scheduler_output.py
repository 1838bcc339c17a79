"""What the scheduler hands to the model runner, and what it gets back, once per step.

Counterpart in vLLM: ``vllm/v1/core/sched/output.py`` and ``vllm/v1/outputs.py``. A new request's
full data is sent once; afterwards only what changed, in columns. Left out: multimodal inputs,
LoRA, KV connectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from minivllm.sampling_params import SamplingParams


@dataclass(slots=True)
class NewRequestData:
    """A request the worker has not seen yet. The worker keeps it until it is finished."""

    req_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    seed: int
    """Resolved seed of this request's noise: its own, or one made from (run seed, ordinal)."""
    stop_token_ids: list[int]
    """EOS and the caller's stop ids: masked until ``min_tokens`` are there."""
    block_ids: list[int]
    """The block table: physical block of each logical block."""
    num_computed_tokens: int
    """Tokens whose K and V already lie in those blocks (a prefix hit)."""


@dataclass(slots=True)
class CachedRequestData:
    """Requests the worker knows, as columns: row i of each list belongs to ``req_ids[i]``."""

    req_ids: list[str] = field(default_factory=list)
    new_block_ids: list[list[int]] = field(default_factory=list)
    """Blocks to append to the table; for a resumed request, its whole new table."""
    num_computed_tokens: list[int] = field(default_factory=list)
    """Before this step."""
    resumed_req_ids: set[str] = field(default_factory=set)
    """Preempted before and now back: their tables are replaced, not extended."""


@dataclass(slots=True)
class SchedulerOutput:
    """One step's batch. Batch order is the order of ``num_scheduled_tokens``."""

    step: int
    scheduled_new_reqs: list[NewRequestData]
    scheduled_cached_reqs: CachedRequestData
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    finished_req_ids: list[str]
    """Finished or aborted since the last step: the worker forgets them."""
    preempted_req_ids: list[str] = field(default_factory=list)
    """Those that gave way when this step was decided."""
    num_decode_tokens: int = 0
    """Of the tokens, those of requests that go on from the last they sampled, drafts included;
    the rest is known already: prompts, and outputs that are computed again."""
    num_padding_tokens: int = 0
    """Rows to compute on for nobody: what static batching wastes."""
    scheduled_spec_decode_tokens: dict[str, list[int]] = field(default_factory=dict)
    """Drafts that run behind a request's last token; ``num_scheduled_tokens`` counts them."""
    grammar_bitmask: dict[str, bytes] = field(default_factory=dict)
    """Which tokens may be sampled, for each request with a grammar that is sampled in this step:
    (ceil(vocab / 32),) int32 words, a set bit is a token that may."""
    capture_tensors: bool = False
    """Hand the arrays of this step back, too (trace level ``tensors``, or an armed step)."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Raw log-softmax at one sampled position, before any processor touched the logits."""

    token_id: int
    logprob: float
    rank: int
    """1 = the most likely token."""
    top: list[tuple[int, float]] = []
    """The k most likely tokens with their logprobs, best first, where asked for."""


class ProcessorEffect(msgspec.Struct, frozen=True, array_like=True):
    """What one logits processor did to one row."""

    name: str
    masked: bool
    """True: these tokens cannot be drawn any more. False: their logits were changed."""
    count: int
    token_ids: list[int]
    """The most likely of them."""


class SampleDetail(msgspec.Struct, frozen=True, array_like=True):
    """How one token came about; told at trace level ``sampling``."""

    before: list[tuple[int, float]]
    """The most likely tokens with their raw logprobs, best first."""
    after: list[tuple[int, float]]
    """The same of the distribution that was drawn from, with probabilities."""
    effects: list[ProcessorEffect]
    """In the order in which they ran; processors that changed nothing are not in it."""


class TensorArray(msgspec.Struct, frozen=True, array_like=True):
    """One array of a step, as bytes: neither numpy nor torch is known here."""

    name: str
    dtype: str
    """In safetensors' words: ``F32`` | ``F16`` | ``BF16`` | ``I64`` | ``I32``."""
    shape: list[int]
    data: bytes
    """Little-endian, the last axis fastest."""


class StepTensors(msgspec.Struct, frozen=True, array_like=True):
    """The arrays of one step; told at trace level ``tensors``."""

    requests: list[str]
    """Whose tokens the rows are, in batch order; ``query_start_loc`` says where each begins."""
    arrays: list[TensorArray]
    left_out: list[tuple[str, int]]
    """(name, bytes) of arrays for which the limit had no room."""


@dataclass(slots=True)
class ModelRunnerOutput:
    """What the step sampled. A request that only ran a chunk of its prompt has no entry."""

    sampled_token_ids: dict[str, list[int]]
    """One token; with drafts also one for each that was right."""
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """For each entry above, one row per token where the runner has it (may be empty)."""
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """One row for each prompt token but the first, where asked for; once, with the first token
    that the request samples."""
    details: dict[str, list[SampleDetail]] = field(default_factory=dict)
    """For each sampled token, how it came about; empty below trace level ``sampling``."""
    tensors: StepTensors | None = None
    """The step's arrays, where they were asked for (``SchedulerOutput.capture_tensors``)."""
    errors: dict[str, str] = field(default_factory=dict)
    """Requests that failed alone (NaN logits), with a message for their caller."""
    refused: set[str] = field(default_factory=set)
    """Those of them whose own parameters left no token to draw."""
