"""The door: what every request passes on its way in, and the line in the log on its way out.

Before any route is looked up: does the request name this server by a name it has? (A foreign page
can point a name of its own at 127.0.0.1 and then read what stands there: DNS rebinding.) And does
a page of another origin want to change something? (A browser sends its form or its fetch even
where it may not read the answer.) Keys are checked behind it, by route.

Counterpart in vLLM: none for hosts; its CORS middleware allows every origin.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from flask import Response
from werkzeug.wsgi import ClosingIterator

from minivllm.api.errors import ApiError, to_api_error
from minivllm.api.limits import ACCESS_FIELDS
from minivllm.api.open_responses import WSGIApp
from minivllm.api.service import CallIds
from minivllm.serving.settings import ServeSettings
from viz.access import is_loopback, name_in

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

OFTEN = ("/health", "/ready", "/ping", "/metrics", "/load", "/static", "/socket.io", "/api")
"""Asked all the time by probes and pages: their lines come at level ``debug``."""


class Door:
    def __init__(
        self, app: WSGIApp, settings: ServeSettings, answered: Callable[[int], None]
    ) -> None:
        """``answered``: hears the status of what is refused here; the rest the app counts."""
        self._app, self._answered = app, answered
        self._names = {name.lower() for name in settings.allowed_hosts}
        # A server for a network has names that it does not know itself, unless it is told them.
        self._any_name = not is_loopback(settings.host) and not self._names

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        line = AccessLine(environ)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            line.status, line.headers = status, headers
            return start_response(status, headers, *([exc_info] if exc_info else []))

        try:
            refusal = self._refusal(environ)
            app = self._app if refusal is None else self._refuse(refusal, environ)
            answer = app(environ, start)
            # Not in the generator: one that was never begun runs no `finally`.
            closing = [answer.close] if hasattr(answer, "close") else []
            return ClosingIterator(line.counting(answer), [*closing, line.write])
        except (StopIteration, OSError):  # a websocket ends so, and a client that is gone
            line.write()
            raise
        except Exception as error:  # no traceback and no HTML, whatever it is
            if line.status == "-":
                failure = self._refuse(to_api_error(error), environ)
                return ClosingIterator(failure(environ, start), [line.write])
            line.write()
            raise

    def _refuse(self, refusal: ApiError, environ: dict[str, Any]) -> Response:
        self._answered(refusal.status)
        response = refusal.response()
        response.headers["x-request-id"] = CallIds.of(environ.get("HTTP_X_REQUEST_ID")).header
        return response

    def _refusal(self, environ: dict[str, Any]) -> ApiError | None:
        host = environ.get("HTTP_HOST")
        # Only HTTP/1.0 knows requests without a host, and no browser sends them.
        if not (self._is_ours(host) if host is not None else _is_http_1_0(environ)):
            return ApiError(
                403,
                "This server does not go by the name in the Host header; "
                "--allowed-host gives it further names.",
                code="host_not_allowed",
            )
        if environ["REQUEST_METHOD"] not in SAFE_METHODS and _is_cross_site(environ, host or ""):
            return ApiError(
                403, "Pages of other origins may not call this server.", code="cross_origin"
            )
        return None

    def _is_ours(self, host: str) -> bool:
        name = name_in(host)
        return name is not None and (self._any_name or is_loopback(name) or name in self._names)


def _is_http_1_0(environ: dict[str, Any]) -> bool:
    return environ.get("SERVER_PROTOCOL") == "HTTP/1.0"


def _is_cross_site(environ: dict[str, Any], host: str) -> bool:
    """A browser says where the page comes from; other clients say nothing."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return True
    origin = environ.get("HTTP_ORIGIN")
    try:
        return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:  # "http://[", which no browser says
        return True


class AccessLine:
    """What one request was and what became of it. Never a query string, a header or a body."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._begun = time.perf_counter()
        self._fields: dict[str, Any] = environ.setdefault(ACCESS_FIELDS, {})
        self._method = str(environ.get("REQUEST_METHOD"))
        self._path = str(environ.get("PATH_INFO"))
        self._bytes = 0
        self.status = "-"
        self.headers: list[tuple[str, str]] = []

    def counting(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        for part in answer:
            self._bytes += len(part)
            yield part

    def write(self) -> None:
        often = any(self._path == name or self._path.startswith(name + "/") for name in OFTEN)
        level = logging.DEBUG if often else logging.INFO
        if not logger.isEnabledFor(level):
            return
        request_id = next((v for name, v in self.headers if name.lower() == "x-request-id"), None)
        fields = {
            "request_id": request_id,
            "status": self.status[:3],
            "ms": round((time.perf_counter() - self._begun) * 1e3, 1),
            "bytes": self._bytes,
            **self._fields,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, "%s %r", self._method, self._path, extra={"fields": told})
