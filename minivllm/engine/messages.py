"""The messages between the front end and the engine core.

Counterpart in vLLM: ``vllm/v1/engine/__init__.py``. msgspec structs, so that the same messages can
cross a process boundary as msgpack; never pickle.
"""

from __future__ import annotations

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
    num_cached_tokens: int = 0
    """Prompt tokens that were found in the prefix cache at first admission."""


class EngineCoreOutputs(msgspec.Struct, kw_only=True):
    """All outputs of one step. ``error`` is set once, when the engine's loop has died."""

    step: int
    outputs: list[EngineCoreOutput] = []
    error: str | None = None
