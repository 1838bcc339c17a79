"""The OpenAPI 3.1 document of the endpoint, made of the structs that read and write its bodies.

    python -m minivllm.api.openapi > openapi.json

A running server has it at ``/openapi.json``, behind the key like everything that is not a health
check. vLLM's FastAPI leaves it open; here closed is the rule, and whoever has no key gets the same
document from the command above.

Counterpart in vLLM: FastAPI's ``/openapi.json``. Left out: the dashboard's routes and ``/metrics``,
which is no JSON.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

import minivllm
from minivllm.api import answers
from minivllm.api.protocol import ChatCompletionRequest, ChatMessage, CompletionRequest
from minivllm.api.tokenize import Detokenize, TokenizeMessages, TokenizePrompt

REF = "#/components/schemas/{name}"

_POST_ERRORS = (400, 401, 404, 413, 415, 500)
_ENGINE_ERRORS = (*_POST_ERRORS, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    path: str
    summary: str
    answer: type[answers.Answer]
    errors: tuple[int, ...] = (401,)
    body: tuple[type[msgspec.Struct], ...] = ()
    """One of these; a route with a body is a POST."""
    chunk: type[answers.Answer] | None = None
    """What a frame holds where ``stream`` is true."""
    is_open: bool = False
    """Needs no key."""


OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "Answer a conversation",
        answers.ChatCompletion,
        _ENGINE_ERRORS,
        (ChatCompletionRequest,),
        answers.ChatCompletionChunk,
    ),
    Operation(
        "/v1/completions",
        "Go on with a text",
        answers.Completion,
        _ENGINE_ERRORS,
        (CompletionRequest,),
        answers.Completion,
    ),
    Operation("/v1/models", "The models: there is one", answers.ModelList),
    Operation("/v1/models/{model}", "One model", answers.ModelCard, (401, 404)),
    Operation(
        "/tokenize",
        "A prompt's or a conversation's tokens",
        answers.Tokens,
        _POST_ERRORS,
        (TokenizePrompt, TokenizeMessages),
    ),
    Operation("/detokenize", "The text of tokens", answers.Text, _POST_ERRORS, (Detokenize,)),
    Operation("/load", "How much there is to do", answers.Load),
    Operation("/health", "Does the engine live?", answers.Health, (503,), is_open=True),
    Operation("/ready", "Are requests taken?", answers.Health, (503,), is_open=True),
    Operation("/ping", "As /health", answers.Health, (503,), is_open=True),
    Operation("/version", "The server's version", answers.Version, (), is_open=True),
)


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "minivllm",
            "version": minivllm.__version__,
            "description": "OpenAI's API, with vLLM's extensions. Unknown fields are ignored.",
        },
        "servers": [{"url": "/"}],
        # A key, if the server was started with some.
        "security": [{"key": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": _components(),
            "responses": {"Error": _error()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


@cache
def encoded() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


def _components() -> dict[str, Any]:
    types: set[type] = {ChatMessage, answers.ErrorBody}
    for operation in OPERATIONS:
        types |= {operation.answer, *operation.body}
        types |= {operation.chunk} if operation.chunk else set()
    in_order = sorted(types, key=lambda type: type.__name__)
    return dict(sorted(msgspec.json.schema_components(in_order, ref_template=REF)[1].items()))


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        method = "post" if operation.body else "get"
        paths.setdefault(operation.path, {})[method] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary}
    if operation.is_open:
        told["security"] = []
    if "{model}" in operation.path:
        name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        told["parameters"] = [name]
    if operation.body:
        refs = [_ref(body) for body in operation.body]
        schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
        told["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    content: dict[str, Any] = {"application/json": {"schema": _ref(operation.answer)}}
    if operation.chunk is not None:
        frames = f"`data: ` and a {operation.chunk.__name__}, again and again; last `data: [DONE]`"
        content["text/event-stream"] = {"schema": {"type": "string", "description": frames}}
    told["responses"] = {"200": {"description": "The answer", "content": content}} | {
        str(status): {"$ref": "#/components/responses/Error"} for status in operation.errors
    }
    return told


def _error() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(answers.ErrorBody)}}
    return {"description": "Why there is no answer", "content": content}


def _ref(type: type) -> dict[str, str]:
    return {"$ref": REF.format(name=type.__name__)}


if __name__ == "__main__":
    sys.stdout.buffer.write(encoded())
