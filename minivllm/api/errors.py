"""Errors of the endpoint: one function makes every body, in OpenAI's format.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Errors that this project raises on purpose carry a message for the caller. Anything else is a
defect of the server: it is logged, and the caller gets a generic sentence, since the text of an
unexpected exception may tell about the server's inside (as in CVE-2026-22778).

Counterpart in vLLM: ``vllm/entrypoints/serve/utils`` and ``create_error_response``, where ``code``
is the HTTP number; here it is a word or null, as OpenAI has it.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from flask import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from minivllm.api.answers import ErrorBody, ErrorDetail
from minivllm.errors import (
    ConfigError,
    DuplicateRequestError,
    EngineDeadError,
    EngineUnavailableError,
    MissingExtraError,
    PromptError,
    PromptTooLongError,
    QueueFullError,
    SamplingParamsError,
    StructuredOutputError,
)

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1000
"""Characters; a message may quote what was given, and a body may be megabytes."""

_HTTP_SENTENCES = {
    404: "There is no such route. See /v1/models, /v1/chat/completions, /v1/completions.",
    405: "This route does not take that method.",
    413: "The request body is too large.",
}


class ApiError(Exception):
    """An answer that is an error: HTTP status and the four fields of OpenAI's body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        self.param, self.code = param, code
        self.headers = headers or {}

    def body(self) -> ErrorBody:
        return ErrorBody(
            error=ErrorDetail(
                message=self.message,
                type="invalid_request_error" if self.status < 500 else "server_error",
                param=self.param,
                code=self.code,
            )
        )

    def response(self) -> Response:
        response = json_response(self.body(), self.status)
        response.headers.update(self.headers)
        return response


def busy(message: str, code: str) -> ApiError:
    """503 that says when to come again, in seconds."""
    return ApiError(503, message, code=code, headers={"Retry-After": "1"})


def json_response(body: Any, status: int = 200) -> Response:
    """``body`` as JSON; a number that JSON does not have (NaN) becomes null."""
    return Response(msgspec.json.encode(body), status, mimetype="application/json")


def to_api_error(
    error: Exception, prompt_field: str | None = None, form_field: str | None = None
) -> ApiError:
    """The answer for any exception. ``prompt_field``, ``form_field``: what this route calls its
    prompt, and this request its ``structured_outputs``."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), param=prompt_field, code="context_length_exceeded")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), param=prompt_field)
    if isinstance(error, StructuredOutputError) and form_field is not None:
        return ApiError(400, f"{form_field} must be {error.allowed}", param=form_field)
    if isinstance(error, SamplingParamsError):
        return ApiError(400, str(error), param=error.param)
    if isinstance(error, (DuplicateRequestError, ConfigError, MissingExtraError)):
        return ApiError(400, str(error))
    if isinstance(error, OverflowError):  # it was to be sent to an engine
        return ApiError(400, "The request has a number of more than 64 bits.")
    if isinstance(error, EngineDeadError):
        return ApiError(500, "The engine is not running any more.", code="engine_dead")
    if isinstance(error, QueueFullError):
        return busy(f"The queue is full: {error}.", "queue_full")
    if isinstance(error, EngineUnavailableError):
        return busy(f"{error}; try again later.", "no_engine")
    if isinstance(error, HTTPException):
        return _from_http(error)
    logger.error("unexpected error in a request", exc_info=error)
    return ApiError(500, "The server failed to answer this request; its log says why.")


def _from_http(error: HTTPException) -> ApiError:
    status = error.code or 500
    message = _HTTP_SENTENCES.get(status, error.name + ".")
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return ApiError(status, message, headers=headers)
