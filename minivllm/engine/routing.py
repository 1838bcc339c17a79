"""Which of several engines gets a request: three policies, pure functions over numbers.

    round_robin    whoever's turn it is
    least_loaded   whoever has the fewest tokens still to run
    prefix_aware   whoever would be through first: tokens still to run + prompt tokens not cached

``prefix_aware`` weighs a cached prefix against load in one unit, tokens, so a hot prefix cannot
overload the engine that holds it: the engine it picks has at most as many more tokens to run than
the least loaded one as it holds more of this prompt, and that is less than the prompt is long.

The idea of one cost for both is that of NVIDIA Dynamo's KV router. Counterpart in vLLM:
``get_core_engine_for_request`` in ``vllm/v1/engine/core_client.py``, which counts requests
(waiting ones fourfold) and knows nothing of prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minivllm.trace.events import RouteCandidate, RouteWhy


@dataclass(frozen=True, slots=True)
class Choice:
    engine: int
    why: RouteWhy


def choose(
    policy: str, candidates: Sequence[RouteCandidate], num_prompt_tokens: int, last: int
) -> Choice:
    """Pick one of ``candidates`` (at least one, in order of their numbers).

    ``last``: who was picked before. Among equals it is the next one's turn, or else all the
    requests of a quiet hour would go to engine 0 and find its cache warm and its fellows' cold.
    """

    def turn(candidate: RouteCandidate) -> tuple[bool, int]:
        return candidate.engine <= last, candidate.engine

    def load(candidate: RouteCandidate) -> tuple[int, int, tuple[bool, int]]:
        return candidate.load_tokens, candidate.open_requests, turn(candidate)

    def cost(candidate: RouteCandidate) -> tuple[int, int, int, tuple[bool, int]]:
        to_run = candidate.load_tokens + num_prompt_tokens - candidate.cached_tokens
        return to_run, *load(candidate)

    if len(candidates) == 1:
        return Choice(candidates[0].engine, RouteWhy.ONLY_ENGINE)
    if policy == "round_robin":
        return Choice(min(candidates, key=turn).engine, RouteWhy.ROUND_ROBIN)
    if policy == "least_loaded":
        return _by_load(min(candidates, key=load), candidates)
    best = min(candidates, key=cost)
    rival = min((c for c in candidates if c is not best), key=load)
    # The cache has decided only if load alone would have decided otherwise, or had a tie.
    by_cache = best.load_tokens >= rival.load_tokens and best.cached_tokens > rival.cached_tokens
    return Choice(best.engine, RouteWhy.CACHED_PREFIX) if by_cache else _by_load(best, candidates)


def _by_load(best: RouteCandidate, candidates: Sequence[RouteCandidate]) -> Choice:
    as_little = (best.load_tokens, best.open_requests)
    tie = sum((c.load_tokens, c.open_requests) == as_little for c in candidates) > 1
    return Choice(best.engine, RouteWhy.TIE if tie else RouteWhy.LEAST_LOADED)
