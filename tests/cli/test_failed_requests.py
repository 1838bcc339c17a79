"""What generate and chat say of a request that the engine failed on."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.llm import LLM
from minivllm.engine.messages import EngineCoreRequest
from tests.serve.fakes import FakeClient, FakeTokenizer


class FailsFirst(FakeClient):
    """Ends its first request by an error."""

    def add_request(self, request: EngineCoreRequest) -> None:
        super().add_request(request)
        if len(self.requests) == 1:
            self.fail(request.request_id, "the step that ran it failed (ValueError)")
            self.allow()


@pytest.fixture
def client() -> Any:
    client = FailsFirst("Hello world", paused=True)
    yield client
    client.shutdown()


def test_generate_tells_the_failure_and_ends_with_status_1(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minivllm.LLM", lambda **_: LLM.from_parts(client, FakeTokenizer()))
    run = CliRunner().invoke(app, ["generate", "a", "b"])
    assert run.exit_code == 1
    assert "error: a request failed: the step that ran it failed (ValueError)" in run.stderr
    assert "Hello world" in run.stdout  # the other one's text is not lost


def test_chat_tells_the_failure_and_keeps_it_out_of_the_conversation(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = AsyncLLM.from_parts(client, FakeTokenizer())
    monkeypatch.setattr("minivllm.engine.async_llm.AsyncLLM", lambda _: llm)
    run = CliRunner().invoke(app, ["chat"], input="first\nsecond\n")
    assert run.exit_code == 0, run.exception
    assert "error: the answer failed: the step that ran it failed (ValueError)" in run.stderr
    asked = FakeTokenizer().decode(client.requests[1].prompt_token_ids)
    assert "second" in asked and "first" not in asked
