"""``bench serve``: one request against a server that says what it is told to."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import pytest

from minivllm.bench.serve import Load, Outcome, first_model, run
from minivllm.bench.serve_client import Endpoint, EventStream
from minivllm.bench.serve_data import Ask
from minivllm.bench.serve_metrics import INTERRUPTED, Failure, report
from minivllm.errors import EndpointError
from tests.bench.sse_server import (
    Behaviour,
    Scripted,
    answers,
    hangs_up,
    says_nothing,
    streams,
    text,
    usage,
)

ASK = Ask("one two three", 3, 5)
GOOD = (text("a"), text("b"), usage(7, 2, 4), "[DONE]")


def load(server: Scripted | Behaviour, *, n: int = 1, **more: Any) -> Outcome:
    """``n`` requests to such a server, one after another unless ``load`` says else."""
    scripted = server if isinstance(server, Scripted) else Scripted(server)
    plan = {"max_concurrency": 1} | more.pop("plan", {})

    async def go() -> Outcome:
        async with scripted.running():
            target = Endpoint(f"{scripted.url}/v1/completions", "m", **more)
            return await run(target, Load([ASK] * n, **plan), asyncio.Event())

    return asyncio.run(go())


def failure(behaviour: Behaviour, **more: Any) -> Failure:
    (record,) = load(behaviour, **more).records
    assert record.failure is not None and not record.done and record.end is not None
    return record.failure


# --- what comes in -------------------------------------------------------------------------------


def test_events_are_found_however_the_bytes_are_cut():
    whole = b': keep-alive\n\ndata: {"a"\r\ndata:: 1}\r\n\r\nevent: x\nid: 3\ndata: \xc3\xa9\n\n'
    expected = ['{"a"\n: 1}', "é"]
    for size in range(1, len(whole) + 1):
        stream, found = EventStream(), []
        for at in range(0, len(whole), size):
            found += stream.feed(whole[at : at + size])
        assert found == expected


def test_a_completed_request_has_the_servers_counts_and_a_time_for_each_chunk_with_text():
    (record,) = load(streams(*GOOD)).records
    assert record.done and record.failure is None and record.counted_by == "usage"
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (7, 4, 2)
    assert len(record.chunks) == 2
    times = [record.planned, record.sent, *record.chunks, record.end]
    assert times == sorted(times)


def test_without_usage_chunks_are_counted_and_that_is_told():
    outcome = load(streams(text("a"), text("b"), text("c"), "[DONE]"))
    (record,) = outcome.records
    assert (record.prompt_tokens, record.output_tokens) == (ASK.prompt_tokens, 3)
    assert report(outcome.records, outcome.duration).counted_by == {"chunks": 1}


def test_the_chunk_that_opens_a_chat_is_not_its_first_token():
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    word = {"choices": [{"delta": {"content": "a"}}]}
    thought = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    server = Scripted(streams(role, thought, word, last, usage(1, 2), "[DONE]", pause_s=0.02))
    (record,) = load(server, chat=True).records
    assert len(record.chunks) == 2
    assert record.ttft >= 0.02
    assert server.bodies[0]["messages"] == [{"role": "user", "content": ASK.prompt}]


def test_a_request_of_nothing_but_special_tokens_has_its_end_for_a_first_token():
    (record,) = load(streams(text(""), text(""), usage(1, 2), "[DONE]")).records
    assert record.done and len(record.chunks) == 1 and record.output_tokens == 2


def test_what_is_sent_is_a_stream_with_usage_and_the_fields_that_were_given():
    server = Scripted(streams(*GOOD))
    load(server, headers={"Authorization": "Bearer k"}, fields={"temperature": 0, "ignore_eos": 1})
    (body,), (head,) = server.bodies, server.heads
    assert body == {
        "model": "m",
        "prompt": ASK.prompt,
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "ignore_eos": 1,
    }
    assert "authorization: bearer k" in head.lower()


# --- how it fails --------------------------------------------------------------------------------


def test_nobody_listens():
    with socket.socket() as held:  # bound, and not listening
        held.bind(("127.0.0.1", 0))
        target = Endpoint(f"http://127.0.0.1:{held.getsockname()[1]}/v1/completions", "m")
        outcome = asyncio.run(run(target, Load([ASK] * 2), asyncio.Event()))
    assert [r.failure.kind for r in outcome.records if r.failure] == ["refused"] * 2


def test_a_server_that_is_full_is_told_with_its_retry_after():
    full = answers(503, {"error": {"message": "the queue is full", "code": "x"}}, Retry_After="2")
    assert failure(full) == Failure("http_503", "the queue is full", 2.0)


def test_a_wrong_key_is_told():
    assert failure(answers(401, {"error": "Unauthorized"})) == Failure("http_401", "Unauthorized")


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (hangs_up, "disconnected"),
        (answers(200, {"choices": []}), "not_a_stream"),
        (streams(text("a"), end=False), "broken"),
        (streams(text("a"), b'data: {"choices"', end=False), "broken"),
        (streams(text("a")), "no_done"),
        (streams(text("a"), "oops", "[DONE]"), "bad_frame"),
        (streams(text("a"), {"error": {"message": "engine dead"}}, "[DONE]"), "error_frame"),
        (streams(usage(1, 0), "[DONE]"), "empty"),
    ],
)
def test_each_way_to_fail_has_a_kind(behaviour: Behaviour, kind: str):
    assert failure(behaviour).kind == kind


def test_a_server_that_says_nothing_times_out():
    assert failure(says_nothing, timeout_s=0.1) == Failure("timeout", "not done after 0.1 s")


def test_a_connection_lost_after_done_is_no_failure():
    (record,) = load(streams(*GOOD, end=False)).records
    assert record.done


def test_a_failure_does_not_stop_the_others():
    bad = answers(500, {"error": {"message": "boom"}})
    outcome = load(Scripted(bad, streams(text("a")), streams(*GOOD)), n=4)
    kinds = [r.failure.kind if r.failure else "done" for r in outcome.records]
    assert kinds == ["http_500", "no_done", "done", "done"]


# --- the plan ------------------------------------------------------------------------------------


def test_waiting_for_a_free_slot_counts_where_a_rate_was_planned():
    # Coordinated omission: three are due at once, one may be under way; each takes 2 × 50 ms.
    slow = streams(*GOOD[:2], *GOOD[2:], pause_s=0.025)
    outcome = load(slow, n=3, plan={"arrivals": [0.0, 0.0, 0.0]})
    assert [r.planned for r in outcome.records] == [0.0] * 3
    first, second, third = sorted(r.ttft for r in outcome.records)
    assert second >= first + 0.05 and third >= second + 0.05


def test_without_a_rate_a_requests_time_begins_with_its_turn():
    outcome = load(streams(*GOOD, pause_s=0.02), n=3)
    for before, after in itertools.pairwise(outcome.records):
        assert before.end <= after.planned <= after.sent


def test_no_request_is_sent_before_its_time():
    plan = [0.0, 0.05, 0.1]
    outcome = load(streams(*GOOD), n=3, plan={"arrivals": plan, "max_concurrency": None})
    assert all(r.sent >= due for r, due in zip(outcome.records, plan, strict=True))


def test_no_more_than_max_concurrency_are_under_way():
    server = streams(*GOOD, pause_s=0.005)
    outcome = load(server, n=12, plan={"max_concurrency": 3})
    assert report(outcome.records, outcome.duration).concurrency_max == 3


def test_an_interruption_keeps_what_was_measured_and_cuts_the_rest_off():
    scripted = Scripted(streams(*GOOD), says_nothing)

    async def go() -> Outcome:
        stop = asyncio.Event()
        async with scripted.running():
            target = Endpoint(f"{scripted.url}/v1/completions", "m")
            return await run(
                target, Load([ASK] * 9, max_concurrency=1), stop, lambda record: stop.set()
            )

    outcome = asyncio.run(go())
    assert outcome.interrupted and outcome.records[0].done
    assert all(r.failure and r.failure.kind == INTERRUPTED for r in outcome.records[1:])
    assert report(outcome.records, outcome.duration).completed == 1


# --- who is there --------------------------------------------------------------------------------


def test_the_first_model_that_is_listed_is_taken():
    async def go(behaviour: Behaviour) -> str:
        async with Scripted(behaviour).running() as server:
            return await first_model(server.url, {})

    assert asyncio.run(go(answers(200, {"data": [{"id": "a"}, {"id": "b"}]}))) == "a"
    for behaviour in (answers(200, {"data": []}), answers(401, {}), hangs_up):
        with pytest.raises(EndpointError, match="--model"):
            asyncio.run(go(behaviour))
