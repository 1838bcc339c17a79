"""The messages between the front end and the engine core.

Counterpart in vLLM: ``vllm/v1/engine/__init__.py``. msgspec structs, so that the same messages can
cross a process boundary as msgpack; never pickle.
"""

from __future__ import annotations

import time
from enum import Enum

import msgspec

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.sampling_params import SamplingParams


class EngineCoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the front end sends it: tokenised, validated."""

    request_id: str
    """The caller's id (``chatcmpl-…``). Inside the core the request is ``r1``, ``r2``, …"""
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    eos_token_id: int | None = None
    priority: int = 0
    """Smaller is served first, under the priority policy."""
    cache_salt: str | None = None
    """Enters the first block's hash: only requests with the same salt share blocks."""
    parent: str | None = None
    """With n > 1: the request id of which this is one sample."""
    final_only: bool = False
    """Its reader sees no token before the last: should its engine die, it can begin anew."""


class EngineCoreEventType(str, Enum):
    """Stations of a request that only the core sees, for its timings."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"  # admitted, or let in again after a preemption
    PREEMPTED = "preempted"


class EngineCoreEvent(msgspec.Struct, frozen=True, array_like=True):
    type: EngineCoreEventType
    t_ns: int
    """``time.perf_counter_ns``, which all processes of a machine share."""


class EngineCoreOutput(msgspec.Struct, kw_only=True):
    """What one step brought for one request."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs] | None = None
    """With the first token: one row for each prompt token but the first, where asked for."""
    finish_reason: str | None = None
    """``stop`` | ``length`` | ``abort`` | ``error``, or None while it goes on."""
    stop_reason: int | str | None = None
    """The stop id that ended it; None for EOS; for ``error`` the message."""
    refused: bool = False
    """With ``error``: the request itself was at fault, as where its grammar cannot be compiled."""
    engine_died: bool = False
    """With ``error``: its engine has died."""
    begins_anew: bool = False
    """What it said before is void: its engine has died, and another one begins from its prompt.
    Comes from the front end (``dp_client.py``), without a token."""
    num_cached_tokens: int = 0
    """Prompt tokens that were found in the prefix cache at first admission."""
    events: list[EngineCoreEvent] = []
    """What has happened to the request since its last output, in order."""


class SpecDecodingStats(msgspec.Struct, frozen=True, kw_only=True):
    """Drafts of one step, over all requests."""

    num_drafts: int
    """Requests that ran with drafts."""
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_tokens_per_pos: list[int]
    """How many of the first drafts were right, of the second …"""


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine stands, and what its last step did: always made, traced or not.

    Counterpart in vLLM: ``SchedulerStats`` in ``vllm/v1/metrics/stats.py``, with its names.
    """

    engine: int
    step: int

    # How it stands, after the step.
    num_running_reqs: int
    num_waiting_reqs: int
    """Those that lack capacity."""
    num_skipped_waiting_reqs: int
    """Those that are deferred: their grammar is not there yet."""
    kv_cache_usage: float
    """Share of the blocks that is in use, 0 to 1; what is cached and free counts as free."""

    # What this step did; all 0 where an input has changed how it stands, without a step.
    prefix_cache_queries: int = 0
    """Tokens of requests that were admitted for the first time, if they were looked up."""
    prefix_cache_hits: int = 0
    """How many of these tokens were found."""
    num_preempted_reqs: int = 0
    num_prefill_tokens: int = 0
    """Tokens that ran because they were known: prompts, and outputs after a preemption."""
    num_decode_tokens: int = 0
    """Tokens that ran for requests which go on from the last they sampled, drafts included."""
    num_generation_tokens: int = 0
    """Tokens that were sampled and kept."""
    spec_decoding_stats: SpecDecodingStats | None = None

    @property
    def num_open_reqs(self) -> int:
        return self.num_running_reqs + self.num_waiting_reqs + self.num_skipped_waiting_reqs

    @classmethod
    def empty(cls, engine: int, step: int = 0) -> SchedulerStats:
        """Of an engine that has nothing to do, or is no more."""
        return cls(
            engine=engine,
            step=step,
            num_running_reqs=0,
            num_waiting_reqs=0,
            num_skipped_waiting_reqs=0,
            kv_cache_usage=0.0,
        )


class EngineCoreOutputs(msgspec.Struct, kw_only=True):
    """All outputs of one step. ``error`` is set once, when the engine's loop has died."""

    step: int
    outputs: list[EngineCoreOutput] = []
    error: str | None = None
    engine: int = 0
    """Which of several engines it comes from."""
    t_ns: int = msgspec.field(default_factory=time.perf_counter_ns)
    """When they were made (``time.perf_counter_ns``): the time of every token in them."""
    stats: SchedulerStats | None = None
    """None where nothing has changed since the last that were sent."""

    @property
    def has_news(self) -> bool:
        """Worth sending: a step without outputs and an abort change the statistics, too."""
        return bool(self.outputs) or self.stats is not None or self.error is not None
