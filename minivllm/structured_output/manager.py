"""StructuredOutputManager: whose grammar is being compiled, and whose is ready.

Counterpart in vLLM: ``StructuredOutputManager`` in ``vllm/v1/structured_output/__init__.py``. The
engine core asks it between two steps; nothing here ever waits for a compilation but :meth:`wait`,
which is for whoever steps by hand and has nothing else to do.

Also here: :class:`GrammarCheck`, what the front end does before it queues such a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from minivllm.errors import StructuredOutputError
from minivllm.structured_output.backend_xgrammar import (
    Vocabulary,
    XGrammarBackend,
    load,
    parse,
)
from minivllm.structured_output.compiler import Compilation, GrammarCompiler
from minivllm.structured_output.interface import Grammar
from minivllm.structured_output.params import GrammarSpec, StructuredOutputsParams

logger = logging.getLogger(__name__)

PARSE_LIMIT_S = 5.0
"""What is only parsed takes milliseconds; a schema that takes longer would not compile in time."""


class StructuredOutputManager:
    """The core's :class:`~minivllm.core.interfaces.GrammarSource`. Used on the core's thread; only
    ``on_ready`` is called on others."""

    def __init__(self, compiler: GrammarCompiler, matcher: Callable[[Any], Grammar]) -> None:
        """``matcher``: makes a request's place in a grammar that was compiled."""
        self._compiler = compiler
        self._matcher = matcher
        self._waiting: dict[str, Compilation] = {}  # by core name, in order of arrival

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> StructuredOutputManager:
        """One that compiles with xgrammar; nothing is imported before the first request."""
        backend = XGrammarBackend(vocabulary)
        return cls(GrammarCompiler(backend), backend.matcher)

    def on_ready(self, wake: Callable[[], None]) -> None:
        self._compiler.on_done = wake

    def start(self, req_id: str, params: StructuredOutputsParams) -> None:
        self._waiting[req_id] = self._compiler.submit(params.spec())

    def cancel(self, req_id: str) -> None:
        self._waiting.pop(req_id, None)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def any_ready(self) -> bool:
        self._compiler.expire()
        return any(job.done for job in self._waiting.values())

    def take_ready(self) -> list[tuple[str, Grammar | str]]:
        if not self._waiting:
            return []
        self._compiler.expire()
        ready = {req_id: job for req_id, job in self._waiting.items() if job.done}
        for req_id in ready:
            del self._waiting[req_id]
        return [(req_id, self._result(job)) for req_id, job in ready.items()]

    def _result(self, job: Compilation) -> Grammar | str:
        if job.error is not None:
            return str(job.error)
        try:
            return self._matcher(job.compiled)
        except Exception:
            logger.exception("a grammar could not be begun")
            return "its grammar could not be begun; the server's log says why"

    def seconds_left(self) -> float | None:
        return self._compiler.seconds_left() if self._waiting else None

    def wait(self) -> None:
        """Until one is ready or out of time."""
        self._compiler.wait(lambda: any(job.done for job in self._waiting.values()))


class _Parser:
    """Parsing as a backend of a compiler, so that it has the same threads and the same limits."""

    def prepare(self) -> None:
        load()

    def compile(self, spec: GrammarSpec) -> Any:
        parse(spec)
        return True

    def size_bytes(self, compiled: Any) -> int:
        return 1


class GrammarCheck:
    """Is this a grammar at all? Asked by the front end, before the request is queued."""

    def __init__(self, eos_token_id: int | None) -> None:
        self._eos_token_id = eos_token_id
        self._parser = GrammarCompiler(_Parser(), PARSE_LIMIT_S, cache_bytes=1024)

    def __call__(self, params: StructuredOutputsParams) -> None:
        """Raises StructuredOutputError, MissingExtraError."""
        load()
        if self._eos_token_id is None:
            raise StructuredOutputError(
                "", "absent: this model has no end-of-text token, so no grammar could ever end"
            )
        job = self._parser.submit(params.spec())
        self._parser.wait(lambda: job.done)
        if job.error is not None:  # it may be others' error, too: each raises one of its own
            raise StructuredOutputError(job.spec.kind, job.error.allowed)
