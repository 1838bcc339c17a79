"""Bodies, headers and paths that nobody in their right mind sends: never a 500, and nothing stays.

Fixed seeds, so that a run says the same as the one before. Whether answers keep to the document is
asked in test_openapi.py; here the bodies need not even be JSON.
"""

from __future__ import annotations

import functools
import json
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from minivllm.api.protocol import ChatCompletionRequest, CompletionRequest
from minivllm.api.tokenize import Detokenize, TokenizeMessages, TokenizePrompt
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS
from tests.serve.obedient import FuzzedServer

BODIES = (ChatCompletionRequest, CompletionRequest, TokenizePrompt, TokenizeMessages, Detokenize)
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
USER = {"role": "user", "content": "Say hello"}
CHAT = {"model": MODEL, "messages": [USER], "max_tokens": 5}
TEXT = {"model": MODEL, "prompt": "Say", "max_tokens": 5}
GOOD: dict[str, dict[str, Any]] = {
    PATHS[0]: CHAT,
    PATHS[1]: TEXT,
    PATHS[2]: {"prompt": "a"},
    PATHS[3]: {"tokens": [1]},
}
# All that the document tells of, and some that it doesn't.
FIELDS = sorted(
    {
        *(f for body in BODIES for f in body.__struct_fields__),
        *("suffix", "best_of", "user", "metadata", "chat_template", "add_generation_prompt"),
    }
)

fuzz = functools.partial(
    settings,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def server():
    server = FuzzedServer(max_body_bytes=2**20)
    yield server
    server.check_it_is_as_it_was()
    server.close()


def check(response: Any) -> None:
    """An answer, or an error as OpenAI's; what a stream ends by, too, is no fault of the server."""
    data = response.get_data()
    assert response.status_code < 500, data
    if response.status_code >= 400:
        error = json.loads(data)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
    elif response.mimetype == "text/event-stream":
        assert data.endswith(b"data: [DONE]\n\n") and b"server_error" not in data


def post(server: FuzzedServer, path: str, body: bytes, **kwargs: Any) -> None:
    kwargs.setdefault("content_type", "application/json")
    check(server.app.test_client().post(path, data=body, **kwargs))


# --- bodies ---------------------------------------------------------------------------------------

any_text = st.text(st.characters(codec=None), max_size=20)  # lone surrogates among them
huge = st.sampled_from(
    [2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**40, 1e308, -1e308, 5e-324, -0.0, 1.0, 1e300]
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | huge | any_text | st.just("a" * 5000)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


def encoded(value: Any) -> bytes:
    """As Python's json writes it: NaN and Infinity stand there, a surrogate as an escape."""
    return json.dumps(value).encode()


@seed(1)
@fuzz(max_examples=100)
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=60))
@example(path=PATHS[0], body=b'{"messages": ' + b"[" * 200_000)
@example(path=PATHS[1], body=b'{"prompt": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001)
@example(path=PATHS[1], body=b'{"prompt": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}")
@example(path=PATHS[1], body=b'{"prompt": "\\ud800"}')
@example(path=PATHS[1], body=b'{"prompt": "a", "temperature": NaN}')
@example(path=PATHS[1], body=b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}")
@example(path=PATHS[1], body=b'{"prompt": "a", "temperature": 1e' + b"9" * 5000 + b"}")
@example(path=PATHS[1], body=b'{"prompt": "a", "prompt": 1}')
@example(path=PATHS[1], body=b"\xef\xbb\xbf{}")
@example(path=PATHS[1], body=b" " * (2**20 + 1))
def test_any_bytes(server, path, body):
    post(server, path, body)


@seed(2)
@fuzz(max_examples=100)
@given(path=st.sampled_from(PATHS), body=values)
def test_any_json(server, path, body):
    post(server, path, encoded(body))


@seed(3)
@fuzz(max_examples=500)
@given(
    path=st.sampled_from(PATHS),
    fields=st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=2),
    stream=st.booleans(),
)
def test_a_good_body_with_some_fields_changed(server, path, fields, stream):
    post(server, path, encoded(GOOD[path] | {"stream": stream} | fields))


near = {
    "n": st.integers(1, 3),
    "temperature": st.floats(0, 2),
    "stop": st.lists(st.text(min_size=1, max_size=3), max_size=4),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "logprobs": st.integers(0, 3),
    "echo": st.booleans(),
    "max_tokens": st.integers(0, 90),
    "min_tokens": st.integers(0, 10),
    "ignore_eos": st.booleans(),
    "stop_token_ids": st.lists(st.integers(0, EOS), max_size=5),
    "allowed_token_ids": st.lists(st.integers(0, EOS), min_size=1, max_size=5),
    "bad_words": st.lists(st.text(min_size=1, max_size=5), max_size=3),
    "logit_bias": st.dictionaries(st.integers(0, EOS).map(str), st.floats(-200, 200), max_size=3),
    "prompt": st.text(min_size=1, max_size=90)
    | st.lists(st.integers(0, EOS), min_size=1, max_size=99)
    | st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4),
    "structured_outputs": st.sampled_from(
        [
            {"regex": "a+b?"},
            {"choice": ["yes", "no"]},
            {"json_object": True},
            {"grammar": 'root ::= "x"'},
        ]
    ),
    "include_stop_str_in_output": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "priority": st.integers(-3, 3),
    "stream": st.booleans(),
}


@seed(4)
@fuzz(max_examples=150)
@given(fields=st.fixed_dictionaries({}, optional=near))
def test_what_may_be_asked_together(server, fields):
    """Each of these alone is fine: the engine itself gets to work on most of them."""
    post(server, "/v1/completions", encoded(TEXT | fields))


@seed(5)
@fuzz(max_examples=80)
@given(fields=st.fixed_dictionaries({}, optional=near), frames=st.integers(0, 4))
def test_a_stream_that_nobody_reads_to_its_end(server, fields, frames):
    body = TEXT | fields | {"stream": True}
    response = server.app.test_client().post("/v1/completions", json=body, buffered=False)
    for _ in zip(range(frames), response.response, strict=False):
        pass
    response.close()


# --- around the body ------------------------------------------------------------------------------

latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30)
HEADERS = ("Host", "Authorization", "X-Request-Id", "Content-Type", "Accept", "X-Forwarded-For")


@seed(6)
@fuzz(max_examples=150)
@given(headers=st.dictionaries(st.sampled_from(HEADERS), latin, max_size=4))
@example(headers={"Host": "health"})
@example(headers={"Host": "x:99999999"})
@example(headers={"Host": "[::1"})
@example(headers={"Host": "[v1.a]:80"})
@example(headers={"Content-Type": "application/json; charset=utf-16"})
def test_any_headers(server, headers):
    kind = headers.pop("Content-Type", "application/json")
    post(server, PATHS[1], encoded(TEXT), headers=headers, content_type=kind)


@seed(7)
@fuzz(max_examples=150)
@given(
    method=st.sampled_from(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")),
    path=st.sampled_from(["health", "load", "version", *(path[1:] for path in PATHS)])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.lists(st.sampled_from(["v1", "models", "..", ".", "", "health", "%2e", "x"])).map(
        "/".join
    ),
)
def test_any_method_and_path(server, method, path):
    response = server.app.test_client().open(
        method=method,
        json={} if method == "POST" else None,
        environ_overrides={"PATH_INFO": f"/{path}".encode().decode("latin-1")},
    )
    if response.get_data() and response.mimetype == "application/json":
        check(response)
    assert response.status_code < 500


@seed(8)
@fuzz(max_examples=25)
@given(line=st.binary(max_size=60), rest=st.binary(max_size=60))
@example(line=b"POST /v1/completions HTTP/1.1", rest=b"Content-Length: -1\r\n\r\n{}")
@example(line=b"POST /v1/completions HTTP/1.1", rest=b"Content-Length: x\r\n\r\n{}")
@example(line=b"POST /v1/completions HTTP/1.1", rest=b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(line=b"GET http://health/v1/models HTTP/1.1", rest=b"Host: a\r\nHost: b\r\n\r\n")
def test_any_bytes_on_the_wire(wire, line, rest):
    with socket.create_connection(("127.0.0.1", wire.port), timeout=20) as connection:
        connection.sendall(line + b"\r\n" + rest + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    if answer.startswith(b"HTTP/1.1"):
        assert 200 <= int(answer.split(b" ", 2)[1]) < 500, answer
    assert wire.raw("GET", "/health")[0] == 200
    assert wire.llm.num_open == 0


@pytest.fixture
def wire(serve):
    return serve()
