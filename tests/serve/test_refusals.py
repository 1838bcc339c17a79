"""What is refused, with which status, in OpenAI's format, and before the first byte."""

from __future__ import annotations

import functools
import gzip
import http.client
import json
import socket

import openai
import pytest

from minivllm.api.auth import KeyRing
from minivllm.api.server import make_http_server
from minivllm.errors import ConfigError
from tests.serve.conftest import MODEL
from tests.serve.fakes import FakeClient, FakeTokenizer

USER = [{"role": "user", "content": "a"}]
CHAT = {"model": MODEL, "messages": USER}
TEXT = {"model": MODEL, "prompt": "a"}
NESTED = functools.reduce(lambda inner, _: {"type": "array", "items": inner}, range(70), {})


def SCHEMA(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_k": 2**64}, "top_k"),
        ({"top_k": 10**30}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": 20, "max_tokens": 10}, "min_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "a@b"}, "cache_salt"),
        ({"cache_salt": "a/b"}, "cache_salt"),
        ({"cache_salt": "a\\b"}, "cache_salt"),
        ({"cache_salt": "a\0b"}, "cache_salt"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"1000000": 5}}, "logit_bias"),
        ({"logit_bias": {"-1": 5}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 5}}, "logit_bias"),
        ({"logit_bias": {"Hello": 5}}, "logit_bias"),
        ({"logit_bias": {"1": "5"}}, "logit_bias"),
        ({"logit_bias": {"1": None}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"bad_words": "a"}, "bad_words"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": ["  "]}, "bad_words"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format"),
        ({"response_format": SCHEMA({}) | {"schema": {}}}, "response_format"),
        ({"response_format": SCHEMA({}) | {"type": "json_object"}}, "response_format"),
        ({"response_format": SCHEMA({}) | {"type": "text"}}, "response_format"),
        ({"response_format": SCHEMA({"type": "strin"})}, "response_format"),
        ({"response_format": SCHEMA({"type": "number", "multipleOf": 2})}, "response_format"),
        ({"response_format": SCHEMA([1])}, "response_format"),
        ({"response_format": SCHEMA(NESTED)}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": 7}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "a"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
        ({"stop": "x" * 1001}, "stop"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"bad_words": ["x" * 1001]}, "bad_words"),
        ({"bad_words": ["x"] * 129}, "bad_words"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"priority": 2**63}, "priority"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tools": "all"}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"use_beam_search": 1}, "use_beam_search"),
        ({"suffix": "b"}, "suffix"),
        ({"guided_json": {}}, "guided_json"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_field_out_of_range_is_named(serve, change, param, stream):
    server = serve()
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        change_now = change if "stream" in param else {"stream": stream} | change
        status, error = server.error(path, body | change_now)
        assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert error["message"]
    assert server.core.requests == []


def test_values_that_change_nothing_are_accepted(serve):
    harmless = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "bad_words": [],
        "allowed_token_ids": None,
        "prompt_logprobs": None,
        "response_format": {"type": "text"},
        "tools": None,
        "tool_choice": "none",
        "temperature": None,
        "n": None,
        "stop": None,
        "stream_options": None,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
    }
    server = serve()
    assert server.raw("POST", "/v1/chat/completions", CHAT | harmless)[0] == 200
    # As vLLM: best_of is gone and ignored.
    more = {"echo": False, "best_of": 3, "suffix": "", "logprobs": None, "add_special_tokens": True}
    assert server.raw("POST", "/v1/completions", TEXT | harmless | more)[0] == 200


def test_tools_that_may_not_be_called_are_taken(serve):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = CHAT | {"tools": tools, "tool_choice": "none"}
    assert serve().raw("POST", "/v1/chat/completions", body)[0] == 200
    # Not even then are these tools.
    for bad in ([], ["f"], [{"type": "function"}], [{"type": "retrieval", "function": {}}]):
        status, error = serve().error("/v1/chat/completions", body | {"tools": bad})
        assert (status, error["param"]) == (400, "tools")


def test_echo_belongs_to_completions(serve):
    status, error = serve().error("/v1/chat/completions", CHAT | {"echo": True})
    assert (status, error["param"]) == (400, "echo")


@pytest.mark.parametrize(
    "body",
    [
        {"model": MODEL},
        CHAT | {"messages": []},
        CHAT | {"messages": "hello"},
        CHAT | {"messages": ["hello"]},
        CHAT | {"messages": [{"role": "user"}]},
        CHAT | {"messages": [{"role": "assistant"}]},
        CHAT | {"messages": [{"role": "user", "content": None}]},
        CHAT | {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        CHAT | {"messages": [{"role": "wizard", "content": "a"}]},
    ],
)
def test_messages_that_cannot_be_taken(serve, body):
    status, error = serve().error("/v1/chat/completions", body)
    assert (status, error["param"]) == (400, "messages")


@pytest.mark.parametrize(
    "prompt", ["", [], [""], [[]], ["a", 1], [-1], [10**6], [1.5], [True], {"a": 1}, 7, None]
)
def test_prompts_that_cannot_be_taken(serve, prompt):
    server = serve()
    status, error = server.error("/v1/completions", {"model": MODEL, "prompt": prompt})
    assert (status, error["param"]) == (400, "prompt")
    assert server.core.requests == []


def test_a_completion_without_a_prompt(serve):
    status, error = serve().error("/v1/completions", {"model": MODEL})
    assert (status, error["param"]) == (400, "prompt")


def test_multipliers_are_capped_before_anything_is_made(serve):
    server = serve()
    status, error = server.error("/v1/completions", TEXT | {"prompt": ["a"] * 1025})
    assert (status, error["param"]) == (400, "prompt")
    status, error = server.error("/v1/completions", TEXT | {"prompt": ["a"] * 100, "n": 100})
    assert (status, error["param"]) == (400, "n")
    assert server.core.requests == []


def test_top_logprobs_need_logprobs_and_a_range(serve):
    server = serve()
    for change in ({"top_logprobs": 2}, {"top_logprobs": 21, "logprobs": True}):
        status, error = server.error("/v1/chat/completions", CHAT | change)
        assert (status, error["param"]) == (400, "top_logprobs")
    status, error = server.error("/v1/completions", TEXT | {"logprobs": 21})
    assert (status, error["param"]) == (400, "logprobs")


def test_prompt_logprobs_come_with_a_plain_answer_only(serve):
    status, error = serve().error("/v1/completions", TEXT | {"prompt_logprobs": 1, "stream": True})
    assert (status, error["param"]) == (400, "prompt_logprobs")
    assert "absent if stream is true" in error["message"]


def test_an_id_outside_the_vocabulary_is_named_with_its_size(serve):
    _, error = serve().error("/v1/completions", TEXT | {"logit_bias": {"1000": 5}})
    size = FakeTokenizer.vocab_size
    assert "1000" in error["message"] and f"its size is {size}" in error["message"]


def test_max_completion_tokens_is_named_by_the_name_it_was_given(serve):
    server = serve()
    for bad in (0, 65):
        status, error = server.error("/v1/chat/completions", CHAT | {"max_completion_tokens": bad})
        assert (status, error["param"]) == (400, "max_completion_tokens")


def test_an_overlong_prompt_gets_openais_sentence(serve):
    # PITFALLS: over-long prompt: only a log line, the client hangs
    client = serve().openai()
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt=[1] * 70)
    assert error.value.code == "context_length_exceeded"
    assert "This model's maximum context length is 64 tokens" in error.value.message
    assert "your prompt contains 70 input tokens" in error.value.message


@pytest.mark.parametrize("many", [65, 10_000])
def test_a_chat_of_too_many_messages_is_refused_before_its_template_runs(serve, monkeypatch, many):
    server = serve()
    monkeypatch.setattr(FakeTokenizer, "apply_chat_template", None)
    for messages in (USER * many, [{"role": "user", "content": "a" * 50}] * (many // 2)):
        status, error = server.error("/v1/chat/completions", CHAT | {"messages": messages})
        assert (status, error["code"]) == (400, "context_length_exceeded")


def test_a_prompt_larger_than_the_pool_is_refused(serve):
    # PITFALLS: a prompt larger than the pool → assertion, or the queue hangs for ever
    server = serve(FakeClient(num_kv_blocks=3))
    status, error = server.error("/v1/completions", TEXT | {"prompt": [1] * 9, "stream": True})
    assert status == 400
    assert "3 blocks" in error["message"]


def test_an_unknown_model_is_404(serve):
    with pytest.raises(openai.NotFoundError) as error:
        serve().openai().completions.create(model="gpt-5", prompt="a")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_whole_number_may_be_written_with_a_point(serve):
    server = serve()
    body = b'{"prompt": "a", "max_tokens": 2.0, "seed": 1e2}'
    assert server.raw("POST", "/v1/completions", body)[0] == 200
    params = server.core.requests[0].sampling_params
    assert (params.max_tokens, params.seed) == (2, 100)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\xff"}',
        b'{"prompt": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:36]),
)
def test_a_body_that_is_no_json_object(serve, body):
    status, error = serve().error("/v1/completions", body)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "body" in error["message"]


def test_a_body_of_another_type_is_415(serve):
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        status, error = serve().error(
            "/v1/completions", b'{"prompt": "a"}', headers={"Content-Type": content_type}
        )
        assert status == 415
        assert "application/json" in error["message"]


def test_a_compressed_body_is_415_and_not_taken_for_bad_json(serve):
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps(TEXT).encode())
    status, error = serve().error("/v1/completions", body, headers=headers)
    assert (status, "gzip" in error["message"]) == (415, True)
    as_it_is = {"Content-Encoding": "identity"}
    assert serve().raw("POST", "/v1/completions", TEXT, headers=as_it_is)[0] == 200


def test_numbers_of_any_size_may_stand_in_a_schema(serve):
    """It crosses to the engine as text: msgpack has 64 bits."""
    server = serve()
    for schema in ({"enum": [10**30]}, {"type": "integer", "minimum": -(10**25)}):
        for form in (
            {"response_format": SCHEMA(schema)},
            {"structured_outputs": {"json": schema}},
            {"structured_outputs": {"json": json.dumps(schema)}},
        ):
            status, _, body = server.raw("POST", "/v1/completions", TEXT | form)
            assert status in (200, 400), body


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"stream_options": {}}, "stream_options must be absent unless stream is true."),
        (
            {"tool_choice": "auto"},
            'tool_choice must be "none" or absent: this server lets no model call tools.',
        ),
    ],
)
def test_a_refusal_is_a_sentence_that_makes_sense(serve, body, sentence):
    assert serve().error("/v1/chat/completions", CHAT | body)[1]["message"] == sentence


def test_a_body_that_is_too_large_is_413(serve):
    status, error = serve(max_body_bytes=1000).error("/v1/completions", TEXT | {"x": "a" * 2000})
    assert (status, error["type"]) == (413, "invalid_request_error")


def test_unknown_routes_and_methods_are_answered_in_json(serve):
    server = serve()
    status, _, body = server.raw("POST", "/v1/embeddings", {"input": "a"})
    assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
    status, headers, body = server.raw("GET", "/v1/chat/completions")
    assert (status, json.loads(body)["error"]["param"]) == (405, None)
    assert "POST" in headers["Allow"]


def test_an_unexpected_error_tells_nothing_of_the_inside(serve, monkeypatch):
    server = serve()

    def fail(*args, **kwargs):
        raise RuntimeError("object at 0x7f001234")

    monkeypatch.setattr(server.llm, "stream_many", fail)
    status, error = server.error("/v1/completions", TEXT)
    assert (status, error["type"]) == (500, "server_error")
    assert "0x7f" not in error["message"]


def test_a_message_does_not_send_back_a_megabyte(serve):
    status, error = serve().error("/v1/completions", TEXT | {"model": "x" * 10**6})
    assert status == 404
    assert len(error["message"]) <= 1000


def test_a_refusal_is_told(serve):
    server = serve()
    server.error("/v1/completions", TEXT | {"n": 0})
    request, rejected = server.tracer.events
    assert (request.KIND, rejected.KIND) == ("http.request", "http.rejected")
    assert (rejected.request_id, rejected.status) == (request.request_id, 400)


# --- keys -----------------------------------------------------------------------------------------


def test_with_a_key_set_every_route_but_the_open_ones_needs_it(serve):
    server = serve(api_keys=["secret"])
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{MODEL}"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("OPTIONS", "/v1/completions"),
        ("GET", "/no/such/route"),
        ("GET", "//health/../v1/models"),
        ("GET", "/health/"),
    ):
        status, headers, body = server.raw(method, path, {} if method == "POST" else None)
        assert status == 401, path
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert headers["WWW-Authenticate"] == "Bearer"
    for path in ("/health", "/ping", "/version"):
        assert server.raw("GET", path)[0] == 200
    assert server.core.requests == []


def test_a_crafted_host_header_opens_nothing(serve):  # as CVE-2026-48746 did
    server = serve(api_keys=["secret"])
    for host in ("health", "x/health?", "127.0.0.1/health#"):
        assert server.raw("GET", "/v1/models", headers={"Host": host})[0] in (400, 401)


def test_the_official_client_with_and_without_the_key(serve):
    server = serve(api_keys=["other", "secret"])
    assert server.openai("secret").models.list().data[0].id == MODEL
    with pytest.raises(openai.AuthenticationError) as error:
        server.openai("wrong").models.list()
    assert error.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("header", "ok"),
    [
        ("Bearer sécret", True),
        ("bearer sécret", True),
        ("Bearer  sécret ", True),
        ("Bearer secret", False),
        ("Basic sécret", False),
        ("sécret", False),
        ("Bearer", False),
        ("", False),
        (None, False),
    ],
)
def test_keys_are_compared_as_bytes(header, ok):
    as_wsgi_gives_it = header.encode().decode("latin-1") if header is not None else None
    assert KeyRing(["sécret", "another"]).allows(as_wsgi_gives_it) is ok


def test_without_keys_everybody_may():
    assert KeyRing([]).allows(None)
    assert KeyRing([""]).allows(None)


# --- the server ----------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_so(serve):
    server = serve()
    with pytest.raises(ConfigError, match=f"port.*{server.port}.*in use"):
        make_http_server(None, "127.0.0.1", server.port)


def test_a_giant_header_is_refused(serve):  # CVE-2025-48956
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 431
