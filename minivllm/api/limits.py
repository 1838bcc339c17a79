"""How much is answered at once, and for how long: limits of requests that generate.

Each of them holds a thread of the server from its first byte to its last, streamed or not. The
server has more threads than these may take, so that ``/health`` always finds one; whoever comes
when all are taken is sent away with 503, and so is whoever comes while the server ends.

Counterpart in vLLM: uvicorn's ``limit_concurrency`` and, for the end, its
``--shutdown-timeout``. vLLM has no time limit for a request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from minivllm.api.errors import ApiError, busy
from minivllm.api.metrics import ServerMetrics
from minivllm.engine.mailbox import OutputStream
from minivllm.outputs import RequestOutput
from minivllm.trace.events import Reason

MAX_SHORT_REQUESTS = 8
"""Of the threads that are there to spare, those that may read a body at once."""

ACCESS_FIELDS = "minivllm.access"
"""Where in a request's environ its line of the log is gathered."""


class OpenRequests:
    """Counts the requests that generate, or those that hold a thread in another way."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        """None: as many as the server has threads for."""
        self.ending = False
        """The server ends: nobody new."""
        self._count = 0
        self._changed = threading.Condition()

    def enter(self) -> Callable[[], None]:
        """Count one more; returns what must be called at its end, and may be more than once.

        Raises ApiError 503.
        """
        with self._changed:
            if self.ending:
                raise busy("The server is shutting down and takes no new requests.", "ending")
            if self.limit is not None and self._count >= self.limit:
                raise busy(
                    f"The server answers {self.limit} requests at once, and all are taken.",
                    "too_many_requests_open",
                )
            self._count += 1
        return _Place(self).leave

    def _leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def refuse_new(self) -> None:
        with self._changed:
            self.ending = True

    @property
    def count(self) -> int:
        return self._count

    def wait_for_none(self, timeout_s: float) -> bool:
        """Until the last has left; False if that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout_s)


class _Place:
    def __init__(self, requests: OpenRequests) -> None:
        self._requests: OpenRequests | None = requests

    def leave(self) -> None:
        requests, self._requests = self._requests, None
        if requests is not None:
            requests._leave()


@dataclass(slots=True)
class RunningClock:
    """Seconds that the engine was free to run: while the gate holds it, nobody's time passes."""

    _held_since: float | None = None
    _held_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on_gate(self, mode: str, rate: float) -> None:
        """A listener of ``Gate.on_change``."""
        with self._lock:
            now = time.monotonic()
            if mode == "pause" and self._held_since is None:
                self._held_since = now
            elif mode != "pause" and self._held_since is not None:
                self._held_s += now - self._held_since
                self._held_since = None

    def now(self) -> float:
        with self._lock:
            return (self._held_since or time.monotonic()) - self._held_s


@dataclass(slots=True)
class Limits:
    """What bounds the requests of one server."""

    open_requests: OpenRequests = field(default_factory=OpenRequests)
    short_requests: OpenRequests = field(default_factory=lambda: OpenRequests(MAX_SHORT_REQUESTS))
    """Those that do not generate but have a body (``/tokenize``): who sends one slowly holds a
    thread, too."""
    clock: RunningClock = field(default_factory=RunningClock)
    request_timeout_s: float | None = None
    metrics: ServerMetrics | None = None
    """Where it is counted what became of requests that have no end of their own."""

    def watch(self, stream: OutputStream, environ: dict[str, Any]) -> WatchedStream:
        return WatchedStream(stream, self, environ)


class WatchedStream:
    """The outputs of one request as the engine brings them, counted, while its time lasts."""

    def __init__(self, stream: OutputStream, limits: Limits, environ: dict[str, Any]) -> None:
        self.request_ids = stream.request_ids
        self._stream, self._limits, self._environ = stream, limits, environ
        self._begun = limits.clock.now()
        self._ended = False
        """It needs nobody to end it any more."""
        self._prompt_tokens: dict[str, int] = {}
        self._line: dict[str, Any] = environ.setdefault(ACCESS_FIELDS, {})
        self._line.update(prompt_tokens=0, completion_tokens=0)

    def __iter__(self) -> WatchedStream:
        return self

    def __next__(self) -> RequestOutput | None:
        """Raises ApiError 504 once the time is up, and the request is ended then. No client tries
        again by itself: it would only wait as long once more."""
        try:
            output = next(self._stream)
        except Exception:  # StopIteration, or what the engine failed by
            self._ended = True
            raise
        if output is not None:
            self._count(output)
        limit_s = self._limits.request_timeout_s
        if limit_s is None or (output is not None and output.finished):
            return output
        if self._limits.clock.now() - self._begun > limit_s:
            self._end_late(limit_s)
        return output

    def close(self) -> None:
        """Ends what has not ended: then its client has gone, or does not read."""
        metrics = self._limits.metrics
        if not self._ended and metrics is not None:
            stuck = getattr(self._environ.get("gunicorn.socket"), "is_stuck", False)
            (metrics.slow_reader if stuck else metrics.disconnected)()
        self._ended = True
        self._stream.close()

    def _end_late(self, limit_s: float) -> NoReturn:
        self._ended = True
        self._stream.close(Reason.TIMEOUT)
        if self._limits.metrics is not None:
            self._limits.metrics.timed_out()
        raise ApiError(
            504,
            f"The request was not finished within {limit_s:g} seconds and was ended.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )

    def _count(self, output: RequestOutput) -> None:
        self._prompt_tokens[output.request_id] = len(output.prompt_token_ids)
        self._line["prompt_tokens"] = sum(self._prompt_tokens.values())
        self._line["completion_tokens"] += sum(len(o.token_ids) for o in output.outputs)
        if output.engine is not None:
            self._line["engine"] = output.engine
        if any(completion.failed for completion in output.outputs):
            self._ended = True  # its reader raises what it failed by
