"""The demo's endpoint: 503 until there is an engine, then OpenAI's routes, for this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import Client

from minivllm.serving.late_endpoint import LateEndpoint
from tests.viz.chatting import ChattingServer
from viz.access import Access
from viz.server import create_app


class Here:
    """Whoever asks sits at an address that the test says: at this machine, or elsewhere."""

    def __init__(self, app: Any, address: str = "127.0.0.1") -> None:
        self.app, self.address = app, address

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        return self.app({**environ, "REMOTE_ADDR": self.address}, start_response)


@pytest.fixture
def chat() -> Iterator[ChattingServer]:
    server = ChattingServer()
    yield server
    server.close()


def test_the_endpoint_comes_with_the_engine_and_the_page_was_there_before(
    chat: ChattingServer,
) -> None:
    late = LateEndpoint(create_app().wsgi_app, Access())
    client = Client(Here(late))
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
    late = LateEndpoint(create_app().wsgi_app, Access())
    late.attach(chat.llm, "talker")
    client = Client(Here(late))
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    foreign = client.post("/v1/chat/completions", json={}, headers={"Origin": "http://evil"})
    assert json.loads(foreign.data)["error"]["code"] == "cross_origin"


def test_in_a_class_the_model_answers_the_driver_and_no_viewer(chat: ChattingServer) -> None:
    access = Access("join", driver_code="drive")
    late = LateEndpoint(create_app(access=access).wsgi_app, access, "0.0.0.0")
    late.attach(chat.llm, "talker")
    elsewhere = Client(Here(late, "192.0.2.7"))

    def code(**headers: str) -> str | None:
        return (
            json.loads(elsewhere.get("/v1/models", headers=headers).data)
            .get("error", {})
            .get("code")
        )

    assert code() == code(Host="127.0.0.1") == "not_the_driver"
    elsewhere.set_cookie("minivllm_join", "join")
    assert code() == "not_the_driver"
    elsewhere.set_cookie("minivllm_driver", "drive")
    assert code() is None
