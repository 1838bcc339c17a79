"""The request bodies: the fields of the two routes that generate.

What each field may be stands here twice over: as a type, which ``body.py`` holds a request to, and
as a sentence of the OpenAPI document; the ranges are checked where the engine is asked
(``SamplingParams``, ``InputProcessor``).

Counterpart in vLLM: ``vllm/entrypoints/openai/chat_completion/protocol.py`` and
``completion/protocol.py`` (pydantic there, msgspec here).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from minivllm.api.errors import ApiError
from minivllm.api.forms import ResponseFormat, StructuredOutputs
from minivllm.engine.input_processor import CACHE_SALT, MAX_CACHE_SALT
from minivllm.errors import SamplingParamsError, StructuredOutputError
from minivllm.sampling_params import (
    MAX_ALLOWED_TOKEN_IDS,
    MAX_BAD_WORDS,
    MAX_INT,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    REPETITION_PENALTY,
    SamplingParams,
)
from minivllm.structured_output.params import StructuredOutputsParams

MAX_PROMPTS = 1024
TOKEN_ID_KEY = "^[0-9]{1,10}$"
MAX_SEQUENCES = 1024
"""Prompts times n: caps what one request can make the engine hold."""


def says(**schema: Any) -> msgspec.Meta:
    """What the OpenAPI document tells of a field beyond its type. It is not checked by this:
    SamplingParams does that, and says better what was wrong; a test holds the two together."""
    return msgspec.Meta(extra_json_schema=schema)


Penalty = Annotated[float, says(minimum=-2, maximum=2)]
TokenId = Annotated[int, says(minimum=0, maximum=MAX_INT)]
StopString = Annotated[str, says(minLength=1, maxLength=MAX_STOP_CHARS)]
Message = Annotated[dict[str, Any], says(**{"$ref": "#/components/schemas/ChatMessage"})]
_ID = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
Prompt = Annotated[
    Any,
    says(
        anyOf=[
            {"type": "string", "minLength": 1},
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "minItems": 1,
                "maxItems": MAX_PROMPTS,
            },
            {"type": "array", "items": _ID, "minItems": 1},
            {
                "type": "array",
                "items": {"type": "array", "items": _ID, "minItems": 1},
                "minItems": 1,
                "maxItems": MAX_PROMPTS,
            },
        ]
    ),
]


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = False
    """Send a last chunk with the usage."""
    continuous_usage_stats: bool | None = False
    """Send the usage so far with every chunk (a vLLM extension); ignored without
    ``include_usage``."""


class TextPart(msgspec.Struct):
    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct):
    """One message. The input processor reads it (``normalise_messages``); this is for the OpenAPI
    document alone."""

    role: Annotated[str, says(minLength=1)]
    """What the model's template knows: ``system``, ``user``, ``assistant`` …; ``developer`` is
    ``system``."""
    content: str | list[TextPart] | None
    """null of an assistant only."""


class ToolFunction(msgspec.Struct):
    name: str


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: ToolFunction


class GenerationFields(msgspec.Struct, kw_only=True):
    """What both routes take. null means the default, as with OpenAI."""

    model: str | None = None
    """null, or absent: the one model there is."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, says(minimum=0, maximum=MAX_INT)] | None = None
    n: Annotated[int, says(minimum=1, maximum=MAX_N)] | None = 1
    temperature: Annotated[float, says(minimum=0, maximum=2)] | None = None
    top_p: Annotated[float, says(exclusiveMinimum=0, maximum=1)] | None = None
    seed: Annotated[int, says(minimum=-(2**63), maximum=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], says(maxItems=MAX_STOP_STRINGS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[str, float],
            says(maxProperties=MAX_LOGIT_BIAS, propertyNames={"pattern": TOKEN_ID_KEY}),
        ]
        | None
    ) = None
    """JSON has no other keys than strings; these are token ids."""
    response_format: ResponseFormat | None = None
    # Extensions of vLLM.
    top_k: Annotated[int, says(minimum=-1, maximum=MAX_INT)] | None = None
    min_p: Annotated[float, says(minimum=0, maximum=1)] | None = None
    repetition_penalty: (
        Annotated[float, says(minimum=REPETITION_PENALTY[0], maximum=REPETITION_PENALTY[1])] | None
    ) = None
    min_tokens: Annotated[int, says(minimum=0, maximum=MAX_INT)] | None = None
    stop_token_ids: Annotated[list[TokenId], says(maxItems=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = False
    structured_outputs: StructuredOutputs | None = None
    allowed_token_ids: (
        Annotated[list[TokenId], says(minItems=1, maxItems=MAX_ALLOWED_TOKEN_IDS)] | None
    ) = None
    bad_words: Annotated[list[StopString], says(maxItems=MAX_BAD_WORDS)] | None = None
    prompt_logprobs: Annotated[int, says(minimum=0, maximum=MAX_LOGPROBS)] | None = None
    include_stop_str_in_output: bool | None = False
    skip_special_tokens: bool | None = True
    priority: Annotated[int, says(minimum=-(2**63), maximum=2**63 - 1)] | None = 0
    cache_salt: (
        Annotated[str, says(minLength=1, maxLength=MAX_CACHE_SALT, pattern=CACHE_SALT)] | None
    ) = None
    user: str | None = None
    """Who asks, with OpenAI; nothing is done with it here."""

    @property
    def num_samples(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Only beside ``include_usage``, as with vLLM."""
        return self.include_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def sampling_params(
        self,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        max_model_len: int,
    ) -> SamplingParams:
        """Raises SamplingParamsError for a value outside its range."""
        if max_tokens is not None and max_tokens > max_model_len:
            raise SamplingParamsError(
                "max_tokens", max_tokens, f"at most the context length, {max_model_len}"
            )
        if self.stream_options is not None and not self.stream:
            message = "stream_options must be absent unless stream is true."
            raise ApiError(400, message, param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            allowed = "absent if stream is true: they come with a plain answer"
            raise SamplingParamsError("prompt_logprobs", self.prompt_logprobs, allowed)
        given = {
            "n": self.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "stop_token_ids": self.stop_token_ids,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": _by_token_id(self.logit_bias),
            "allowed_token_ids": self.allowed_token_ids,
            "bad_words": self.bad_words,
            "prompt_logprobs": prompt_logprobs,
            "structured_outputs": self._form(),
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "include_stop_str_in_output": self.include_stop_str_in_output,
            "skip_special_tokens": self.skip_special_tokens,
        }
        kept: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **kept)

    def _form(self) -> StructuredOutputsParams | None:
        form = self.response_format.to_params() if self.response_format else None
        if self.structured_outputs is None:
            return form
        if form is not None:
            raise StructuredOutputError("", "absent beside response_format: give one of them")
        return self.structured_outputs.to_params()

    @property
    def form_field(self) -> str | None:
        """What the caller calls ``structured_outputs``, if by another name."""
        return "response_format" if self.response_format and not self.structured_outputs else None


def _by_token_id(logit_bias: dict[str, float] | None) -> dict[int, float] | None:
    for key in logit_bias or {}:
        if not re.fullmatch(TOKEN_ID_KEY, key):
            raise SamplingParamsError("logit_bias", key, 'a map with token ids as keys ("50256")')
    return None if logit_bias is None else {int(key): v for key, v in logit_bias.items()}


class ChatCompletionRequest(GenerationFields, kw_only=True):
    messages: Annotated[list[Message], says(minItems=1)]
    max_completion_tokens: Annotated[int, says(minimum=1, maximum=MAX_INT)] | None = None
    """Wins over ``max_tokens``. Without both: what the context leaves."""
    max_tokens: Annotated[int, says(minimum=1, maximum=MAX_INT)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, says(minimum=0, maximum=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], says(minItems=1)] | None = None
    """Taken beside ``tool_choice`` "none" only, and not shown to the model."""
    tool_choice: Annotated[Any, says(enum=["none", None])] = None

    def to_sampling_params(self, max_model_len: int) -> SamplingParams:
        self._refuse_tools()
        top = self.top_logprobs or 0
        if top and not self.logprobs:
            raise SamplingParamsError("top_logprobs", top, "absent unless logprobs is true")
        if not 0 <= top <= MAX_LOGPROBS:
            raise SamplingParamsError("top_logprobs", top, f"between 0 and {MAX_LOGPROBS}")
        newer = self.max_completion_tokens
        try:
            return self.sampling_params(
                max_tokens=self.max_tokens if newer is None else newer,
                logprobs=top if self.logprobs else None,
                prompt_logprobs=self.prompt_logprobs,
                max_model_len=max_model_len,
            )
        except SamplingParamsError as error:
            if error.param != "max_tokens" or newer is None:
                raise
            raise SamplingParamsError("max_completion_tokens", error.given, error.allowed) from None

    def _refuse_tools(self) -> None:
        """No model here calls tools; a client that says so itself is no worse off."""
        if self.tools == []:
            raise ApiError(400, "tools must not be an empty list; leave it out.", param="tools")
        if self.tool_choice not in (None, "none"):
            message = 'tool_choice must be "none" or absent: this server lets no model call tools.'
            raise ApiError(400, message, param="tool_choice")
        if self.tools is not None and self.tool_choice is None:
            message = 'tools must be absent, or tool_choice "none": no model calls tools here.'
            raise ApiError(400, message, param="tools")


class CompletionRequest(GenerationFields, kw_only=True):
    prompt: Prompt
    """A text, ids, or a list of either; see :meth:`prompts`."""
    echo: bool | None = False
    """Give the prompt back in front of the answer; with ``max_tokens`` 0 alone."""
    logprobs: Annotated[int, says(minimum=0, maximum=MAX_LOGPROBS)] | None = None
    suffix: Annotated[str, says(maxLength=0)] | None = None
    """No model here fills gaps."""

    @property
    def prompt_only(self) -> bool:
        return bool(self.echo) and self.max_tokens == 0

    def to_sampling_params(self, max_model_len: int) -> SamplingParams:
        limit = 16 if self.max_tokens is None else self.max_tokens  # OpenAI's default here
        scored = self.prompt_logprobs
        if scored is None and self.echo:
            scored = self.logprobs
        return self.sampling_params(
            max_tokens=1 if self.prompt_only else limit,  # see prompt_only.py
            logprobs=self.logprobs,
            prompt_logprobs=scored,
            max_model_len=max_model_len,
        )

    def prompts(self) -> list[Any]:
        """Each prompt as the input processor takes it. Raises ApiError."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given, list) and given:
            if all(_is_id(item) for item in given):
                return [{"prompt_token_ids": given}]
            if all(isinstance(item, str) for item in given):
                return given
            if all(isinstance(item, list) for item in given):
                return [{"prompt_token_ids": item} for item in given]
        raise ApiError(
            400,
            "prompt must be a string, a list of strings, a list of token ids, or a list of such "
            "lists, and not empty or mixed",
            param="prompt",
        )


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def check_fan_out(num_prompts: int, num_samples: int) -> None:
    """Cap the multipliers before anything is made of them."""
    if num_prompts > MAX_PROMPTS:
        raise ApiError(400, f"at most {MAX_PROMPTS} prompts, got {num_prompts}", param="prompt")
    if num_prompts * num_samples > MAX_SEQUENCES:
        raise ApiError(
            400,
            f"prompts times n may be at most {MAX_SEQUENCES}, got {num_prompts} x {num_samples}",
            param="n",
        )
