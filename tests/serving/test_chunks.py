"""Bodies in chunks, through the real server: what keeps to no rule of theirs is the client's fault.

gunicorn checks the frames only while the body is read, in the midst of a route.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from tests.serving.conftest import RunningServer, StartServer

HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., Iterator[StartServer]]) -> RunningServer:
    return serve_module(http_server="gunicorn")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "body",
    [
        b"ZZ\r\n",
        b"-1\r\n",
        b"0x5\r\n{}\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"5;bad ext\r\nhello\r\n0\r\n\r\n",
        b"2\r\n{}XX",
        b"5\n{}\n0\n\n",
        chunk(b"{}") + b"0\r\nbad trailer\r\n\r\n",
        chunk(b"{}") + b"0\r\n",
        b"5\r\n{",
    ],
)
def test_malformed_chunks_are_a_400_that_ends_the_connection(
    server: RunningServer, body: bytes
) -> None:
    before = len(server.lines)
    answer = server.raw(HEAD + body)
    head, _, error = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 400, answer
    assert b"connection: close" in head.lower()
    assert json.loads(error)["error"]["type"] == "invalid_request_error"
    assert server.get("/health")[0] == 200
    told = "".join(server.lines[before:])
    assert "Traceback" not in told and "ERROR" not in told


pieces = st.sampled_from(
    [b"0\r\n\r\n", b"0\r\n", b"\r\n", b"5\r\n", b";x=y\r\n", b"a: b\r\n", b"-", b"0x", b"\n", b"\0"]
)
good = st.sampled_from([b'{"prompt": "a", "max_tokens": 1}', b"{", b"}", b'{"prompt": 1}']).map(
    chunk
)


@seed(9)
@settings(
    max_examples=60,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=st.lists(good | pieces | st.binary(max_size=20), max_size=5).map(b"".join))
@example(body=chunk(b'{"prompt": "a", "max_tokens": 1}') + b"0\r\n\r\n")
def test_any_chunks_on_the_wire(server: RunningServer, body: bytes) -> None:
    answer = server.raw(HEAD + body)
    assert 200 <= status_of(answer) < 500, answer
    assert "Traceback" not in server.log
