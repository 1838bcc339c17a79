"""The two ways to ask for a form over HTTP, and what a failure on the way looks like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from minivllm.config import make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.errors import MissingExtraError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.structured_output import backend_xgrammar
from minivllm.structured_output.compiler import GrammarCompiler
from minivllm.structured_output.manager import StructuredOutputManager
from minivllm.structured_output.params import StructuredOutputsParams
from tests.serve.conftest import MODEL, Server, StartServer, serve
from tests.serve.fakes import FakeTokenizer
from tests.structured.fakes import AnyToken, SlowBackend

__all__ = ["serve"]  # a fixture

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
TEXT = {"model": MODEL, "prompt": "a", "max_tokens": 3}
JSON = {"type": "json_object"}


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": {"type": "string"}},
                }
            },
            {"json": {"type": "string"}},
        ),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, {"json": '{"type": "null"}'}),
        ({"structured_outputs": {"regex": "a+", "json": None}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        (
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
            {"json_object": True, "disable_any_whitespace": True},
        ),
    ],
)
def test_a_form_reaches_the_engine(
    serve: StartServer, asked: dict[str, Any], form: dict[str, Any] | None
) -> None:
    server = serve()
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        assert server.raw("POST", path, body | asked)[0] == 200
    expected = form and StructuredOutputsParams(**form)
    got = [request.sampling_params.structured_outputs for request in server.core.requests]
    assert got == [expected, expected]


def test_without_the_extra_the_request_is_refused(
    serve: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("structured output needs xgrammar: minivllm[structured]")

    monkeypatch.setattr("minivllm.structured_output.manager.load", missing)
    server = serve()
    for asked in (
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a"}},
    ):
        status, error = server.error("/v1/chat/completions", CHAT | asked)
        assert status == 400 and "minivllm[structured]" in error["message"]
    assert server.core.requests == []
    assert server.raw("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert backend_xgrammar.load() is not None


class Stuck(SlowBackend):
    words = b"\xff" * 4

    def matcher(self, compiled: str) -> Any:
        return AnyToken(words=self.words)


@pytest.fixture
def slow(serve: StartServer) -> Iterator[tuple[Server, Stuck]]:
    """An engine whose compiler has a twentieth of a second."""
    config = make_config(num_kv_blocks=65, block_size=4, max_model_len=64)
    backend = Stuck()
    grammars = StructuredOutputManager(GrammarCompiler(backend, time_limit_s=0.05), backend.matcher)
    executor = ScriptedExecutor(config, lambda req, i: 97)
    client = InprocClient(EngineCore(config, executor, grammars=grammars))
    yield serve(llm=AsyncLLM.from_parts(client, FakeTokenizer())), backend
    backend.let.set()


def test_a_grammar_out_of_time_is_a_400_and_the_engine_goes_on(slow: tuple[Server, Stuck]) -> None:
    server, _ = slow
    status, error = server.error(
        "/v1/completions", TEXT | {"structured_outputs": {"regex": "stuck"}}
    )
    assert status == 400 and "longer than 0.05 seconds" in error["message"]
    assert server.raw("POST", "/v1/completions", TEXT)[0] == 200
    fine = TEXT | {"structured_outputs": {"regex": "a+"}}
    assert server.raw("POST", "/v1/completions", fine)[0] == 200
    assert server.raw("GET", "/health")[0] == 200


def test_a_form_in_which_a_text_gets_stuck_is_a_400(slow: tuple[Server, Stuck]) -> None:
    server, backend = slow
    backend.words = b"\0" * 40
    for asked in ({"structured_outputs": {"regex": "a"}}, {"response_format": JSON}):
        status, error = server.error("/v1/completions", TEXT | asked)
        assert status == 400 and error["type"] == "invalid_request_error"
        assert "no token may follow" in error["message"]


def test_a_stream_whose_grammar_fails_is_a_400_too(slow: tuple[Server, Stuck]) -> None:
    server, _ = slow
    body = TEXT | {"structured_outputs": {"regex": "stuck"}, "stream": True}
    status, error = server.error("/v1/completions", body)
    assert status == 400 and "0.05 seconds" in error["message"]
