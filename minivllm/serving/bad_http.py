"""What is no HTTP, as gunicorn finds it out: in a request's head, or while its body is read.

A body in chunks has frames that are checked only as it is read, in the midst of a route. Its caller
must hear of them as of any other fault of its own. Counterpart in vLLM: none; uvicorn does it.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http import errors

from minivllm.api.errors import ApiError

_STATUS: dict[type[Exception], int] = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
}


def status_of(exc: Exception) -> int:
    return next((code for kind, code in _STATUS.items() if isinstance(exc, kind)), 400)


class UnreadableBody(ApiError):
    """Its chunks keep to no rule of theirs."""


class BodyReader:
    """The body's bytes from the connection. Where they end in nonsense, or break off, the
    connection must end, too: nobody knows where on it the next request begins."""

    def __init__(self, req: Any) -> None:
        self._req, self._reader = req, req.body.reader

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._reader.read(size))
        except errors.ParseException as error:
            self._req.force_close()
            told = "The request's body cannot be read: its chunks are malformed."
            raise UnreadableBody(status_of(error), told) from None
        except OSError:
            self._req.force_close()
            raise
