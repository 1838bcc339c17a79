"""Admission: each answer with its numbers; nothing is taken."""

from __future__ import annotations

from typing import Any

import pytest

from minivllm.config import SchedulerConfig
from minivllm.core.admission import Admission, Admitted, Refused, limit_tokens
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.step import Grant, Step
from minivllm.request import Request
from minivllm.trace.events import GrantWhy, Reason
from tests.core.builders import compute, kv_manager, request, tokens

PROMPT = tokens(40)


def examine(
    kv: KVCacheManager,
    one: Request,
    budget: int = 64,
    running: list[Request] | None = None,
    others_scheduled: bool = False,
    **knobs: Any,
) -> Admitted | Refused:
    step = Step(total_budget=64, budget=budget)
    if others_scheduled:
        step.grants["other"] = Grant(request(99, 1), 0, 1, GrantWhy.DECODE, [], [])
    return Admission(SchedulerConfig(**knobs), kv).examine(one, running or [], step)


def test_admits_a_whole_prompt() -> None:
    kv = kv_manager()
    answer = examine(kv, request(1, 10))
    assert isinstance(answer, Admitted)
    assert (answer.num_new_tokens, answer.hit.num_tokens, answer.limited_by) == (10, 0, None)
    assert kv.pool.num_free_blocks == 16, "the answer takes nothing"


def test_hit_is_looked_up_before_the_tokens_are_counted() -> None:
    kv = kv_manager()
    compute(kv, request(1, PROMPT[:16]))
    answer = examine(kv, request(2, PROMPT[:18]))
    assert isinstance(answer, Admitted)
    assert (answer.num_new_tokens, answer.hit.num_tokens) == (2, 16)


def test_resumed_request_runs_its_output_again() -> None:
    one = request(1, 10)
    one.token_ids += [7, 7, 7]  # three output tokens from before
    answer = examine(kv_manager(), one)
    assert isinstance(answer, Admitted) and answer.num_new_tokens == 13


def test_as_many_run_as_may() -> None:
    running = [request(2, 1), request(3, 1)]
    answer = examine(kv_manager(), request(1, 10), running=running, max_num_seqs=2)
    assert answer == Refused(Reason.MAX_NUM_SEQS, need=1, have=0)


def test_no_budget_left() -> None:
    assert examine(kv_manager(), request(1, 10), budget=0) == Refused(
        Reason.NO_BUDGET, need=10, have=0
    )


def test_chunking_off_waits_for_budget_for_all_that_is_lacking() -> None:
    kv = kv_manager()
    compute(kv, request(1, PROMPT[:8]))
    late = {"enable_chunked_prefill": False}
    answer = examine(kv, request(2, PROMPT[:20]), budget=11, **late)
    assert answer == Refused(Reason.CHUNKING_OFF, need=12, have=11, num_hit_tokens=8)
    assert isinstance(examine(kv, request(3, PROMPT[:20]), budget=12, **late), Admitted)


def test_whole_sequence_must_fit_though_a_chunk_of_it_would() -> None:
    kv = kv_manager(usable_blocks=4)
    compute(kv, request(1, 5))
    answer = examine(kv, request(2, 12), budget=4)
    assert answer == Refused(Reason.NO_FREE_BLOCKS, need=3, have=2)


def test_need_counts_hits_that_lie_free() -> None:
    kv = kv_manager(usable_blocks=4)
    one = request(1, PROMPT[:8])
    compute(kv, one)
    compute(kv, request(2, 3))
    kv.free(one)  # 3 free, 2 of them a hit
    answer = examine(kv, request(3, PROMPT[:16]))
    assert answer == Refused(Reason.NO_FREE_BLOCKS, need=4, have=3, num_hit_tokens=8)


def test_watermark_is_kept_free_only_beside_others() -> None:
    kv = kv_manager(usable_blocks=9)  # 10 blocks with the null block
    knobs: dict[str, Any] = {"watermark": 0.35}
    assert isinstance(examine(kv, request(1, 36), **knobs), Admitted)
    answer = examine(kv, request(2, 36), others_scheduled=True, **knobs)
    assert answer == Refused(Reason.NO_FREE_BLOCKS, need=9, have=6, num_kept=3)
    assert isinstance(examine(kv, request(3, 24), others_scheduled=True, **knobs), Admitted)


def test_kept_blocks_are_at_most_those_that_are_free() -> None:
    kv = kv_manager(usable_blocks=9)
    compute(kv, request(1, 32))
    answer = examine(kv, request(2, 1), others_scheduled=True, watermark=0.5)
    assert answer == Refused(Reason.NO_FREE_BLOCKS, need=1, have=0, num_kept=1)


def test_strict_admission_leaves_what_running_prefills_lack() -> None:
    kv = kv_manager(usable_blocks=8)
    running = request(1, 20)
    compute(kv, running, 4)  # lacks 4 of its 5 blocks; 7 are free
    newcomer = request(2, 16)
    assert isinstance(examine(kv, newcomer, running=[running]), Admitted)
    answer = examine(kv, newcomer, running=[running], admission="strict")
    assert answer == Refused(Reason.NO_FREE_BLOCKS, need=4, have=3, num_kept=4)
    small = request(3, 12)
    assert isinstance(examine(kv, small, running=[running], admission="strict"), Admitted)


@pytest.mark.parametrize(
    ("lacking", "budget", "threshold", "expected"),
    [
        (10, 64, 0, (10, None)),
        (10, 6, 0, (6, Reason.NO_BUDGET)),
        (10, 64, 4, (4, Reason.LONG_PREFILL_THRESHOLD)),
        (10, 3, 4, (3, Reason.NO_BUDGET)),
        (4, 64, 4, (4, None)),
        (1, 64, 4, (1, None)),
    ],
)
def test_limits_on_one_requests_tokens(
    lacking: int, budget: int, threshold: int, expected: tuple[int, Reason | None]
) -> None:
    assert limit_tokens(lacking, threshold, budget) == expected
