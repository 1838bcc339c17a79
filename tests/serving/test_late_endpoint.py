"""The demo's endpoint: 503 until there is an engine, then OpenAI's routes, for this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from werkzeug.test import Client

from minivllm.serving.late_endpoint import LateEndpoint
from tests.viz.chatting import ChattingServer
from viz.server import create_app


@pytest.fixture
def chat() -> Iterator[ChattingServer]:
    server = ChattingServer()
    yield server
    server.close()


def test_the_endpoint_comes_with_the_engine_and_the_page_was_there_before(
    chat: ChattingServer,
) -> None:
    late = LateEndpoint(create_app().wsgi_app)
    client = Client(late)
    early = client.get("/v1/models")
    assert early.status_code == 503 and early.headers["Retry-After"] == "1"
    assert json.loads(early.data)["error"]["code"] == "no_engine"
    assert client.get("/").status_code == 200
    late.attach(chat.llm, "talker")
    assert json.loads(client.get("/v1/models").data)["data"][0]["id"] == "talker"
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    answer = client.post("/v1/chat/completions", json=asked)
    assert json.loads(answer.data)["choices"][0]["message"]["content"] == "Hi"
    assert answer.headers["Link"].startswith("</#/run/live?view=life&request=chatcmpl-")
    assert client.get("/").status_code == 200 and client.get("/v1").status_code == 404


def test_other_names_and_pages_of_others_stay_outside(chat: ChattingServer) -> None:
    late = LateEndpoint(create_app().wsgi_app)
    late.attach(chat.llm, "talker")
    client = Client(late)
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    foreign = client.post("/v1/chat/completions", json={}, headers={"Origin": "http://evil"})
    assert json.loads(foreign.data)["error"]["code"] == "cross_origin"
