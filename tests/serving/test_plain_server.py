"""werkzeug's server, the fallback: what cannot be read is refused like gunicorn's, and at once."""

from __future__ import annotations

import json

import pytest

from tests.serving.conftest import RunningServer, StartServer


@pytest.fixture(scope="module")
def server(serve_module: StartServer) -> RunningServer:
    return serve_module(http_server="werkzeug")


HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (HEAD + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 400),
        (HEAD + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (HEAD + "Content-Length: -1\r\n\r\n{}", 400),
        (HEAD + "Content-Length: +2\r\n\r\n{}", 400),
        (HEAD + "Transfer-Encoding: xx\r\n\r\n{}", 501),
        ("GET /health HTTP/1.1\r\n" + "X: 1\r\n" * 200 + "\r\n", 431),
        (f"GET /health HTTP/1.1\r\nX: {'a' * 70_000}\r\n\r\n", 431),
        (f"GET /{'a' * 70_000} HTTP/1.1\r\n\r\n", 414),
        ("GET /health HTTP/9.9\r\n\r\n", 505),
        ("nonsense with many words\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", 403),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_error_body_and_closed(
    server: RunningServer, request_text: str, status: int
) -> None:
    with server.connect() as connection:  # the client's side stays open
        connection.sendall(request_text.encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status, answer[:300]
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
