"""From the bytes of a request to a typed one, and what is refused on the way.

Three checks, one after the other: the body is strict JSON (no NaN, no lone surrogate); what is
not built must have a value that changes nothing, for a field that is silently dropped gives an
answer to another question; the rest has the types of its struct in ``protocol.py``, and
SamplingParams checks the ranges. Unknown fields are ignored, as vLLM does.

Counterpart in vLLM: ``validate_json_request`` in ``vllm/entrypoints/serve/utils/api_utils.py`` and
the validators of its pydantic models.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec
from flask import Request

from minivllm.api.errors import ApiError

R = TypeVar("R", bound=msgspec.Struct)

# Field -> the values that change nothing. null and absence always do not.
NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logprob_token_ids": ([],),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


def _number(text: str) -> int | float:
    """A number with a point or an exponent. JSON has one kind of number, so 16.0 is 16."""
    value = float(text)
    if math.isinf(value):
        raise msgspec.DecodeError(f"{text} is out of range")
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


_DECODER = msgspec.json.Decoder(float_hook=_number)


def read_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises ApiError (400, 415) or RequestEntityTooLarge."""
    if not request.is_json:
        raise ApiError(
            415,
            f"Content-Type must be application/json, got {request.mimetype or 'none'!r} "
            f"(with curl: -H 'Content-Type: application/json').",
        )
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("", "identity"):
        raise ApiError(
            415,
            f"Content-Encoding {coding!r} is not read; send the body as it is, without that header",
        )
    try:
        data = request.get_data(cache=False)
        if request.content_length is None:
            request.stream.read(1)  # raises where a body in chunks goes on past the limit
        body = _DECODER.decode(data)
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


def parse(body: dict[str, Any], cls: type[R], not_built: dict[str, tuple[Any, ...]]) -> R:
    """The typed request; raises ApiError that names the field. ``not_built``: what this route does
    not know of what vLLM's does, beside ``NOT_BUILT``."""
    _refuse_what_is_not_built(body, NOT_BUILT | not_built)
    try:
        return msgspec.convert(body, cls, strict=True)
    except (msgspec.ValidationError, OverflowError) as error:
        # "Expected `int | null`, got `str` - at `$.max_tokens`", "... missing required field `x`"
        message = str(error).replace("Object missing", "The request body is missing")
        named = re.search(r"at `\$\.(\w+)", message) or re.search(r"field `(\w+)`", message)
        param = named.group(1) if named else None
        raise ApiError(400, message.replace("`$.", "`"), param=param) from None


def _refuse_what_is_not_built(body: dict[str, Any], not_built: dict[str, tuple[Any, ...]]) -> None:
    for name, harmless in not_built.items():
        value = body.get(name)
        if value is not None and not any(_same(value, allowed) for allowed in harmless):
            allowed = " or ".join(str(msgspec.json.encode(v), "utf-8") for v in harmless)
            raise ApiError(
                400,
                f"{name} is not supported by this server; leave it out"
                + (f" or give {allowed}." if allowed else "."),
                param=name,
            )


def _same(given: Any, allowed: Any) -> bool:
    """Python takes 1 for True; JSON doesn't."""
    return type(given) is type(allowed) and given == allowed
