"""The answers' bodies, field by field: what a client may rely on.

The routes build these structs and the OpenAPI document is made of them, so neither can say what
the other does not. A field that is ``UNSET`` is left out of the JSON; None is written as null,
where OpenAI has a null.

Counterpart in vLLM: the response classes of ``vllm/entrypoints/openai/*/protocol.py``. Left out:
tool calls, reasoning, audio, service tiers, token ids beside the text.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from minivllm.engine.client import EngineState, EngineStatus

FinishReason = Literal["stop", "length"]


class Answer(msgspec.Struct):
    """Any of them."""


# --- usage ----------------------------------------------------------------------------------------


class PromptTokensDetails(Answer, kw_only=True):
    cached_tokens: int
    """Of the prompt's tokens, those whose keys and values the prefix cache had."""


class Usage(Answer, kw_only=True):
    """Tokens over all prompts and choices of one HTTP request; an EOS is one of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


# --- logprobs -------------------------------------------------------------------------------------


class PromptLogprob(Answer, kw_only=True):
    """vLLM's: a token that stands, or could have stood, at a place of the prompt."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""For each token of the prompt a map from token id; null for the first, which nothing precedes."""


class TokenLogprob(Answer, kw_only=True):
    token: str
    """What it adds to the text, or would; as in ``CompletionLogprobs``."""
    logprob: float
    bytes: list[int]
    """Its own, whole characters or not."""


class ChosenTokenLogprob(TokenLogprob, kw_only=True):
    top_logprobs: list[TokenLogprob]
    """The likeliest tokens at this place, likeliest first."""


class ChatLogprobs(Answer, kw_only=True):
    content: list[ChosenTokenLogprob]
    refusal: None = None


class CompletionLogprobs(Answer, kw_only=True):
    """Four columns with an entry for each token."""

    text_offset: list[int]
    """Where the token begins, in characters of the text."""
    token_logprobs: list[float | None]
    """null for the first token of an echoed prompt."""
    tokens: list[str]
    """What each adds to the text: a character that is split over several belongs to the last of
    them, and the others add "". Joined they are the text, but for EOS and what a stop string cut
    off."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest tokens, and the chosen one with them: up to one more than were asked for. A
    token that would complete no character is named by its bytes, ``bytes:\\xf0\\x9f``."""


# --- chat -----------------------------------------------------------------------------------------


class AssistantMessage(Answer, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answer, kw_only=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    """vLLM's: the stop id or stop string that ended it; null for EOS."""


class ChatCompletion(Answer, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatDelta(Answer, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Answer, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | UnsetType | None = UNSET


class ChatCompletionChunk(Answer, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    """Empty in the chunk that tells the usage."""
    system_fingerprint: None = None
    usage: Usage | UnsetType | None = UNSET


# --- completions ----------------------------------------------------------------------------------


class CompletionChoice(Answer, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    """null while the choice goes on, in a stream."""
    stop_reason: int | str | None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(Answer, kw_only=True):
    """The whole answer, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: None = None
    usage: Usage | UnsetType | None = UNSET


# --- the other routes -----------------------------------------------------------------------------


class ModelCard(Answer, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "minivllm"
    max_model_len: int
    """vLLM's: the context length, in tokens."""


class ModelList(Answer, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(Answer, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    """The tokens as the vocabulary writes them; null unless asked for."""


class Text(Answer, kw_only=True):
    prompt: str


class Health(Answer, kw_only=True):
    status: Literal["ok"] = "ok"
    ready: bool
    """Are new requests taken?"""
    engines: list[EngineStatus]


class Version(Answer, kw_only=True):
    version: str


class EngineLoad(Answer, kw_only=True):
    engine: int
    state: EngineState
    epoch: int
    """Which life of it this is."""
    open_requests: int
    """Sent to it and not finished."""
    stalled_s: float
    """Seconds since it last moved, though it has work; or, where it is not responsive, since it
    last gave a sign of life."""
    responsive: bool
    """Signs of life come; while they do not, it gets no requests that another one can take."""
    running: int
    waiting: int
    kv_cache_usage: float
    """0 to 1: the part of the KV blocks that is in use."""


class Load(Answer, kw_only=True):
    server_load: int
    """vLLM's: requests that have not been answered."""
    ready_engines: int
    """Those that take new requests and give signs of life; with none, ``/ready`` is 503."""
    engines: list[EngineLoad]


class EngineList(Answer, kw_only=True):
    engines: list[EngineStatus]


class ErrorDetail(Answer, kw_only=True):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorBody(Answer, kw_only=True):
    error: ErrorDetail
