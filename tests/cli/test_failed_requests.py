"""What the commands say of a request that the engine failed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.llm import LLM
from minivllm.engine.messages import EngineCoreRequest
from tests.cli.test_commands import CLI
from tests.conftest import RunPython
from tests.serve.fakes import FakeClient, FakeTokenizer


class FailsFirst(FakeClient):
    """Ends its first request by an error."""

    def add_request(self, request: EngineCoreRequest) -> int:
        super().add_request(request)
        if len(self.requests) == 1:
            self.fail(request.request_id, "the step that ran it failed (ValueError)")
            self.allow()
        return 0


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


CONTIGUOUS = "--no-enable-prefix-caching --kv-manager-cls contiguous"
ALL_FAIL = "5 of 5 requests failed: the request needs 16 KV blocks to start; the whole pool has 15"


def test_a_recording_in_which_requests_fail_says_why_and_ends_with_status_1(
    tmp_path: Path, python_without: RunPython
) -> None:
    out = tmp_path / "o.jsonl"
    flags = CONTIGUOUS.split()
    run = python_without(CLI, "trace", "record", "tiny-pressure", *flags, "-o", str(out))
    assert run.returncode == 1
    assert f"error: {ALL_FAIL}" in run.stderr
    assert out.is_file() and f"{out}: 9 steps" in run.stdout  # the trace shows what happened


def test_compare_counts_the_requests_that_failed_on_a_side(
    tmp_path: Path, python_without: RunPython
) -> None:
    run = python_without(
        CLI, "compare", "tiny-pressure", "--b", CONTIGUOUS, "-o", str(tmp_path),
        env={"COLUMNS": "120"},
    )  # fmt: skip
    assert run.returncode == 1 and f"error: B: {ALL_FAIL}" in run.stderr
    rows = {line[2:36].strip(): line.split() for line in run.stdout.splitlines()}
    assert rows["requests failed"][2:5] == ["0", "5", "+5"]
    # A side without the number does not take the other's away.
    taken = next(line for line in run.stdout.splitlines() if "KV blocks taken, mean" in line)
    assert "%" in taken and "–" in taken
