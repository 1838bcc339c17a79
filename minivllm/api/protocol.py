"""The request bodies: what may be asked, and what is refused before anything is spent.

Three checks, one after the other: the body is strict JSON (no NaN, no lone surrogate); what is
not built must have a value that changes nothing, for a field that is silently dropped gives an
answer to another question; the rest has the types below, and SamplingParams checks the ranges.
Unknown fields are ignored, as vLLM does.

Counterpart in vLLM: ``vllm/entrypoints/openai/chat_completion/protocol.py`` and
``completion/protocol.py`` (pydantic there, msgspec here).
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec
from flask import Request

from minivllm.api.errors import ApiError
from minivllm.errors import SamplingParamsError, StructuredOutputError
from minivllm.sampling_params import MAX_LOGPROBS, SamplingParams
from minivllm.structured_output.params import StructuredOutputsParams

MAX_PROMPTS = 1024
MAX_SEQUENCES = 1024
"""Prompts times n: caps what one request can make the engine hold."""

R = TypeVar("R", bound="GenerationFields")

# Field -> the values that change nothing. null and absence always do not.
_NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool | None = False
    """Send a last chunk with the usage."""
    continuous_usage_stats: bool | None = False
    """Send the usage so far with every chunk (a vLLM extension)."""


class JsonSchema(msgspec.Struct, kw_only=True):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    """Always: a text that keeps to the schema keeps to it strictly."""


class ResponseFormat(msgspec.Struct, kw_only=True):
    """OpenAI's way to ask for a form."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None
    """Other servers take one here, beside ``json_object``. Known only so as not to be ignored."""

    def to_params(self) -> StructuredOutputsParams | None:
        if self.schema is not None or (self.type != "json_schema" and self.json_schema is not None):
            allowed = 'of type "json_schema" for a schema, and have it under json_schema.schema'
            raise StructuredOutputError("json", allowed)
        if self.type == "text":
            return None
        if self.type == "json_object":
            return StructuredOutputsParams(json_object=True)
        if self.json_schema is None or self.json_schema.schema is None:
            raise StructuredOutputError("json", "a schema, under json_schema.schema")
        return StructuredOutputsParams(json=self.json_schema.schema)


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's. A field that is not known may be a form that is not built: it is refused."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool | None = None

    def to_params(self) -> StructuredOutputsParams:
        given = msgspec.structs.asdict(self)
        return StructuredOutputsParams(**{k: v for k, v in given.items() if v is not None})


class GenerationFields(msgspec.Struct, kw_only=True):
    """What both routes take. null means the default, as with OpenAI."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    """JSON has no other keys than strings; these are token ids."""
    response_format: ResponseFormat | None = None
    # Extensions of vLLM.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = False
    structured_outputs: StructuredOutputs | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    include_stop_str_in_output: bool | None = False
    skip_special_tokens: bool | None = True
    priority: int | None = 0
    cache_salt: str | None = None

    @property
    def num_samples(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def sampling_params(
        self, *, max_tokens: int | None, logprobs: int | None, max_model_len: int
    ) -> SamplingParams:
        """Raises SamplingParamsError for a value outside its range."""
        if max_tokens is not None and max_tokens > max_model_len:
            raise SamplingParamsError(
                "max_tokens", max_tokens, f"at most the context length, {max_model_len}"
            )
        if self.stream_options is not None and not self.stream:
            raise SamplingParamsError("stream_options", "it", "absent unless stream is true")
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
            "prompt_logprobs": self.prompt_logprobs,
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
        if not (key.isascii() and key.isdigit()):
            raise SamplingParamsError("logit_bias", key, 'a map with token ids as keys ("50256")')
    return None if logit_bias is None else {int(key): v for key, v in logit_bias.items()}


class ChatCompletionRequest(GenerationFields, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    """Wins over ``max_tokens``. Without both: what the context leaves."""
    logprobs: bool | None = False
    top_logprobs: int | None = None

    def to_sampling_params(self, max_model_len: int) -> SamplingParams:
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
                max_model_len=max_model_len,
            )
        except SamplingParamsError as error:
            if error.param != "max_tokens" or newer is None:
                raise
            raise SamplingParamsError("max_completion_tokens", error.given, error.allowed) from None


class CompletionRequest(GenerationFields, kw_only=True):
    prompt: Any
    """A text, ids, or a list of either; see :meth:`prompts`."""
    logprobs: int | None = None
    best_of: int | None = None

    def to_sampling_params(self, max_model_len: int) -> SamplingParams:
        if self.best_of is not None and self.best_of != self.num_samples:
            raise SamplingParamsError("best_of", self.best_of, "equal to n; choosing is not built")
        limit = 16 if self.max_tokens is None else self.max_tokens  # OpenAI's default here
        return self.sampling_params(
            max_tokens=limit, logprobs=self.logprobs, max_model_len=max_model_len
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


def read_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises ApiError (400, 415) or RequestEntityTooLarge."""
    if not request.is_json:
        raise ApiError(
            415,
            f"Content-Type must be application/json, got {request.mimetype or 'none'!r} "
            f"(with curl: -H 'Content-Type: application/json').",
        )
    try:
        body = msgspec.json.decode(request.get_data(cache=False))
    except RecursionError:
        raise ApiError(400, "The request body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(
            400,
            f"The request body is not valid JSON in UTF-8 (NaN, Infinity and lone surrogates are "
            f"not): {error}",
        ) from None
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    return body


def parse(body: dict[str, Any], cls: type[R]) -> R:
    """The typed request; raises ApiError that names the field."""
    _refuse_what_is_not_built(body)
    try:
        request = msgspec.convert(body, cls, strict=True)
    except (msgspec.ValidationError, OverflowError) as error:
        # "Expected `int | null`, got `str` - at `$.max_tokens`", "... missing required field `x`"
        named = re.search(r"at `\$\.(\w+)|required field `(\w+)`", str(error))
        param = (named.group(1) or named.group(2)) if named else None
        message = str(error).replace("Object missing", "The request body is missing")
        raise ApiError(400, message.replace("`$.", "`"), param=param) from None
    return request


def _refuse_what_is_not_built(body: dict[str, Any]) -> None:
    if body.get("tool_choice") != "none" and body.get("tools") is not None:
        raise ApiError(
            400, "tools are not supported by this server; leave them out.", param="tools"
        )
    for name, harmless in _NOT_BUILT.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            allowed = " or ".join(str(msgspec.json.encode(v), "utf-8") for v in harmless)
            raise ApiError(
                400,
                f"{name} is not supported by this server; leave it out"
                + (f" or give {allowed}." if allowed else "."),
                param=name,
            )


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
