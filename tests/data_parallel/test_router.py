"""What the router reckons with: open requests, statistics, prompts sent before."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from minivllm.engine.prefix_index import PrefixIndex, prompt_hashes
from minivllm.engine.router import EXPECTED_OUTPUT, OpenRequest, Router, run_prefill
from minivllm.trace.events import RouteWhy
from tests.data_parallel.lives import BLOCK, Events, request

LONG = list(range(100, 120))  # 20 tokens, 5 blocks


@dataclass
class Engine:
    index: int
    requests: dict[str, OpenRequest] = field(default_factory=dict)


class Desk:
    """A router over engines that never answer."""

    def __init__(self, n: int = 2, policy: str = "prefix_aware", num_kv_blocks: int = 65) -> None:
        self.events = Events()
        self.router = Router(policy, self.events)
        self.engines = [Engine(i) for i in range(n)]
        facts = {
            "enable_prefix_caching": True,
            "block_size": BLOCK,
            "num_kv_blocks": num_kv_blocks,
        }
        for i in range(n):
            self.router.started(i, facts)

    def send(self, *args: object, **kwargs: object) -> OpenRequest:
        open_request = OpenRequest(request(*args, **kwargs))  # type: ignore[arg-type]
        engine = self.engines[self.router.route(open_request, self.engines)]
        engine.requests[open_request.request.request_id] = open_request
        return open_request

    def finish_all(self) -> None:
        for engine in self.engines:
            engine.requests.clear()


def test_the_event_says_who_was_weighed_with_which_numbers_and_why() -> None:
    desk = Desk()
    desk.send("a", LONG, max_tokens=10)
    desk.send("b", LONG, max_tokens=10)
    pick = desk.events.of("route.pick")[-1]
    assert (pick.request_id, pick.policy) == ("b", "prefix_aware")
    numbers = [(c.engine, c.open_requests, c.load_tokens, c.cached_tokens) for c in pick.candidates]
    # a has 20 prompt tokens and 10 to say; b would find 16 of its 20 there, and still be later.
    assert numbers == [(0, 1, 30, 16), (1, 0, 0, 0)]
    assert (pick.engine, pick.why) == (1, RouteWhy.LEAST_LOADED)


def test_a_prompt_goes_where_its_prefix_was_sent() -> None:
    desk = Desk(3)
    first = desk.send("a", LONG)
    desk.finish_all()
    again = desk.send("b", [*LONG, 7, 8, 9])
    assert again.engine == first.engine
    assert again.prefill_left == 3
    assert desk.events.of("route.pick")[-1].why is RouteWhy.CACHED_PREFIX


def test_only_the_same_cache_salt_finds_a_prefix() -> None:
    desk = Desk()
    desk.send("a", LONG, cache_salt="mine")
    desk.finish_all()
    desk.send("b", LONG, cache_salt="yours")
    assert all(c.cached_tokens == 0 for c in desk.events.of("route.pick")[-1].candidates)
    desk.finish_all()
    desk.send("c", LONG, cache_salt="mine")
    assert sum(c.cached_tokens for c in desk.events.of("route.pick")[-1].candidates) == 16


def test_prompt_logprobs_find_nothing_cached() -> None:
    desk = Desk()
    desk.send("a", LONG)
    desk.finish_all()
    scored = desk.send("b", LONG, params={"prompt_logprobs": 1})
    assert scored.prefill_left == 20


def test_a_reset_or_a_new_life_forgets_what_was_cached() -> None:
    for forget in ("reset", "restart"):
        desk = Desk(1)
        desk.send("a", LONG)
        if forget == "reset":
            desk.router.forget(0)
        else:
            desk.router.started(
                0, {"enable_prefix_caching": True, "block_size": BLOCK, "num_kv_blocks": 65}
            )
        assert desk.send("b", LONG).prefill_left == 20


def test_without_prefix_caching_in_the_engines_nothing_counts_as_cached() -> None:
    desk = Desk(0)
    desk.engines = [Engine(0)]
    desk.router.started(
        0, {"enable_prefix_caching": False, "block_size": BLOCK, "num_kv_blocks": 65}
    )
    desk.send("a", LONG)
    assert desk.send("b", LONG).prefill_left == 20


def test_samples_of_one_parent_stay_together() -> None:
    desk = Desk(3, "round_robin")
    samples = [desk.send(f"{i}_p", LONG, parent="p") for i in range(4)]
    assert {sample.engine for sample in samples} == {0}
    whys = [pick.why for pick in desk.events.of("route.pick")]
    assert whys == [RouteWhy.ROUND_ROBIN, *[RouteWhy.SAME_PARENT] * 3]
    assert desk.send("other", LONG, parent="q").engine == 1


def test_load_falls_as_prompt_and_output_run() -> None:
    open_request = OpenRequest(request("a", LONG, max_tokens=10), prefill_left=20)
    assert open_request.load_tokens == 30
    run_prefill([open_request], 8)
    assert open_request.load_tokens == 22
    open_request.say(1)  # the whole prompt has run, whatever was reckoned
    assert open_request.load_tokens == 9
    open_request.say(9)
    assert open_request.load_tokens == 1


def test_prefill_is_booked_on_the_oldest_prompt_first() -> None:
    first, second = (OpenRequest(request(name, LONG), prefill_left=20) for name in "ab")
    run_prefill([first, second], 26)
    assert (first.prefill_left, second.prefill_left) == (0, 14)


def test_an_unlimited_answer_counts_as_an_ordinary_one() -> None:
    unlimited = OpenRequest(request("a", [1], max_tokens=100_000))
    assert unlimited.load_tokens == EXPECTED_OUTPUT


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=12)


@given(PROMPTS, st.integers(2, 12))
def test_the_index_promises_only_prefixes_that_were_sent_and_never_grows_beyond_the_pool(
    prompts: list[list[int]], num_kv_blocks: int
) -> None:
    index = PrefixIndex(num_kv_blocks, BLOCK)
    sent: list[list[int]] = []
    for prompt in prompts:
        hashes = prompt_hashes(request("a", prompt), BLOCK)
        cached = index.cached_tokens(hashes, len(prompt))
        assert cached % BLOCK == 0 and cached < len(prompt)
        assert cached == 0 or any(old[:cached] == prompt[:cached] for old in sent)
        index.add(hashes)
        sent.append(prompt)
        assert len(index) <= num_kv_blocks - 1


def test_the_least_recently_used_prompt_is_forgotten_first_and_its_tail_before_its_head() -> None:
    index = PrefixIndex(num_kv_blocks=9, block_size=BLOCK)  # 8 blocks
    first, second, third = (
        prompt_hashes(request("x", range(start, start + 16)), BLOCK) for start in (0, 100, 200)
    )
    index.add(first)
    index.add(second)
    index.add(first)
    index.add(third[:2])  # two blocks of the second one go: its last two
    assert index.cached_tokens(first, 99) == 16
    assert index.cached_tokens(second, 99) == 8
