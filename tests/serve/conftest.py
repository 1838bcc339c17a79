"""A real HTTP server on a loopback port, around a core that says what it is told to."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from werkzeug.serving import BaseWSGIServer

from minivllm.api.server import create_app, make_http_server
from minivllm.engine.async_llm import AsyncLLM
from tests.serve.fakes import FakeClient, FakeTokenizer, ListTracer

MODEL = "fake-model"


@dataclass
class Server:
    """The endpoint, and what a test wants to know of it."""

    http: BaseWSGIServer
    llm: AsyncLLM
    core: FakeClient
    tracer: ListTracer

    @property
    def port(self) -> int:
        return self.http.server_port

    def openai(self, api_key: str = "none") -> openai.OpenAI:
        """The official client; it does not try again, so that a test sees each answer."""
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=api_key, max_retries=0, timeout=30
        )

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Exactly these bytes; ``body`` that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = dict(headers or {})
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def error(self, path: str, body: Any, **kwargs: Any) -> tuple[int, dict[str, Any]]:
        """Status and error object of a POST that is refused."""
        status, _, answer = self.raw("POST", path, body, **kwargs)
        return status, json.loads(answer)["error"]


StartServer = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[StartServer]:
    """Start servers; they are shut down at the end of the test."""
    running = []

    def start(
        core: FakeClient | None = None, llm: AsyncLLM | None = None, **settings: Any
    ) -> Server:
        tracer = ListTracer()
        core = core or FakeClient()
        llm = llm or AsyncLLM.from_parts(core, FakeTokenizer(), tracer)
        http_server = make_http_server(
            create_app(llm, served_model_name=MODEL, **settings), "127.0.0.1", 0
        )
        thread = threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        running.append((http_server, thread, llm))
        return Server(http_server, llm, core, tracer)

    yield start
    for http_server, thread, llm in running:
        http_server.shutdown()
        thread.join()
        llm.close()
        http_server.server_close()
