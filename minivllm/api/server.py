"""The endpoint put together: a Flask blueprint around an AsyncLLM, and the server that carries it.

    app = create_app(async_llm, served_model_name="smollm2-135m", api_keys=["secret"])
    make_http_server(app, "127.0.0.1", 8000).serve_forever()

First room on the way of an HTTP request: key and size are checked here, whatever the route, and
every error becomes an answer here. The routes themselves stand in ``generate.py`` and ``info.py``.
Counterpart in vLLM: ``vllm/entrypoints/openai/api_server.py`` (FastAPI). Left out: embeddings,
responses, audio.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar

import msgspec
from flask import Blueprint, Flask, Request, Response, g, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from minivllm.api.address import bind
from minivllm.api.auth import KeyRing
from minivllm.api.errors import ApiError, to_api_error
from minivllm.api.generate import GenerateRoutes
from minivllm.api.info import InfoRoutes
from minivllm.api.limits import Limits
from minivllm.api.metrics import MetricsRoute, ServerMetrics
from minivllm.api.open_responses import WSGIApp
from minivllm.api.service import CallIds, Service
from minivllm.api.tokenize import TokenizeRoutes
from minivllm.engine.async_llm import AsyncLLM
from minivllm.trace.events import HttpRejected
from minivllm.typed import warm_up

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 2**20

OPEN_ENDPOINTS = frozenset({"api.health", "api.metrics", "api.ping", "api.ready", "api.version"})
"""Routes that need no key. Everything else in the application does, unless it is named here or
in ``create_blueprint(open_endpoints=...)``."""


REJECTIONS = {
    "queue_full": "max_num_queued_reqs",  # vLLM's name of --max-queue-size
    "too_many_requests_open": "max_streams",
    "ending": "shutdown",
    "no_engine": "no_engine",
}
"""Codes of answers that send a request away → reasons in ``vllm:admission_rejections``."""

GENERATES = ("api.chat", "api.complete")
"""Whose requests are counted there."""


def create_blueprint(
    async_llm: AsyncLLM,
    *,
    served_model_name: str,
    api_keys: Iterable[str] = (),
    open_endpoints: Collection[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    metrics: ServerMetrics | None = None,
    life_page: str | None = None,
    limits: Limits | None = None,
    is_insider: Callable[[Request], bool] | None = None,
) -> Blueprint:
    """OpenAI's routes, guarded by ``api_keys`` if there are any.

    The guard and the JSON error bodies hold for the whole application that registers this.
    ``open_endpoints``: names of further Flask endpoints that need no key. ``metrics``: where the
    server counts, if others count there, too. ``life_page``: where a request's life can be seen,
    without the request's id at its end; answers link to it. ``is_insider``: who may know
    of processes and how they died; None: who has a key, or everybody where none is needed.
    """
    bp = Blueprint("api", __name__)
    service = Service(async_llm, served_model_name, limits or Limits())
    counts = metrics or ServerMetrics(async_llm, served_model_name)
    service.limits.metrics = counts
    keys = KeyRing(api_keys)
    unguarded = OPEN_ENDPOINTS | set(open_endpoints)

    @bp.before_app_request
    def guard() -> None:
        g.call = CallIds.of(request.headers.get("x-request-id"))
        request.max_content_length = max_body_bytes
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
        if "request_id" in g and life_page is not None:
            response.headers["Link"] = f'<{life_page}{g.request_id}>; rel="describedby"'
        if "counts_its_end" not in g:
            counts.answered(response.status_code)
        if "leave" in g:  # once the last byte is written, or the client is gone
            response.call_on_close(g.leave)
        return response

    @bp.app_errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        failure = to_api_error(error, g.get("prompt_field"), g.get("form_field"))
        try:
            note(failure)
        except Exception:  # the client gets its answer, whatever fails beside it
            logger.exception("a refused request could not be counted or told of")
        return failure.response()

    def note(failure: ApiError) -> None:
        if failure.code in REJECTIONS and request.endpoint in GENERATES:  # not a probe's
            counts.rejected(REJECTIONS[failure.code])
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

    GenerateRoutes(service).add_to(bp)
    TokenizeRoutes(service).add_to(bp)
    by_key = lambda asks: keys.allows(asks.headers.get("Authorization"))  # noqa: E731
    InfoRoutes(service, is_insider or by_key).add_to(bp)
    MetricsRoute(counts).add_to(bp)
    warm_up()  # the first requests come several at once
    return bp


def create_app(async_llm: AsyncLLM, **settings: object) -> Flask:
    """A Flask application with nothing but the endpoint; ``settings`` as create_blueprint's."""
    app = Flask("minivllm", static_folder=None)
    app.register_blueprint(create_blueprint(async_llm, **settings))  # type: ignore[arg-type]
    return app


class RequestHandler(WSGIRequestHandler):
    """werkzeug's handler with what streams need."""

    protocol_version = "HTTP/1.1"  # 1.0 has no chunks: the client would see the end only
    timeout: ClassVar[float | None] = 60
    """Seconds a read or a send may block: a client that has stopped reading is dropped."""

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """The door writes the log's line."""

    def parse_request(self) -> bool:
        """A body whose length is told twice, or is no number, ends where nobody knows."""
        if not super().parse_request():
            return False
        lengths = self.headers.get_all("Content-Length", [])
        coding = self.headers.get_all("Transfer-Encoding", [])
        if len(lengths) + len(coding) > 1 or not all(
            length.isascii() and length.isdigit() for length in lengths
        ):
            self.send_error(400)
            return False
        if coding and coding[0].strip().lower() != "chunked":
            self.send_error(501)
            return False
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What cannot be read gets OpenAI's error body, never its own words back, and no more."""
        body = msgspec.json.encode(ApiError(code, "This request cannot be read.").body())
        self.request_version = "HTTP/1.1"  # unknown as yet where its first line is wrong
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


def make_http_server(app: WSGIApp, host: str, port: int) -> BaseWSGIServer:
    """A server with one thread per connection; ``serve_forever()`` and ``shutdown()`` it.

    Port 0 takes a free one (``.server_port`` tells). Raises ConfigError when the address is taken.
    """
    with bind(host, port) as listener:
        return http_server_on(app, listener)


def http_server_on(app: WSGIApp, listener: socket.socket) -> BaseWSGIServer:
    """The same on a socket that listens already, of which it takes a copy."""
    host, port = listener.getsockname()[:2]
    server = make_server(
        host, port, app, threaded=True, request_handler=RequestHandler, fd=listener.fileno()
    )
    # http.server would have set these if it had bound the socket itself.
    server.server_name, server.server_port = host, port
    return server
