"""What comes back to the caller: RequestOutput, one CompletionOutput for each sample.

Last room on a request's way: the output processor fills these from the engine core's tokens, and
``LLM.generate`` or the endpoint hands them out. Counterpart in vLLM: ``vllm/outputs.py``, with
the same field names. Left out: pooling outputs, LoRA, per-request metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class OutputKind(Enum):
    """How much of a request's output each RequestOutput repeats (vLLM: RequestOutputKind)."""

    CUMULATIVE = "cumulative"
    """All that was made so far."""
    DELTA = "delta"
    """What is new since the last one."""
    FINAL_ONLY = "final_only"
    """One RequestOutput, when every sample has finished."""


@dataclass(slots=True)
class Logprob:
    """One token that could have stood at a position."""

    logprob: float
    """Natural logarithm of its probability, before temperature or any other processor."""
    rank: int | None
    """1 = the most likely token of the vocabulary."""
    decoded_token: str
    """The token's name: what it adds to the text, or would (see ``engine/token_names.py``)."""


@dataclass(slots=True)
class CompletionOutput:
    """One sample of a prompt."""

    index: int
    """0 to n-1."""
    text: str
    token_ids: list[int]
    """All sampled ids, the one that ended the sample (EOS, stop id) included."""
    cumulative_logprob: float | None = None
    """Sum of the chosen tokens' logprobs over the whole sample so far, where logprobs were asked
    for."""
    logprobs: list[dict[int, Logprob]] | None = None
    """For each token: the chosen one first, then the most likely ones that were asked for."""
    finish_reason: str | None = None
    """``stop`` | ``length`` | ``abort`` | ``error``; None while it goes on."""
    stop_reason: int | str | None = None
    """The stop id or stop string that ended it; None for EOS; for ``error``, the message."""
    refused: bool = False
    """With ``error``: the request itself was at fault, as where its grammar cannot be compiled."""
    engine_died: bool = False
    """With ``error``: the engine that ran it has died."""

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def failed(self) -> bool:
        return self.finish_reason == "error"


@dataclass(slots=True)
class RequestOutput:
    """What a request has brought, or the part of it that is new (see :class:`OutputKind`)."""

    request_id: str
    prompt: str | None
    """The prompt's text, the chat template's frame included; None if ids were given."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    """Every one of the n samples has finished."""
    num_cached_tokens: int = 0
    """Prompt tokens that the prefix cache had; of n samples, what the first one found."""
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """For each token of the prompt, as in ``CompletionOutput.logprobs``; the first has None, since
    nothing stood before it. Where asked for, from the first token on; in deltas, with that."""

    engine: int | None = None
    """Which of several engines it came from; None where the front end ended it."""

    def merge(self, newer: RequestOutput, kind: OutputKind) -> None:
        """Take in what came later, for a reader that is slower than the engine.

        Deltas are joined, so nothing is lost; cumulative outputs are replaced.
        """
        self.finished = newer.finished
        self.num_cached_tokens = newer.num_cached_tokens
        self.engine = newer.engine if newer.engine is not None else self.engine
        if newer.prompt_logprobs is not None:
            self.prompt_logprobs = newer.prompt_logprobs
        mine = {output.index: i for i, output in enumerate(self.outputs)}
        for output in newer.outputs:
            i = mine.get(output.index)
            if i is None:
                self.outputs.append(output)
            elif kind is OutputKind.DELTA:
                _append(self.outputs[i], output)
            else:
                self.outputs[i] = output


def _append(older: CompletionOutput, newer: CompletionOutput) -> None:
    older.text += newer.text
    older.token_ids.extend(newer.token_ids)
    if newer.logprobs is not None:
        older.logprobs = (older.logprobs or []) + newer.logprobs
    older.cumulative_logprob = newer.cumulative_logprob
    older.finish_reason = newer.finish_reason
    older.stop_reason = newer.stop_reason
    older.refused, older.engine_died = newer.refused, newer.engine_died
