"""The scheduler's rules, each alone: who runs in a step, how many tokens, and who gives way."""

from __future__ import annotations

import pytest

from minivllm.core.scheduler_output import ModelRunnerOutput
from minivllm.request import RequestStatus
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import GrantWhy, Reason
from tests.core.builders import Scheduling, tokens

PROMPT = tokens(40)


def reason_and_numbers(event: object) -> tuple[Reason, int, int]:
    data = event.data  # type: ignore[attr-defined]
    return data.reason, data.need, data.have


# --- running first, and how many tokens --------------------------------------------------------


def test_a_step_runs_decodes_and_a_prompt_together() -> None:
    s = Scheduling()
    s.add(1, 10)
    assert s.step() == {"r1": 10}
    s.add(2, 5)
    assert s.step() == {"r1": 1, "r2": 5}
    assert s.step() == {"r1": 1, "r2": 1}


def test_those_who_run_are_served_before_anybody_new() -> None:
    s = Scheduling(max_num_batched_tokens=6)
    for i in (1, 2):
        s.add(i, 3)
    s.step()
    s.add(3, 20)
    assert s.step() == {"r1": 1, "r2": 1, "r3": 4}
    s.add(4, 1)
    assert s.step() == {"r1": 1, "r2": 1, "r3": 4}, "r3's chunk goes before r4"


def test_prompt_larger_than_the_budget_runs_in_chunks() -> None:
    s = Scheduling(max_num_batched_tokens=8)
    one = s.add(1, 20)
    assert [s.step()["r1"] for _ in range(4)] == [8, 8, 4, 1]
    assert one.num_output_tokens == 2, "only a chunk that completes the prompt is sampled from"
    whys = [s.told("sched.grant", step)[0].data.why for step in (1, 2, 3, 4)]
    assert whys == [GrantWhy.CHUNK, GrantWhy.CHUNK, GrantWhy.LAST_CHUNK, GrantWhy.DECODE]
    assert [len(s.told("sched.chunk", step)) for step in (1, 2, 3)] == [1, 1, 0]


def test_threshold_limits_one_prompt_and_leaves_budget_to_others() -> None:
    s = Scheduling(long_prefill_token_threshold=8, max_num_batched_tokens=20)
    s.add(1, 24)
    s.add(2, 6)
    assert s.step() == {"r1": 8, "r2": 6}
    limits = {row.req: row.limited_by for row in s.told("sched.ledger")[0].data.rows}
    assert limits == {"r1": Reason.LONG_PREFILL_THRESHOLD, "r2": None}
    assert s.step() == {"r1": 8, "r2": 1}


def test_threshold_does_not_hold_back_a_prompt_that_is_alone() -> None:
    """Nobody else wants the budget; with chunking off a cut prompt could never run whole."""
    s = Scheduling(long_prefill_token_threshold=8)
    s.add(1, 24)
    assert s.step() == {"r1": 24}
    s = Scheduling(long_prefill_token_threshold=8, enable_chunked_prefill=False)
    s.add(1, 24)
    s.add(2, 6)
    assert s.step() == {"r1": 24, "r2": 6}


def test_chunking_off_runs_prompts_whole_or_not_at_all() -> None:
    s = Scheduling(enable_chunked_prefill=False, max_num_batched_tokens=50)
    for i, n in enumerate((40, 20, 5), start=1):
        s.add(i, n)
    assert s.step() == {"r1": 40}, "r3 would fit, but r2 stands before it"
    assert reason_and_numbers(s.told("sched.skip")[0]) == (Reason.CHUNKING_OFF, 20, 10)


def test_at_most_max_num_seqs_run() -> None:
    s = Scheduling(max_num_seqs=2)
    for i in (1, 2, 3):
        s.add(i, 4)
    assert s.step() == {"r1": 4, "r2": 4} and s.waiting == ["r3"]
    assert reason_and_numbers(s.told("sched.skip")[0]) == (Reason.MAX_NUM_SEQS, 1, 0)


def test_budget_that_is_used_up_is_told() -> None:
    s = Scheduling(max_num_batched_tokens=4)
    s.add(1, 4)
    s.add(2, 9)
    s.step()
    assert reason_and_numbers(s.told("sched.skip")[0]) == (Reason.NO_BUDGET, 9, 0)
    ledger = s.told("sched.ledger")[0].data
    assert (ledger.budget, ledger.used, ledger.unused_reason) == (4, 4, None)


def test_running_request_without_budget_is_in_the_ledger() -> None:
    s = Scheduling(max_num_batched_tokens=2)
    for i in (1, 2):
        s.add(i, 1)
    s.step()
    s.add(3, 1)
    s.configure(max_num_batched_tokens=1)
    s.step()
    rows = s.told("sched.ledger")[0].data.rows
    assert [(row.req, row.granted, row.limited_by) for row in rows] == [
        ("r1", 1, None),
        ("r2", 0, Reason.NO_BUDGET),
        ("r3", 0, Reason.NO_BUDGET),
    ]


def test_ledger_says_that_nothing_waits() -> None:
    s = Scheduling()
    s.add(1, 4)
    s.step()
    assert s.told("sched.ledger")[0].data.unused_reason == Reason.NOTHING_WAITS


# --- the head of the line ----------------------------------------------------------------------


def test_head_that_does_not_fit_holds_up_those_behind_it() -> None:
    s = Scheduling(num_kv_blocks=5)
    s.add(1, 8)
    s.add(2, 12)
    s.add(3, 1)
    assert s.step() == {"r1": 8}
    (skip,), (stop,) = s.told("sched.skip"), s.told("sched.stop")
    assert (skip.req, *reason_and_numbers(skip)) == ("r2", Reason.NO_FREE_BLOCKS, 3, 2)
    assert (stop.data.head, stop.data.behind) == ("r2", ["r3"])


def test_watermark_is_told_as_kept_back() -> None:
    s = Scheduling(num_kv_blocks=11, watermark=0.3)
    s.add(1, 4)
    s.step()
    s.add(2, 28)
    assert s.step() == {"r1": 1}
    (skip,) = s.told("sched.skip")
    assert (skip.data.need, skip.data.have, skip.data.kept) == (7, 5, 3)


def test_priority_admits_by_number_not_by_arrival() -> None:
    s = Scheduling(policy="priority", max_num_seqs=1)
    s.add(1, 4, priority=3)
    s.add(2, 4, priority=1)
    assert s.step() == {"r2": 4} and s.waiting == ["r1"]


# --- preemption --------------------------------------------------------------------------------


def full_pool(policy: str, *priorities: int) -> Scheduling:
    """Requests of 4 tokens in one block each; in the next step each needs a second block, of
    which there is none."""
    s = Scheduling(policy=policy, num_kv_blocks=1 + len(priorities))
    for i, priority in enumerate(priorities, start=1):
        s.add(i, 4, priority=priority)
    s.step()
    assert s.kv.pool.num_free_blocks == 0
    return s


def test_fcfs_preempts_whom_it_admitted_last() -> None:
    s = full_pool("fcfs", 0, 0, 0)
    assert s.schedule() == {"r1": 1}
    victims = [(e.req, e.data.for_req, e.data.candidates) for e in s.told("sched.victim")]
    assert victims == [("r3", "r1", ["r1", "r2", "r3"]), ("r2", "r2", ["r1", "r2"])]
    assert s.running == ["r1"] and s.waiting == ["r2", "r3"]


def test_priority_preempts_the_largest_number() -> None:
    s = full_pool("priority", 1, 3, 2)
    assert s.running == ["r1", "r3", "r2"]
    assert s.schedule() == {"r1": 1}
    assert [(e.req, e.data.for_req) for e in s.told("sched.victim")] == [("r2", "r1"), ("r3", "r3")]
    assert s.waiting == ["r3", "r2"]


def test_victim_loses_its_computed_tokens_and_keeps_its_output() -> None:
    s = full_pool("fcfs", 0, 0)
    victim = s.scheduler.requests["r2"]
    before = list(victim.token_ids)
    s.schedule()
    assert victim.status is RequestStatus.PREEMPTED and victim.token_ids == before
    assert (victim.num_computed_tokens, victim.num_preemptions) == (0, 1)
    assert s.told("req.preempt")[0].data.tokens_lost == 4
    assert s.kv.block_ids(victim) == []


def test_nobody_is_admitted_in_a_step_that_preempted() -> None:
    s = full_pool("fcfs", 0, 0, 0)
    s.add(4, 1)
    assert s.schedule() == {"r1": 1}
    assert s.kv.pool.num_free_blocks == 1, "r4 would have found room"
    (stop,) = s.told("sched.stop")
    assert (stop.data.reason, stop.data.head) == (Reason.PREEMPTED_THIS_STEP, "r2")
    assert stop.data.behind == ["r3", "r4"]


def test_preempted_request_hits_its_own_blocks_and_resumes() -> None:
    s = Scheduling(num_kv_blocks=8)
    s.add(1, 11)
    two = s.add(2, 15)
    for _ in range(2):
        s.step()  # r1: 12 computed, 3 blocks; r2: 16 computed, 4 blocks
    assert s.schedule() == {"r1": 1} and s.waiting == ["r2"]
    s.update()
    s.scheduler.finish(s.scheduler.requests["r1"], "abort", why=Reason.CLIENT)
    assert s.schedule() == {"r2": 5}, "12 of its 17 tokens are still there; one block was taken"
    assert [e.data.why for e in s.told("sched.grant")] == [GrantWhy.RESUME]
    assert s.batch is not None
    cached = s.batch.scheduled_cached_reqs
    assert cached.req_ids == ["r2"] and cached.resumed_req_ids == {"r2"}
    assert cached.new_block_ids == [s.kv.block_ids(two)], "the whole new table"
    assert cached.num_computed_tokens == [12]


def test_victim_scheduled_in_this_step_refunds_the_budget_and_its_hashes() -> None:
    """The urgent request comes last in the batch and needs what the one before it just took."""
    s = Scheduling(policy="priority", num_kv_blocks=6, max_num_batched_tokens=7)
    low = s.add(1, PROMPT[:12], priority=5)
    assert s.step() == {"r1": 7}  # 2 blocks
    s.add(2, 4, priority=0)
    s.configure(max_num_batched_tokens=20)
    s.schedule()
    s.update()
    # r1: 12 computed, 3 blocks; r2: 4 computed, 1 block; 1 of 5 blocks is free.
    assert s.kv.pool.num_free_blocks == 1
    low.token_ids += tokens(3, 50)  # as if three more were to run: they fill block 3
    assert s.schedule() == {"r2": 1}
    (refund,) = s.told("sched.refund")
    assert (refund.req, refund.data.n) == ("r1", 4)
    (uncache,) = s.told("kv.uncache")
    assert uncache.data.reason == Reason.NOT_EXECUTED
    assert len(s.kv.pool.cached) == 4, "three blocks of r1 and the first of r2"
    ledger = s.told("sched.ledger")[0].data
    assert ledger.used == 1 and [r.granted for r in ledger.rows] == [0, 1]


def test_request_that_must_give_way_itself_ends_the_round() -> None:
    s = full_pool("priority", 5, 0)
    s.scheduler.running.reverse()
    assert s.running == ["r1", "r2"]
    assert s.schedule() == {}, "r1 gives way; r2 gets its block in the next step"
    (victim,) = s.told("sched.victim")
    assert (victim.req, victim.data.for_req) == ("r1", "r1")
    rows = s.told("sched.ledger")[0].data.rows
    assert [(row.req, row.limited_by) for row in rows] == [
        ("r1", Reason.PREEMPTED),
        ("r2", Reason.PREEMPTED_THIS_STEP),
    ]
    s.update()
    assert s.step() == {"r2": 1}


def test_those_behind_a_victim_move_up_and_are_served() -> None:
    """r1, before the one that needs its block, leaves the list: nobody may be skipped for it."""
    s = Scheduling(policy="priority", num_kv_blocks=4)
    for ordinal, prompt, priority in ((1, 1, 9), (2, 3, 0), (3, 2, 1)):
        s.add(ordinal, prompt, priority=priority)
        s.step()
    assert s.running == ["r1", "r2", "r3"] and s.kv.pool.num_free_blocks == 0
    assert s.schedule() == {"r2": 1, "r3": 1} and s.waiting == ["r1"]


def test_ledger_has_a_row_for_whoever_was_not_reached() -> None:
    """Two give way for r2, one before it and then itself: r3 moves up unseen."""
    s = Scheduling(policy="priority", num_kv_blocks=8, long_prefill_token_threshold=8)
    for ordinal, prompt, priority in ((1, 1, 2), (2, 24, 1), (3, 8, 0)):
        s.add(ordinal, prompt, priority=priority)
        s.step()
    assert s.running == ["r1", "r2", "r3"] and s.schedule() == {}
    rows = {row.req: row.limited_by for row in s.told("sched.ledger")[0].data.rows}
    assert rows == {
        "r1": Reason.PREEMPTED,
        "r2": Reason.PREEMPTED,
        "r3": Reason.PREEMPTED_THIS_STEP,
    }


def test_preemption_goes_on_until_there_is_room() -> None:
    s = Scheduling(num_kv_blocks=7, long_prefill_token_threshold=8)
    s.add(1, 20)
    for i in (2, 3, 4, 5):
        s.add(i, 4)
    s.step()
    assert s.kv.pool.num_free_blocks == 0
    assert s.schedule() == {"r1": 8, "r2": 1}
    victims = [(e.req, e.data.for_req, e.data.need, e.data.have) for e in s.told("sched.victim")]
    assert victims == [("r5", "r1", 2, 0), ("r4", "r1", 2, 1), ("r3", "r2", 1, 0)]
    assert s.waiting == ["r3", "r4", "r5"]


# --- a request that outgrows the pool ----------------------------------------------------------


def test_outgrown_pool_ends_the_request_by_length_before_any_victim() -> None:
    s = Scheduling(num_kv_blocks=4)
    one = s.add(1, 12)
    s.step()
    assert s.kv.pool.num_free_blocks == 0
    s.add(2, 1)
    assert s.schedule() == {"r2": 1}, "its blocks are free for the next one in the same step"
    assert one.status is RequestStatus.FINISHED
    assert reason_and_numbers(s.told("sched.skip")[0]) == (Reason.LARGER_THAN_POOL, 4, 3)
    (finish,) = s.told("req.finish")
    assert (finish.data.reason, finish.data.why) == ("length", Reason.LARGER_THAN_POOL)
    assert s.told("sched.victim") == []
    outputs = s.update()
    assert [(o.request_id, o.finish_reason) for o in outputs if o.finish_reason] == [
        ("caller-1", "length")
    ]


def test_preempted_request_that_outgrew_the_pool_ends_too() -> None:
    """r2 shares two blocks with r1, fills the pool and samples a token more, then gives way."""
    s = Scheduling(num_kv_blocks=5)
    s.add(1, PROMPT[:8])
    s.add(2, PROMPT[:16])
    assert s.step() == {"r1": 8, "r2": 8}
    assert s.step() == {"r1": 1} and s.waiting == ["r2"]
    assert s.step() == {"r1": 1} and s.waiting == []
    (finish,) = s.told("req.finish")
    assert (finish.req, finish.data.why) == ("r2", Reason.LARGER_THAN_POOL)


# --- what the worker is told -------------------------------------------------------------------


def test_new_request_is_sent_whole_once_and_then_as_changes() -> None:
    s = Scheduling(max_num_batched_tokens=6)
    s.add(1, 10)
    s.schedule()
    assert s.batch is not None
    (new,) = s.batch.scheduled_new_reqs
    assert (new.req_id, len(new.prompt_token_ids), new.block_ids) == ("r1", 10, [1, 2])
    assert s.batch.scheduled_cached_reqs.req_ids == []
    s.update()
    s.schedule()
    cached = s.batch.scheduled_cached_reqs
    assert s.batch.scheduled_new_reqs == [] and cached.req_ids == ["r1"]
    assert (cached.new_block_ids, cached.num_computed_tokens) == ([[3]], [6])


def test_prefix_hit_is_sent_as_already_computed() -> None:
    s = Scheduling()
    s.add(1, PROMPT[:16])
    s.add(2, PROMPT[:18])
    s.schedule()
    assert s.batch is not None
    new = s.batch.scheduled_new_reqs[1]
    assert (new.num_computed_tokens, new.block_ids) == (16, [1, 2, 3, 4, 5])


def test_worker_hears_of_an_end_in_the_next_batch_that_runs() -> None:
    """A batch of no tokens does not reach it."""
    s = Scheduling(num_kv_blocks=4)
    s.add(1, 12)
    s.step()
    assert s.step() == {}, "r1 outgrew the pool; nobody else is there"
    assert s.batch is not None and s.batch.finished_req_ids == []
    s.add(2, 1)
    s.step()
    assert s.batch.finished_req_ids == ["r1"]
    s.step()
    assert s.batch.finished_req_ids == []


def test_worker_does_not_hear_of_a_request_that_it_never_saw() -> None:
    s = Scheduling()
    s.scheduler.finish(s.add(1, 4), "abort", why=Reason.CLIENT)
    s.add(2, 4)
    s.step()
    assert s.batch is not None and s.batch.finished_req_ids == []


# --- ends --------------------------------------------------------------------------------------

EOS, STOP = 90, 91


@pytest.mark.parametrize(
    ("params", "max_tokens", "sampled", "expected"),
    [
        ({}, 9, [1, EOS], ("stop", None)),
        ({"ignore_eos": True}, 3, [1, EOS, 2], ("length", None)),
        ({"stop_token_ids": [STOP]}, 9, [STOP], ("stop", STOP)),
        ({"stop_token_ids": [EOS]}, 9, [EOS], ("stop", None)),  # EOS comes first
        ({"stop_token_ids": [EOS], "ignore_eos": True}, 9, [EOS], ("stop", EOS)),
        ({}, 2, [1, EOS], ("stop", None)),  # EOS at the last token that is allowed
        ({"stop_token_ids": [STOP]}, 2, [1, STOP], ("stop", STOP)),
        ({}, 2, [1, 2], ("length", None)),
        ({"min_tokens": 2}, 9, [EOS, EOS], ("stop", None)),  # the first is held back
        ({"min_tokens": 3, "stop_token_ids": [STOP]}, 9, [STOP, 1, STOP], ("stop", STOP)),
        ({"min_tokens": 2, "max_tokens": 2}, 2, [EOS, 3], ("length", None)),
    ],
)
def test_output_ends_by_eos_then_stop_ids_then_length(
    params: dict[str, object],
    max_tokens: int,
    sampled: list[int],
    expected: tuple[str, int | None],
) -> None:
    s = Scheduling()
    one = s.add(
        1,
        4,
        max_tokens=max_tokens,
        eos_token_id=EOS,
        sampling_params=SamplingParams(**params),  # type: ignore[arg-type]
    )
    outputs = []
    for token_id in sampled:
        assert one.status is not RequestStatus.FINISHED, "it ended too early"
        s.schedule()
        outputs += s.update(token_id)
    last = outputs[-1]
    assert (last.finish_reason, last.stop_reason) == expected
    assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(sampled) - 1)
    assert one.token_ids[4:] == sampled and s.kv.tables == {}


def test_output_ends_where_the_context_does() -> None:
    s = Scheduling(max_model_len=6)
    s.add(1, 4, max_tokens=99)
    s.step()
    s.schedule()
    (output,) = s.update()
    assert output.finish_reason == "length"


def test_tokens_after_the_end_are_dropped() -> None:
    """A runner may bring several tokens for a request; the checks follow each one."""
    s = Scheduling()
    one = s.add(1, 4, eos_token_id=EOS)
    s.schedule()
    assert s.batch is not None
    (output,) = s.scheduler.update_from_output(s.batch, ModelRunnerOutput({"r1": [1, EOS, 3]}))
    assert output.new_token_ids == [1, EOS] and one.token_ids[4:] == [1, EOS]


def test_first_token_is_told_with_the_steps_it_took() -> None:
    s = Scheduling(max_num_batched_tokens=4)
    s.add(1, 10)
    for _ in range(3):
        s.step()
    (first,) = s.told("req.first_token")
    assert first.data.steps_since_arrival == 3
    s.step()
    assert s.told("req.first_token") == []


def test_request_that_fails_alone_ends_alone_and_its_blocks_cannot_be_hit() -> None:
    s = Scheduling()
    s.add(1, PROMPT[:12])
    s.add(2, 4)
    s.schedule()
    assert s.batch is not None
    result = ModelRunnerOutput({"r2": [7]}, errors={"r1": "its logits are not numbers"})
    outputs = {o.request_id: o for o in s.scheduler.update_from_output(s.batch, result)}
    assert outputs["caller-1"].finish_reason == "error"
    assert outputs["caller-1"].stop_reason == "its logits are not numbers"
    assert outputs["caller-2"].finish_reason is None and s.running == ["r2"]
    s.add(3, PROMPT[:12])
    assert s.schedule() == {"r2": 1, "r3": 12}, "nothing of r1 is reused"


def test_failure_keeps_what_was_computed_before_it() -> None:
    s = Scheduling(max_num_batched_tokens=8)
    s.add(1, PROMPT[:20])
    s.step()
    s.schedule()
    assert s.batch is not None
    s.scheduler.fail_step(s.batch, "no memory")
    s.add(2, PROMPT[:20])
    s.schedule()
    assert [e.data.hit for e in s.told("req.admit")] == [8]
