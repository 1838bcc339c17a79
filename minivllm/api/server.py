"""The routes: a Flask blueprint around an AsyncLLM, and the server that carries it.

    app = create_app(async_llm, served_model_name="smollm2-135m", api_keys=["secret"])
    make_http_server(app, "127.0.0.1", 8000).serve_forever()

First room on the way of an HTTP request: key, size and body are checked here, then the prompts go
to the AsyncLLM, and ``generation.py`` writes the answer. Counterpart in vLLM:
``vllm/entrypoints/openai/api_server.py`` (FastAPI). Left out: embeddings, responses, audio.
"""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from flask import Blueprint, Flask, Response, g, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

import minivllm
from minivllm.api.auth import KeyRing
from minivllm.api.chat import ChatFormat
from minivllm.api.completions import CompletionFormat
from minivllm.api.disconnect import POLL_S, ClientWatch
from minivllm.api.errors import ApiError, json_response, to_api_error
from minivllm.api.generation import Format, Generation
from minivllm.api.open_responses import WSGIApp
from minivllm.api.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    check_fan_out,
    parse,
    read_body,
)
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.input_processor import Prompt
from minivllm.errors import ConfigError
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import HttpRejected, HttpRequest

MAX_BODY_BYTES = 16 * 2**20

OPEN_ENDPOINTS = frozenset({"api.health", "api.ping", "api.version"})
"""Routes that need no key. Everything else in the application does, unless it is named here or
in ``create_blueprint(open_endpoints=...)``."""

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class CallIds:
    """The names of one HTTP request."""

    header: str
    """``x-request-id``: the client's own, if it sent a sane one."""
    suffix: str
    """Makes the engine's id unique though two clients may send the same header."""

    def response_id(self, prefix: str) -> str:
        return f"{prefix}-{self.header}"

    def request_id(self, prefix: str) -> str:
        return self.response_id(prefix) + self.suffix

    @staticmethod
    def of(header: str | None) -> CallIds:
        if header and _CLIENT_ID.fullmatch(header):
            return CallIds(header, "-" + uuid.uuid4().hex[:8])
        return CallIds(uuid.uuid4().hex, "")


@dataclass(slots=True)
class Service:
    """What the routes know."""

    llm: AsyncLLM
    model: str
    max_body_bytes: int = MAX_BODY_BYTES
    created: int = field(default_factory=lambda: int(time.time()))

    def chat(self) -> Response:
        ids, prefix = g.call, "chatcmpl"
        body = self._receive(prefix)
        asked = parse(body, ChatCompletionRequest)
        g.prompt_field, g.form_field = "messages", asked.form_field
        params = asked.to_sampling_params(self.llm.max_model_len)
        format = ChatFormat(self.llm.tokenizer, params.logprobs)
        return self._answer(ids, prefix, asked, params, [asked.messages], format)

    def complete(self) -> Response:
        ids, prefix = g.call, "cmpl"
        body = self._receive(prefix)
        asked = parse(body, CompletionRequest)
        g.prompt_field, g.form_field = "prompt", asked.form_field
        params = asked.to_sampling_params(self.llm.max_model_len)
        return self._answer(ids, prefix, asked, params, asked.prompts(), CompletionFormat())

    def _receive(self, prefix: str) -> dict[str, object]:
        g.request_id = g.call.request_id(prefix)
        self.llm.tracer.emit(
            HttpRequest,
            None,
            request_id=g.request_id,
            method=request.method,
            path=request.path,
            bytes=request.content_length or 0,
        )
        return read_body(request)

    def _answer(
        self,
        ids: CallIds,
        prefix: str,
        asked: GenerationFields,
        params: SamplingParams,
        prompts: list[Prompt],
        format: Format,
    ) -> Response:
        self.check_model(asked.model)
        check_fan_out(len(prompts), params.n)
        stream = self.llm.stream_many(
            prompts,
            params,
            g.request_id,
            kind=OutputKind.DELTA if asked.stream else OutputKind.FINAL_ONLY,
            priority=asked.priority or 0,
            cache_salt=asked.cache_salt,
            tick_s=POLL_S,
        )
        generation = Generation(
            response_id=ids.response_id(prefix),
            request_id=g.request_id,
            model=self.model,
            stream=stream,
            format=format,
            num_samples=params.n,
            watch=ClientWatch(request.environ),
            tracer=self.llm.tracer,
            include_usage=asked.include_usage,
            continuous_usage=asked.continuous_usage,
        )
        return generation.streamed() if asked.stream else generation.plain()

    def check_model(self, model: str | None) -> None:
        """No name means the one model there is, as with vLLM."""
        if model is not None and model != self.model:
            raise ApiError(
                404,
                f"The model {model!r} does not exist; this server has {self.model!r}.",
                param="model",
                code="model_not_found",
            )

    def card(self) -> dict[str, object]:
        return {
            "id": self.model,
            "object": "model",
            "created": self.created,
            "owned_by": "minivllm",
            "max_model_len": self.llm.max_model_len,
        }


def create_blueprint(
    async_llm: AsyncLLM,
    *,
    served_model_name: str,
    api_keys: Iterable[str] = (),
    open_endpoints: Collection[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Blueprint:
    """OpenAI's routes, guarded by ``api_keys`` if there are any.

    The guard and the JSON error bodies hold for the whole application that registers this.
    ``open_endpoints``: names of further Flask endpoints that need no key.
    """
    bp = Blueprint("api", __name__)
    service = Service(async_llm, served_model_name, max_body_bytes)
    keys = KeyRing(api_keys)
    unguarded = OPEN_ENDPOINTS | set(open_endpoints)

    @bp.before_app_request
    def guard() -> None:
        g.call = CallIds.of(request.headers.get("x-request-id"))
        request.max_content_length = service.max_body_bytes
        if request.endpoint in unguarded or keys.allows(request.headers.get("Authorization")):
            return
        raise ApiError(
            401,
            "Incorrect or missing API key. Send it as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    @bp.after_app_request
    def name_the_answer(response: Response) -> Response:
        if "call" in g:
            response.headers["x-request-id"] = g.call.header
        return response

    @bp.app_errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        failure = to_api_error(error, g.get("prompt_field"), g.get("form_field"))
        request_id = g.get("request_id")
        if request_id is not None:
            async_llm.tracer.emit(
                HttpRejected,
                None,
                request_id=request_id,
                status=failure.status,
                message=failure.message,
            )
            async_llm.tracer.flush()
        return failure.response()

    bp.post("/v1/chat/completions", endpoint="chat")(service.chat)
    bp.post("/v1/completions", endpoint="complete")(service.complete)

    @bp.get("/v1/models")
    def models() -> Response:
        return json_response({"object": "list", "data": [service.card()]})

    @bp.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        service.check_model(model)
        return json_response(service.card())

    @bp.get("/health")
    def health() -> Response:
        """200 while the engine lives, paused or not; 503 once it is dead."""
        if async_llm.is_dead:
            raise ApiError(503, "The engine is not running any more.", code="engine_dead")
        return json_response({"status": "ok"})

    @bp.get("/ping")
    def ping() -> Response:
        return health()

    @bp.get("/version")
    def version() -> Response:
        return json_response({"version": minivllm.__version__})

    return bp


def create_app(async_llm: AsyncLLM, **settings: object) -> Flask:
    """A Flask application with nothing but the endpoint; ``settings`` as create_blueprint's."""
    app = Flask("minivllm", static_folder=None)
    app.register_blueprint(create_blueprint(async_llm, **settings))  # type: ignore[arg-type]
    return app


class RequestHandler(WSGIRequestHandler):
    """werkzeug's handler with what streams need."""

    protocol_version = "HTTP/1.1"  # 1.0 has no chunks: the client would see the end only
    timeout = 60
    """Seconds a read or a send may block: a client that has stopped reading is dropped."""


def make_http_server(app: WSGIApp, host: str, port: int) -> BaseWSGIServer:
    """A server with one thread per connection; ``serve_forever()`` and ``shutdown()`` it.

    Port 0 takes a free one (``.server_port`` tells). Raises ConfigError when the address is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError("port", port, f"a free port of {host}: {error.strerror}") from error
    with listener:  # werkzeug takes a copy of the descriptor
        server = make_server(
            host, port, app, threaded=True, request_handler=RequestHandler, fd=listener.fileno()
        )
    # http.server would have set these if it had bound the socket itself.
    server.server_name, server.server_port = host, server.port
    return server
