"""GrammarCompiler: compiles grammars on threads of its own, within a time, and keeps the results.

A grammar takes a millisecond or minutes, and which of the two cannot be told by looking at it. So
the engine never compiles: it asks here, and later asks what is ready. Python cannot end a thread; a
compilation that is out of time is therefore given up, not stopped. Its requests fail, its thread
gets the lowest priority and another takes its place, and should it end after all, its result is
kept for the next who asks. As long as too many of these run, whoever would need a worker is refused
at once.

Counterpart in vLLM: the ThreadPoolExecutor in ``vllm/v1/structured_output/__init__.py``, which has
no time limit, and the cache in xgrammar's own compiler.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from minivllm.errors import StructuredOutputError
from minivllm.structured_output.params import GrammarSpec

logger = logging.getLogger(__name__)

TIME_LIMIT_S = 10.0
"""Ordinary schemas take 1 to 100 ms over 49,152 tokens, a list of 5,000 choices 140 (measured)."""
NUM_WORKERS = 2
MAX_GIVEN_UP = 4
"""Threads that may compile what nobody waits for any more."""
CACHE_BYTES = 128 * 2**20


IDLE_S = 10.0
"""A worker without work ends after this long."""


class Backend(Protocol):
    """What compiles. ``compile`` runs on several threads at once."""

    def prepare(self) -> None:
        """What the first compilation needs, and no time limit should count."""
        ...

    def compile(self, spec: GrammarSpec) -> Any: ...
    def size_bytes(self, compiled: Any) -> int: ...


@dataclass(slots=True)
class Compilation:
    """One grammar on its way; all who want it share it."""

    spec: GrammarSpec
    started: float | None = None  # seconds, of time.monotonic
    compiled: Any = None
    error: StructuredOutputError | None = None
    done: bool = False
    """``compiled`` or ``error`` is there."""
    given_up: bool = False
    """Out of time, and still at work."""
    thread_id: int = 0
    """The system's, of the thread that compiles it."""


class GrammarCompiler:
    """:meth:`submit`, then look at ``done``; ``on_done`` is called, on any thread, when to look."""

    def __init__(
        self,
        backend: Backend,
        time_limit_s: float = TIME_LIMIT_S,
        num_workers: int = NUM_WORKERS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.backend = backend
        self.time_limit_s = time_limit_s
        self.num_workers = num_workers
        self.cache_bytes = cache_bytes
        self.on_done: Callable[[], None] = lambda: None
        self.changed = threading.Condition()
        self._queue: deque[Compilation] = deque()
        self._under_way: dict[GrammarSpec, Compilation] = {}
        self._cache: OrderedDict[GrammarSpec, Any] = OrderedDict()  # the newest use last
        self._workers = 0  # threads, those whose work was given up left out
        self._idle = 0
        self._given_up = 0

    def submit(self, spec: GrammarSpec) -> Compilation:
        """Begin to compile, unless it is known or under way."""
        with self.changed:
            if spec in self._cache:
                self._cache.move_to_end(spec)
                return Compilation(spec, compiled=self._cache[spec], done=True)
            known = self._under_way.get(spec)
            if known is not None:
                return known
            job = Compilation(spec)
            if self._workers == 0 and self._given_up >= MAX_GIVEN_UP:
                job.done, job.error = True, _busy(job.spec)
                return job
            self._under_way[spec] = job
            self._queue.append(job)
            if len(self._queue) > self._idle:
                self._add_worker()
            self.changed.notify_all()
            return job

    def expire(self) -> None:
        """Give up what is out of time."""
        now = time.monotonic()
        with self.changed:
            for job in list(self._under_way.values()):
                if job.done or job.started is None or now < job.started + self.time_limit_s:
                    continue
                job.done = job.given_up = True
                job.error = StructuredOutputError(
                    job.spec.kind,
                    f"smaller: compiling it took longer than {self.time_limit_s:g} seconds",
                )
                _make_slow(job.thread_id)
                self._workers -= 1
                self._given_up += 1
                self._add_worker()
                self.changed.notify_all()
            if self._workers == 0:
                for job in self._queue:
                    job.done, job.error = True, _busy(job.spec)
                    del self._under_way[job.spec]
                    self.changed.notify_all()
                self._queue.clear()

    def seconds_left(self) -> float | None:
        """Until :meth:`expire` may have something to give up; None if nothing is at work."""
        with self.changed:
            jobs = self._under_way.values()
            started = [j.started for j in jobs if j.started is not None and not j.done]
        return max(min(started) + self.time_limit_s - time.monotonic(), 0) if started else None

    def wait(self, until: Callable[[], bool]) -> None:
        """Until something holds that a result, or the end of a time limit, brings about."""
        with self.changed:
            self.expire()
            while not until():
                self.changed.wait(self.seconds_left())
                self.expire()

    # --- the workers' side -----------------------------------------------------------------------

    def _add_worker(self) -> None:
        if self._workers >= self.num_workers or self._given_up >= MAX_GIVEN_UP:
            return
        self._workers += 1
        # A daemon: a program must be able to end while a grammar is being compiled.
        threading.Thread(target=self._work, name="grammar-compiler", daemon=True).start()

    def _work(self) -> None:
        try:
            self.backend.prepare()
        except Exception:
            logger.exception("the grammar compiler could not be prepared")  # nor will it compile
        while True:
            with self.changed:
                self._idle += 1
                found = self.changed.wait_for(lambda: self._queue, IDLE_S)
                self._idle -= 1
                if not found:
                    self._workers -= 1
                    return
                job = self._queue.popleft()
                job.started, job.thread_id = time.monotonic(), threading.get_native_id()
                self.changed.notify_all()
            self.on_done()  # a time limit runs from now on
            compiled, error = self._compile(job.spec)
            with self.changed:
                del self._under_way[job.spec]
                if compiled is not None:
                    self._keep(job.spec, compiled)
                self.changed.notify_all()
                if job.given_up:  # its thread was made slow, another has taken its place
                    self._given_up -= 1
                    if self._queue:
                        self._add_worker()
                    return
                job.compiled, job.error, job.done = compiled, error, True
            self.on_done()

    def _compile(self, spec: GrammarSpec) -> tuple[Any, StructuredOutputError | None]:
        try:
            return self.backend.compile(spec), None
        except StructuredOutputError as error:
            return None, error
        except Exception:
            logger.exception("a grammar could not be compiled")
            allowed = "another: it could not be compiled, the server's log says why"
            return None, StructuredOutputError(spec.kind, allowed)

    def _keep(self, spec: GrammarSpec, compiled: Any) -> None:
        """The least recently used go, until the rest fits."""
        self._cache[spec] = compiled
        size = self.backend.size_bytes
        while len(self._cache) > 1 and sum(map(size, self._cache.values())) > self.cache_bytes:
            self._cache.popitem(last=False)


def _make_slow(thread_id: int) -> None:
    """What nobody waits for gets the cores that nobody wants. Linux has priorities for threads."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread_id, 19)


def _busy(spec: GrammarSpec) -> StructuredOutputError:
    allowed = "sent again later: the compiler is busy with grammars that take too long"
    return StructuredOutputError(spec.kind, allowed)
