"""Router: what the front end knows of each engine's load and cache, for ``routing.py`` to weigh.

Load is known at once from what is open, and set right by what comes back: an engine's
``SchedulerStats`` tell how much of the prompts has run, an output how much was said. It needs no
trace, and no question to an engine. Counterpart in vLLM: the request counts of
``DPLBAsyncMPClient`` in ``vllm/v1/engine/core_client.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from minivllm.engine.messages import EngineCoreRequest
from minivllm.engine.prefix_index import PrefixIndex, prompt_hashes
from minivllm.engine.routing import Choice, choose
from minivllm.trace.events import Reason, RouteCandidate, RoutePick, RouteWhy
from minivllm.trace.tracer import Tracer

EXPECTED_OUTPUT = 256
"""Output tokens that a request is reckoned with at most before it has said any. Most end by EOS
long before ``max_tokens``, which by default is all the context's room and says nothing."""


@dataclass(slots=True)
class OpenRequest:
    """A request that was sent to an engine and has not finished, as the front end knows it."""

    request: EngineCoreRequest
    engine: int = -1
    prefill_left: int = 0
    """Prompt tokens that its engine has still to run."""
    num_said: int = 0
    """Output tokens that were handed out."""
    num_retries: int = 0
    aborted: Reason | None = None
    """Its end was asked for; the engine's word on it has not come."""
    sent_ns: int = field(default_factory=time.perf_counter_ns)
    """When it was first sent."""

    @property
    def was_heard(self) -> bool:
        """Somebody may have seen of it what another engine would not say again."""
        return self.num_said > 0 and not self.request.final_only

    @property
    def load_tokens(self) -> int:
        """What its engine has still to run for it, at least the next token."""
        wanted = self.request.sampling_params.max_tokens or EXPECTED_OUTPUT
        return self.prefill_left + max(min(wanted, EXPECTED_OUTPUT) - self.num_said, 1)

    def say(self, num_tokens: int) -> None:
        if num_tokens:
            self.prefill_left = 0  # whatever was reckoned: the prompt has run
            self.num_said += num_tokens


def run_prefill(requests: Iterable[OpenRequest], num_tokens: int) -> None:
    """An engine's statistics say that it ran so many known tokens: book them on the oldest
    prompts, which it serves first. What that books wrongly, the first output token sets right."""
    for request in requests:
        if num_tokens <= 0:
            return
        done = min(request.prefill_left, num_tokens)
        request.prefill_left -= done
        num_tokens -= done


class Routable(Protocol):
    """An engine, as far as the router looks at it."""

    index: int
    requests: dict[str, OpenRequest]


@dataclass(slots=True)
class Router:
    policy: str
    trace: Tracer
    _indexes: dict[int, PrefixIndex] = field(default_factory=dict)
    _block_size: int = 0
    _last_engine: int = -1
    _last_parent: tuple[str, int] | None = None  # the samples of one parent come in a row

    def started(self, engine: int, facts: dict[str, Any]) -> None:
        """A new life, whose cache is empty."""
        if self.policy == "prefix_aware" and facts["enable_prefix_caching"]:
            self._block_size = facts["block_size"]
            self._indexes[engine] = PrefixIndex(facts["num_kv_blocks"], self._block_size)

    def forget(self, engine: int) -> None:
        """Its cache was reset."""
        if engine in self._indexes:
            self._indexes[engine].clear()

    def route(self, open_request: OpenRequest, engines: Sequence[Routable]) -> int:
        """Pick one of ``engines``, tell why, and reckon with the request there."""
        request = open_request.request
        num_prompt = len(request.prompt_token_ids)
        hashes = prompt_hashes(request, self._block_size) if self._indexes else []
        candidates = [self._candidate(engine, request, hashes) for engine in engines]
        choice = self._follow_sibling(request, candidates)
        choice = choice or choose(self.policy, candidates, num_prompt, self._last_engine)
        self.trace.emit(
            RoutePick,
            None,
            request_id=request.request_id,
            engine=choice.engine,
            policy=self.policy,
            why=RouteWhy.RETRY if open_request.num_retries else choice.why,
            candidates=candidates,
        )
        cached = next(c.cached_tokens for c in candidates if c.engine == choice.engine)
        open_request.engine = choice.engine
        open_request.prefill_left = num_prompt - cached
        self._last_engine = choice.engine
        if request.parent is not None:
            self._last_parent = request.parent, choice.engine
        if choice.engine in self._indexes:
            self._indexes[choice.engine].add(hashes)
        return choice.engine

    def _candidate(
        self, engine: Routable, request: EngineCoreRequest, hashes: list[bytes]
    ) -> RouteCandidate:
        prefixes, cached = self._indexes.get(engine.index), 0
        # With prompt_logprobs all of the prompt must run: the cache is not looked up.
        if prefixes is not None and request.sampling_params.prompt_logprobs is None:
            cached = prefixes.cached_tokens(hashes, len(request.prompt_token_ids))
        return RouteCandidate(
            engine=engine.index,
            open_requests=len(engine.requests),
            load_tokens=sum(r.load_tokens for r in engine.requests.values()),
            cached_tokens=cached,
        )

    def _follow_sibling(
        self, request: EngineCoreRequest, candidates: list[RouteCandidate]
    ) -> Choice | None:
        """Samples of one parent share their prompt's blocks: they stay together."""
        if request.parent is None or self._last_parent is None or len(candidates) == 1:
            return None
        parent, engine = self._last_parent
        if parent != request.parent or all(c.engine != engine for c in candidates):
            return None
        return Choice(engine, RouteWhy.SAME_PARENT)
