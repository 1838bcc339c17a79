"""How many responses are being written: a server that ends waits for their last words.

No counterpart in vLLM, whose uvicorn does this itself. A thread of a WSGI server that is still
writing would else be ended with the process, in the middle of a stream's last frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.wsgi import ClosingIterator

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class OpenResponses:
    """A WSGI app around another one. A response is open until the server has closed it, which is
    after its last byte was written or its client was lost."""

    def __init__(self, app: WSGIApp) -> None:
        self.app = app
        self._count = 0
        self._changed = threading.Condition()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._add(1)
        try:
            response = self.app(environ, start_response)
        except BaseException:
            self._add(-1)
            raise
        return ClosingIterator(response, lambda: self._add(-1))

    def wait(self, timeout: float) -> bool:
        """Until none is open, at most ``timeout`` seconds; False if some still are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout)

    def _add(self, n: int) -> None:
        with self._changed:
            self._count += n
            self._changed.notify_all()
