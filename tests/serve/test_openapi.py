"""The document, and a server that keeps to it: schemathesis asks, with good and bad bodies."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter

import hypothesis
import jsonschema
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from minivllm.api import openapi
from minivllm.api.openapi import OPERATIONS, document
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS
from tests.serve.obedient import FuzzedServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def server():
    server = FuzzedServer()
    yield server
    server.check_it_is_as_it_was()
    server.close()


@schemathesis.deserializer("text/event-stream")
def whole(ctx, response):
    return response.content.decode()


def test_the_command_prints_what_the_server_serves(server):
    printed = subprocess.run(
        [sys.executable, "-m", "minivllm.api.openapi"], capture_output=True, check=True
    ).stdout
    assert server.app.test_client().get("/openapi.json").data == printed == openapi.encoded()


def test_the_document_is_behind_the_key(serve):
    server = serve(api_keys=["secret"])
    assert server.raw("GET", "/openapi.json")[0] == 401


def test_bodies_that_break_the_document_are_refused(server):
    for operation in operations(server, "post"):
        seen = ask(operation, GenerationMode.NEGATIVE, count=30)
        assert set(seen) <= {400, 404}


def test_bodies_that_keep_to_the_document_get_answers_that_do(server):
    for operation in operations(server, "post"):
        ask(operation, GenerationMode.POSITIVE, count=30)


def test_most_of_them_are_answered_once_their_fields_agree(server):
    """What a schema can't say: the model's name, the vocabulary, which fields go together."""
    for operation in operations(server, "post"):
        seen = ask(operation, GenerationMode.POSITIVE, count=30, change=agreed)
        assert seen[200] > 20, (operation.path, seen)


def test_what_only_tells_is_as_the_document_says(server):
    for operation in operations(server, "get"):
        seen = ask(operation, GenerationMode.POSITIVE, count=5)
        assert set(seen) == {404 if "{model}" in operation.path else 200}


def operations(server: FuzzedServer, method: str) -> list:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", server.app)
    found = [found.ok() for found in schema.get_all_operations()]
    # Those below /admin are not in this application: tests/serving/test_rules.py has them.
    return [o for o in found if o.method == method and not o.path.startswith("/admin")]


def ask(operation, mode, count: int, change=lambda body: body) -> Counter[int]:
    """So many requests, each answer held against the document; how often each status came."""
    seen: Counter[int] = Counter()

    @hypothesis.seed(4)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case):
        case.body = change(case.body)
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        seen[response.status_code] += 1
        if response.headers["content-type"][0].startswith("text/event-stream"):
            check_frames(operation.path, response.content)

    one()
    return seen


def agreed(body: dict) -> dict:
    """The same body with fields that go together, on this model."""
    body = {name: value for name, value in body.items() if value is not None} | {"model": MODEL}
    for message in body.get("messages", []):
        message["role"] = "user"
        message["content"] = (message["content"] or "a")[:5]
    body["messages"] = body.get("messages", [])[:1]
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        body["prompt"] = prompt[:20]
        del body["messages"]
    elif prompt is not None:
        body["prompt"] = [_shorter(item) for item in prompt[:3]]
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            body[name] = int(body[name]) % 20 + 1
    for name in ("tokens", "stop_token_ids"):
        if name in body:
            body[name] = [int(i) % EOS for i in body[name]]
    if "logit_bias" in body:
        body["logit_bias"] = {str(int(i) % EOS): b for i, b in body["logit_bias"].items()}
    if body.get("n", 1) > 1:
        body["n"], body["temperature"] = 2, 1.0
    if not body.get("stream"):
        body.pop("stream_options", None)
    else:
        body.pop("prompt_logprobs", None)
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    if "response_format" in body:
        body["response_format"] = {"type": "json_object"}
    wild = ("tools", "tool_choice", "structured_outputs", "allowed_token_ids", "bad_words")
    return {name: value for name, value in body.items() if name not in (*wild, "min_tokens")}


def _shorter(prompt):
    if isinstance(prompt, (int, float)):
        return int(prompt) % EOS
    return prompt[:20] if isinstance(prompt, str) else [int(i) % EOS for i in prompt[:20]]


@functools.cache
def chunk_validator(path: str) -> jsonschema.protocols.Validator:
    (operation,) = (o for o in OPERATIONS if o.path == path)
    assert operation.chunk is not None
    names = (operation.chunk.__name__, "ErrorBody")
    one_of = [{"$ref": openapi.REF.format(name=name)} for name in names]
    return jsonschema.Draft202012Validator(document() | {"anyOf": one_of})


def check_frames(path: str, body: bytes) -> None:
    """Each frame is a chunk, or tells an error; the last one is [DONE]."""
    *frames, done, rest = body.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for frame in frames:
        chunk_validator(path).validate(json.loads(frame.removeprefix("data: ")))
