"""Contiguous KV cache: one run of neighbours a request, reserved at once; the waste is real."""

from __future__ import annotations

import pytest

from minivllm.config import CacheConfig, make_config
from minivllm.core.contiguous import ContiguousKVManager
from minivllm.core.interfaces import Shortage
from minivllm.errors import ConfigError
from minivllm.request import Request
from minivllm.trace.events import Reason
from minivllm.trace.tracer import OFF
from tests.core.builders import Engine, request

CONTIGUOUS = {"kv_manager_cls": "contiguous", "enable_prefix_caching": False}


def manager(usable_blocks: int = 16, reserve: str = "request") -> ContiguousKVManager:
    config = CacheConfig(block_size=4, contiguous_reserve=reserve, **CONTIGUOUS)
    return ContiguousKVManager(usable_blocks + 1, config, max_model_len=32, trace=OFF)


def take(kv: ContiguousKVManager, one: Request) -> list[int]:
    added = kv.allocate_slots(one, one.num_tokens)
    assert isinstance(added, list), added
    return added


def test_prompt_and_output_are_set_aside_at_once() -> None:
    kv, one = manager(), request(1, 5, max_tokens=6)
    assert take(kv, one) == [1, 2, 3], "11 tokens, 4 a block"
    one.num_computed_tokens = 5
    assert kv.allocate_slots(one, 6) == [], "it has all that it can ever need"
    assert kv.block_ids(one) == [1, 2, 3]


def test_without_knowledge_of_the_output_the_whole_context_is_set_aside() -> None:
    assert len(take(manager(reserve="max_model_len"), request(1, 5, max_tokens=6))) == 8


def test_a_request_reserves_no_more_than_the_context() -> None:
    assert len(take(manager(), request(1, 30, max_tokens=16))) == 8


def test_the_first_gap_that_is_long_enough_is_used() -> None:
    kv = manager()
    requests = [request(i, 4 * n, max_tokens=4) for i, n in enumerate((1, 2, 1, 1), start=1)]
    assert [take(kv, one) for one in requests] == [[1, 2], [3, 4, 5], [6, 7], [8, 9]]
    kv.free(requests[0])
    kv.free(requests[1])
    assert take(kv, request(5, 12, max_tokens=4)) == [1, 2, 3, 4], "neighbours of both gaps join"
    assert take(kv, request(6, 4, max_tokens=4)) == [10, 11]


def test_enough_blocks_that_are_no_neighbours_are_no_room() -> None:
    kv = manager(usable_blocks=6)
    first, second, third = (request(i, 4, max_tokens=4) for i in (1, 2, 3))
    for one in (first, second, third):
        take(kv, one)
    kv.free(first)
    kv.free(third)
    assert kv.pool.num_free_blocks == 4
    wide = request(4, 8, max_tokens=4)
    assert kv.allocate_slots(wide, 8) == Shortage(need=3, have=2, reason=Reason.FRAGMENTED)
    assert kv.shortage(request(5, 16, max_tokens=4), 16) == Shortage(5, 4)


def test_a_fragmented_pool_is_the_reason_that_is_told() -> None:
    engine = Engine(**CONTIGUOUS, contiguous_reserve="request", num_kv_blocks=7)
    for name, prompt, output in (("q1", 3, 1), ("q2", 4, 8), ("q3", 3, 1), ("q5", 1, 3)):
        engine.add(name, prompt, max_tokens=output)  # blocks 1 · 2 3 4 · 5 · 6
    engine.add("q4", 4, max_tokens=4)  # needs two; soon 1 and 5 are free, which are no neighbours
    engine.run()
    skips = [(e.data.reason, e.data.need, e.data.have) for e in engine.events("sched.skip")]
    assert skips[:2] == [(Reason.NO_FREE_BLOCKS, 2, 0), (Reason.FRAGMENTED, 2, 1)]
    assert engine.ended("q4") == "length"
    engine.assert_nothing_leaked()


def test_nobody_is_ever_preempted() -> None:
    engine = Engine(**CONTIGUOUS, contiguous_reserve="request", num_kv_blocks=9)
    for number in range(6):
        engine.add(f"q{number}", 5, max_tokens=9)
    engine.run()
    assert not engine.events("req.preempt") and not engine.events("sched.victim")
    assert len(engine.events("sched.skip")) > 0
    engine.assert_nothing_leaked()


def test_what_no_gap_can_ever_hold_is_refused_on_arrival() -> None:
    engine = Engine(**CONTIGUOUS, contiguous_reserve="request", num_kv_blocks=4)
    engine.add("q1", 5, max_tokens=8)
    output = engine.take()[0]
    assert output.finish_reason == "error" and "needs 4 KV blocks" in str(output.stop_reason)


def test_with_prefix_caching_it_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="enable_prefix_caching off"):
        make_config(kv_manager_cls="contiguous")
