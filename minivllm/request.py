"""Request: one request's state inside the engine core.

Counterpart in vLLM: ``vllm/v1/request.py``. Left out: multimodal inputs, LoRA, streaming sessions.
The worker keeps its own copy of the tokens; block tables belong to the KV cache
manager.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from minivllm.sampling_params import SamplingParams

if TYPE_CHECKING:
    from minivllm.engine.messages import EngineCoreEvent
    from minivllm.structured_output.interface import Grammar


class RequestStatus(str, Enum):
    WAITING = "waiting"
    WAITING_FOR_GRAMMAR = "waiting_for_grammar"  # in the waiting queue, passed over
    RUNNING = "running"
    PREEMPTED = "preempted"  # stands in the waiting queue again
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """``num_computed_tokens`` chases ``num_tokens``; that is all the scheduler knows of prefill
    and decode."""

    req_id: str
    """``r7``: the name inside the core and in the trace."""
    request_id: str
    """The caller's id."""
    ordinal: int
    """Order of arrival, from 1: ties are broken by it, never by a clock."""
    token_ids: list[int]
    """Prompt, then output."""
    num_prompt_tokens: int
    max_tokens: int
    """Most output tokens, already cut to what the context leaves."""
    sampling_params: SamplingParams
    seed: int
    eos_token_id: int | None = None
    priority: int = 0
    cache_salt: str | None = None
    arrival_step: int = 0
    """The first step that could schedule it."""

    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    """Tokens whose K and V are in the cache, or will be when the current step has run."""
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache when it was first admitted."""
    num_preemptions: int = 0
    spec_token_ids: list[int] = field(default_factory=list)
    """Drafts: what may follow ``token_ids``, to be run with them in the next step."""
    block_hashes: list[bytes] = field(default_factory=list)
    """One per full block of ``token_ids``; grown by the KV cache manager."""
    known_to_worker: bool = False
    grammar: Grammar | None = None
    """Where it stands in the grammar that its text must follow. It stays over a preemption: every
    output token moves it once, when it was sampled."""
    events: list[EngineCoreEvent] = field(default_factory=list)
    """What the front end has yet to hear, with its times. The engine core notes them: nobody who
    decides looks at a clock."""

    def take_events(self) -> list[EngineCoreEvent]:
        """For its next output."""
        events, self.events = self.events, []
        return events

    @property
    def waits_for_grammar(self) -> bool:
        return self.status is RequestStatus.WAITING_FOR_GRAMMAR

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_tokens_with_spec(self) -> int:
        return len(self.token_ids) + len(self.spec_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def stop_token_ids(self) -> list[int]:
        """What may not be drawn before ``min_tokens`` are there: the caller's stop ids and EOS.

        EOS even with ``ignore_eos``, as in vLLM: an ignored EOS would still end the text's sense.
        """
        eos = [] if self.eos_token_id is None else [self.eos_token_id]
        return eos + self.sampling_params.stop_token_ids

    def check_stop(self, max_model_len: int) -> tuple[str, int | None] | None:
        """Why the output ends with its newest token, as (finish_reason, stop_reason); or None.

        The order is EOS, stop ids, length. ``min_tokens`` holds back the first two. Under a grammar
        EOS is sampled where that is complete and nothing else may follow, so it always counts.
        """
        params, token_id = self.sampling_params, self.token_ids[-1]
        if token_id == self.eos_token_id and params.structured_outputs is not None:
            return "stop", None
        if self.num_output_tokens >= params.min_tokens:
            if token_id == self.eos_token_id and not params.ignore_eos:
                return "stop", None
            if token_id in params.stop_token_ids:
                return "stop", token_id
        if self.num_output_tokens >= self.max_tokens or self.num_tokens >= max_model_len:
            return "length", None
        return None
