"""The OpenAPI 3.1 document of the endpoint, made of the structs that read and write its bodies.

    python -m minivllm.api.openapi > openapi.json

A running server has it at ``/openapi.json``, behind the key like everything that is not a health
check. vLLM's FastAPI leaves it open; here closed is the rule, and whoever has no key gets the same
document from the command above.

Counterpart in vLLM: FastAPI's ``/openapi.json``. Left out: the dashboard's routes, ``/metrics``,
which is no JSON, and status 499, which stands in the log and the metrics for a client that left.
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
from minivllm.engine.client import EngineStatus

REF = "#/components/schemas/{name}"

_ERRORS = {
    400: "The request is wrong: the message says what is allowed",
    401: "No key, or a wrong one",
    403: "By a name that is not this server's, from a page of another origin, or not the driver",
    404: "There is no such route, model or engine",
    405: "The route does not take this method",
    413: "The body is too large",
    414: "The path is too long",
    415: "The body is not application/json, or is compressed",
    431: "The headers are too large",
    500: "The server or its engine has failed",
    503: "Not now: the queue is full, no engine takes requests, or the server ends",
    504: "The request took longer than this server allows, and was ended",
}
_ANY = (403, 405, 414, 431, 500)
"""What each route may answer: the door, the HTTP server, a fault."""
_POST_ERRORS = (400, 401, 404, 413, 415)
_ENGINE_ERRORS = (*_POST_ERRORS, 503, 504)

_HEADERS = {
    "x-request-id": "The client's own, if it sent a sane one; else one that was made for it",
    "Link": "Where the request's life can be seen, on the dashboard",
    "WWW-Authenticate": "Bearer",
    "Allow": "The methods that the route takes",
    "Retry-After": "Seconds after which trying again makes sense; not where an engine has died",
    "x-should-retry": "false: it would only take as long once more",
}
_HEADERS_OF = {401: "WWW-Authenticate", 405: "Allow", 503: "Retry-After", 504: "x-should-retry"}


@dataclass(frozen=True, slots=True)
class Operation:
    path: str
    summary: str
    answer: type[msgspec.Struct]
    errors: tuple[int, ...] = (401,)
    body: tuple[type[msgspec.Struct], ...] = ()
    """One of these."""
    chunk: type[answers.Answer] | None = None
    """What a frame holds where ``stream`` is true."""
    is_open: bool = False
    """Needs no key."""
    method: str = "get"
    status: int = 200


OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "Answer a conversation",
        answers.ChatCompletion,
        _ENGINE_ERRORS,
        (ChatCompletionRequest,),
        answers.ChatCompletionChunk,
        method="post",
    ),
    Operation(
        "/v1/completions",
        "Go on with a text",
        answers.Completion,
        _ENGINE_ERRORS,
        (CompletionRequest,),
        answers.Completion,
        method="post",
    ),
    Operation("/v1/models", "The models: there is one", answers.ModelList),
    Operation("/v1/models/{model}", "One model", answers.ModelCard, (401, 404)),
    Operation(
        "/tokenize",
        "A prompt's or a conversation's tokens",
        answers.Tokens,
        _POST_ERRORS,
        (TokenizePrompt, TokenizeMessages),
        method="post",
    ),
    Operation(
        "/detokenize",
        "The text of tokens",
        answers.Text,
        _POST_ERRORS,
        (Detokenize,),
        method="post",
    ),
    Operation("/load", "How much there is to do", answers.Load),
    Operation("/health", "Does the engine live?", answers.Health, (503,), is_open=True),
    Operation("/ready", "Are requests taken?", answers.Health, (503,), is_open=True),
    Operation("/ping", "As /health", answers.Health, (503,), is_open=True),
    Operation("/version", "The server's version", answers.Version, (), is_open=True),
    Operation("/admin/engines", "How the engines do", answers.EngineList),
    *(
        Operation(
            f"/admin/engines/{{engine}}/{verb}",
            f"{summary}; how it stands now: it is not waited for",
            EngineStatus,
            (400, 401, 404),
            method="post",
            status=202,
        )
        for verb, summary in (
            ("drain", "Let an engine finish what it has"),
            ("resume", "Let it take requests again"),
            ("restart", "Drain it, end it, and start it anew"),
        )
    ),
)


_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string"},
    "engine": {"type": "integer", "minimum": 0},
}


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
            "responses": {str(status): _error(status) for status in _ERRORS},
            "headers": {
                name: {"description": told, "schema": {"type": "string"}}
                for name, told in _HEADERS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


@cache
def encoded() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


def _components() -> dict[str, Any]:
    types: set[type] = {ChatMessage, EngineStatus, answers.ErrorBody}
    for operation in OPERATIONS:
        types |= {operation.answer, *operation.body}
        types |= {operation.chunk} if operation.chunk else set()
    in_order = sorted(types, key=lambda type: type.__name__)
    return dict(sorted(msgspec.json.schema_components(in_order, ref_template=REF)[1].items()))


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary}
    if operation.is_open:
        told["security"] = []
    for name, schema in _PARAMETERS.items():
        if f"{{{name}}}" in operation.path:
            told["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema}]
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
    generates = ("Link",) if operation.chunk is not None else ()
    answer = {"description": "The answer", "content": content, "headers": _headers(*generates)}
    told["responses"] = {str(operation.status): answer} | {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status in sorted({*operation.errors, *_ANY})
    }
    return told


def _error(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(answers.ErrorBody)}}
    own = (_HEADERS_OF[status],) if status in _HEADERS_OF else ()
    return {"description": _ERRORS[status], "content": content, "headers": _headers(*own)}


def _headers(*names: str) -> dict[str, Any]:
    """Of an answer, beside what all have."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


def _ref(type: type) -> dict[str, str]:
    return {"$ref": REF.format(name=type.__name__)}


if __name__ == "__main__":
    sys.stdout.buffer.write(encoded())
