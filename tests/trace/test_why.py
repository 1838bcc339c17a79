"""Why and lives: the sentences are made of emitted numbers, for every request in every step."""

from __future__ import annotations

from typing import Any

import pytest

from minivllm.engine.messages import EngineCoreRequest
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from minivllm.terminal.history import History
from minivllm.trace.events import Reason
from minivllm.trace.lives import block_life, request_life
from minivllm.trace.why import Answer, why_block, why_budget, why_request, why_step
from minivllm.trace.words import count
from tests.terminal.test_history import history_of
from tests.vectors.make import speculation


@pytest.fixture(scope="module")
def history() -> History:
    return history_of(start(load_scenario("tiny-pressure")).run())


def why(history: History, step: int, req: str) -> Answer:
    return why_request(history, history.state_after(step), step, req)


def test_a_wait_for_blocks_tells_the_blocks_and_what_they_hold(history: History) -> None:
    answer = why(history, 9, "r4")
    assert answer.now == "Waits, first in line."
    assert answer.why == (
        "Its 11 tokens need 3 blocks; 2 are free.",
        "Both hold its own tokens 1–8: a hit saves the work, but a cached block that lies free "
        "counts as needed, too.",
    )
    assert answer.reason == "no_free_blocks"
    assert answer.meaning == "too few KV blocks are free for the whole sequence"
    assert answer.source is not None and answer.source.startswith("minivllm/core/scheduler.py:")
    assert (answer.since, answer.next) == (9, 12)


def test_a_preemption_tells_for_whom_and_among_whom(history: History) -> None:
    answer = why(history, 8, "r4")
    assert answer.why[0] == "r3 needs 1 more block; 0 are free."
    assert answer.why[1] == "Under fcfs the one admitted last gives way: r4, of r1, r3 and r4."
    assert answer.reason == "preempted"


def test_blocks_that_come_back_after_the_decision_are_not_counted_as_free(
    history: History,
) -> None:
    """In step 11 r1 finishes after r4 was refused: r4 had one block, whatever is free then."""
    answer = why(history, 11, "r4")
    assert answer.why[0] == "Its 11 tokens need 3 blocks; 1 is free."
    assert answer.why[1].startswith("It holds its own tokens 1–4")


def test_one_who_stands_behind_names_the_head(history: History) -> None:
    assert why(history, 10, "r5").now == "Waits behind r4 (fcfs)."
    assert why(history, 4, "r4").reason == "no_budget"


def test_the_running_tell_hits_and_chunks(history: History) -> None:
    assert "8 of its 11 tokens were found in blocks 1 and 2." in why(history, 2, "r2").why
    chunk = why(history, 3, "r3")
    assert "It lacked 22; 10 run: the token budget of this step is used up." in chunk.why
    assert chunk.reason == "no_budget"


def test_the_finished_tell_how_they_ended_ever_after(history: History) -> None:
    for step in (5, 9, 17):
        answer = why(history, step, "r2")
        assert answer.now.startswith("Finished")
        assert "It has all of its 4 output tokens (max_tokens)." in answer.why


def test_a_block_tells_who_holds_it_and_how_it_came(history: History) -> None:
    answer = why_block(history, history.state_after(8), 8, 6)
    assert answer.now == "In use by r3 (its block 7); not hashed."
    assert answer.why[-1] == "Step 8: taken by r3 as its block 7 (tokens 25–28)."
    cached = why_block(history, history.state_after(8), 8, 14)
    assert cached.now == "Free and cached; holds tokens 1–4 of r4; number 2 of 2 to go."
    assert cached.next == 12
    shared = why_block(history, history.state_after(2), 2, 1)
    assert shared.now.startswith("In use by r1 (its block 1) and r2 (its block 1)")
    assert why_block(history, history.state_after(0), 0, 0).now == "The null block."


def test_the_unused_budget_names_its_reason(history: History) -> None:
    answer = why_budget(history, history.state_after(12), 12)
    assert answer.now == "8 of 12 tokens are used, 4 are left."
    assert answer.reason == "no_free_blocks"
    assert "r5 waits: it needs 5, 4 are there." in answer.why
    assert why_budget(history, history.state_after(15), 15).reason == "nothing_waits"
    assert why_budget(history, history.state_after(0), 0).reason is None


KNOBS: list[dict[str, Any]] = [
    {},
    {"enable_prefix_caching": False},
    {"num_kv_blocks": 21},
    {"max_num_batched_tokens": 24, "max_num_seqs": 2},
    {"long_prefill_token_threshold": 3},
    {"max_num_batched_tokens": 64, "enable_chunked_prefill": False},
    {"policy": "priority", "watermark": 0.2},
    {"admission": "strict"},
]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_request_block_and_budget_has_an_answer_in_every_step(knobs: dict[str, Any]) -> None:
    history = history_of(start(load_scenario("tiny-pressure"), **knobs).run())
    for step in history.steps:
        state = history.state_after(step)
        for req, request in state.requests.items():
            answer = why_request(history, state, step, req)
            assert answer.now.endswith(".")
            if request.status in ("waiting", "preempted"):
                assert answer.reason is not None, (step, req, answer)
        for block in range(len(state.blocks)):
            assert why_block(history, state, step, block).now
        assert why_budget(history, state, step).now
        assert why_step(history, state, step)


def test_the_larger_than_the_pool_the_aborted_and_the_failed_say_so() -> None:
    scenario = Scenario(
        name="ends",
        engine={"num_kv_blocks": 4, "block_size": 4, "max_model_len": 64},
        request=[ScenarioRequest(arrives=1, output_tokens=30, prompt_token_ids=[1, 2, 3])],
    )
    history = history_of(start(scenario).run())
    answer = why(history, history.last, "r1")
    assert answer.reason == "larger_than_pool"
    assert answer.why[0] == "It needs 4 blocks; the pool has 3."

    run = start(load_scenario("tiny-pressure"))
    params = SamplingParams(max_tokens=5)
    run.core.add_request(
        EngineCoreRequest(request_id="a", prompt_token_ids=[1, 2], sampling_params=params)
    )
    run.core.add_request(
        EngineCoreRequest(request_id="b", prompt_token_ids=[], sampling_params=params)
    )
    run.core.step()
    run.core.abort_request("a", Reason.CLIENT)
    history = history_of(run)
    assert why(history, 2, "r1").reason == "client"
    assert "It failed: the prompt is empty." in why(history, 1, "r2").why


def test_drafts_are_counted_apart_from_the_token_said_last() -> None:
    history = history_of(speculation())
    answers = [
        (row.ran, why(history, row.step, req))
        for req in ("r1", "r2")
        for row in request_life(history.steps, req)
        if row.event == "run"
    ]
    decodes = [(ran, answer) for ran, answer in answers if answer.reason == "decode"]
    drafted = [(ran, answer) for ran, answer in decodes if ran > 1]
    assert drafted and len(drafted) < len(decodes)
    for ran, answer in decodes:
        drafts = f" and {count(ran - 1, 'draft')}" if ran > 1 else ""
        assert answer.now.endswith(f" in this step: the token it said last{drafts}.")
        assert answer.why[0].startswith("It lacks only the token it said last")
    assert any(answer.why[1] == "Of 3 drafts 3 were right." for _, answer in drafted)


def test_a_life_tells_all_tokens_of_a_step() -> None:
    history = history_of(speculation())
    for row in request_life(history.steps, "r1"):
        said = [e for e in history.steps[row.step] if e.kind == "req.token" and e.req == "r1"]
        text = "".join(event.data.text for event in said)
        assert f"says {text!r}" in row.words or not said


def test_a_life_has_every_step_from_arrival_to_end(history: History) -> None:
    life = request_life(history.steps, "r4")
    assert [row.step for row in life] == list(range(4, 17))
    assert [row.ran for row in life] == [0, 8, 1, 1, 0, 0, 0, 0, 7, 1, 1, 1, 1]
    assert [row.event for row in life][:5] == ["wait", "admit", "run", "run", "preempt"]
    assert life[4].computed == 0 and life[4].known == 11 and life[4].table == ()
    assert life[8].table == (14, 10, 5)
    assert life[-1].event == "finish"
    assert request_life(history.steps, "r9") == []


def test_a_block_has_its_whole_history(history: History) -> None:
    told = [(e.event.step, e.event.kind) for e in block_life(history.steps, 6)]
    assert told == [
        (2, "kv.alloc"),
        (3, "kv.cache"),
        (5, "kv.free"),
        (6, "kv.evict"),
        (6, "kv.alloc"),
        (8, "kv.free"),
        (8, "kv.alloc"),
        (11, "kv.cache"),  # r3 has run 28 tokens
        (13, "kv.free"),
        (14, "kv.evict"),
        (14, "kv.alloc"),
        (17, "kv.cache"),  # r5 has run 20
        (17, "kv.free"),
    ]
