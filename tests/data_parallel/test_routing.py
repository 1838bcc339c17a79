"""The three policies, as functions of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minivllm.engine.routing import choose
from minivllm.trace.events import RouteCandidate, RouteWhy

NUMBER = st.integers(0, 2000)


def candidate(
    engine: int, load: int = 0, cached: int = 0, open_requests: int = 0
) -> RouteCandidate:
    return RouteCandidate(
        engine=engine, open_requests=open_requests, load_tokens=load, cached_tokens=cached
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[RouteCandidate], int, int]:
    """Candidates, the prompt's length, and who was picked last."""
    num_prompt = draw(st.integers(1, 500))
    engines = sorted(draw(st.sets(st.integers(0, 7), min_size=1)))
    candidates = [
        candidate(e, draw(NUMBER), draw(st.integers(0, num_prompt - 1)), draw(st.integers(0, 9)))
        for e in engines
    ]
    return candidates, num_prompt, draw(st.integers(-1, 7))


def test_round_robin_goes_round_and_skips_who_is_not_there() -> None:
    last, picked = -1, []
    for _ in range(6):
        last = choose("round_robin", [candidate(e) for e in (0, 2, 3)], 10, last).engine
        picked.append(last)
    assert picked == [0, 2, 3, 0, 2, 3]


def test_least_loaded_takes_the_fewest_tokens_and_then_the_fewest_requests() -> None:
    by_tokens = [candidate(0, load=50, open_requests=1), candidate(1, load=40, open_requests=9)]
    assert choose("least_loaded", by_tokens, 10, -1).engine == 1
    by_requests = [candidate(0, load=40, open_requests=2), candidate(1, load=40, open_requests=1)]
    assert choose("least_loaded", by_requests, 10, -1).engine == 1


def test_among_equals_it_is_the_next_ones_turn() -> None:
    for policy in ("least_loaded", "prefix_aware"):
        equals = [candidate(e) for e in (0, 1, 2)]
        chosen = [choose(policy, equals, 10, last) for last in (-1, 0, 1, 2)]
        assert [choice.engine for choice in chosen] == [0, 1, 2, 0]
        assert {choice.why for choice in chosen} == {RouteWhy.TIE}


def test_a_cached_prefix_outweighs_as_much_load_as_it_saves_and_no_more() -> None:
    def pick(load: int) -> tuple[int, RouteWhy]:
        choice = choose("prefix_aware", [candidate(0, load, cached=64), candidate(1)], 100, -1)
        return choice.engine, choice.why

    assert pick(63) == (0, RouteWhy.CACHED_PREFIX)
    assert pick(65) == (1, RouteWhy.LEAST_LOADED)


def test_the_reason_is_load_where_load_alone_would_have_decided_so() -> None:
    idle_and_warm = [candidate(0, load=0, cached=64), candidate(1, load=9)]
    assert choose("prefix_aware", idle_and_warm, 100, -1).why is RouteWhy.LEAST_LOADED
    both_warm = [candidate(0, cached=64), candidate(1, cached=64), candidate(2, load=1)]
    assert choose("prefix_aware", both_warm, 100, -1).why is RouteWhy.TIE


@given(situations(), st.sampled_from(["round_robin", "least_loaded", "prefix_aware"]))
def test_the_only_engine_is_picked_whatever_its_load(
    situation: tuple[list[RouteCandidate], int, int], policy: str
) -> None:
    candidates, num_prompt, last = situation
    choice = choose(policy, candidates[:1], num_prompt, last)
    assert (choice.engine, choice.why) == (candidates[0].engine, RouteWhy.ONLY_ENGINE)


@given(situations(), st.sampled_from(["round_robin", "least_loaded", "prefix_aware"]))
def test_a_candidate_is_picked_and_the_same_one_again(
    situation: tuple[list[RouteCandidate], int, int], policy: str
) -> None:
    candidates, num_prompt, last = situation
    choice = choose(policy, candidates, num_prompt, last)
    assert choice.engine in [c.engine for c in candidates]
    assert choose(policy, list(candidates), num_prompt, last) == choice


@given(situations())
def test_least_loaded_never_takes_an_engine_with_more_to_run_than_another(
    situation: tuple[list[RouteCandidate], int, int],
) -> None:
    candidates, num_prompt, last = situation
    engine = choose("least_loaded", candidates, num_prompt, last).engine
    loads = {c.engine: c.load_tokens for c in candidates}
    assert loads[engine] == min(loads.values())


@given(situations())
def test_prefix_aware_never_prefers_more_load_than_the_cache_saves(
    situation: tuple[list[RouteCandidate], int, int],
) -> None:
    """The imbalance bound: however hot a prefix, its engine is ahead by less than one prompt."""
    candidates, num_prompt, last = situation
    engine = choose("prefix_aware", candidates, num_prompt, last).engine
    picked = next(c for c in candidates if c.engine == engine)
    for other in candidates:
        saved = picked.cached_tokens - other.cached_tokens
        assert picked.load_tokens - other.load_tokens <= max(saved, 0) < num_prompt


@given(st.integers(2, 5), st.integers(1, 200), st.integers(1, 60))
def test_a_hot_prefix_does_not_overload_one_engine(n: int, num_prompt: int, requests: int) -> None:
    """All prompts are the same, nothing ever ends: whoever has had it once has it cached."""
    load, cached, last, output = [0] * n, [0] * n, -1, 16
    for _ in range(requests):
        candidates = [candidate(e, load[e], cached[e]) for e in range(n)]
        last = choose("prefix_aware", candidates, num_prompt, last).engine
        load[last] += num_prompt - cached[last] + output
        cached[last] = num_prompt - 1
    assert max(load) - min(load) <= 2 * num_prompt + output
