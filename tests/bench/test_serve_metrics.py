"""``bench serve``: from times that are given to the numbers of the report, exactly."""

from __future__ import annotations

import pytest

from minivllm.bench.serve_metrics import (
    INTERRUPTED,
    Distribution,
    Failure,
    Record,
    concurrency,
    percentile,
    report,
)


def done(index: int, planned: float, sent: float, *chunks: float, tokens: int | None = None):
    return Record(
        index,
        planned,
        sent,
        list(chunks),
        end=chunks[-1],
        prompt_tokens=10,
        cached_tokens=4,
        output_tokens=len(chunks) if tokens is None else tokens,
    )


def failed(index: int, sent: float, end: float | None, kind: str) -> Record:
    return Record(index, sent, sent, [], end, failure=Failure(kind, "said"))


def test_latency_counts_from_the_planned_start_not_from_the_sending():
    record = done(0, 1.0, 3.0, 4.0, 4.5, 5.5)
    assert (record.ttft, record.e2el) == (3.0, 4.5)
    assert record.itl == [0.5, 1.0]
    assert record.tpot == 0.75


def test_tpot_divides_by_tokens_where_a_chunk_holds_several():
    assert done(0, 0.0, 0.0, 1.0, 2.0, 4.0, tokens=7).tpot == 0.5


def test_a_single_token_has_no_tpot_and_no_itl():
    numbers = report([done(0, 0.0, 0.0, 1.0)], 2.0)
    assert numbers.latencies["tpot"] is None and numbers.latencies["itl"] is None
    ttft = numbers.latencies["ttft"]
    assert ttft == Distribution(1, 1.0, {50: 1.0, 95: 1.0, 99: 1.0})


@pytest.mark.parametrize(
    ("values", "p", "expected"),
    [
        ([1.0], 99, 1.0),
        ([1.0, 2.0], 50, 1.5),
        ([0.0, 10.0, 20.0, 30.0, 40.0], 95, 38.0),
        ([float(n) for n in range(101)], 99, 99.0),
    ],
)
def test_percentiles_lie_on_straight_lines_between_values(values, p, expected):
    assert percentile(values, p) == pytest.approx(expected)


def test_throughput_counts_what_was_completed_and_failures_by_kind():
    records = [
        done(0, 0.0, 0.0, 1.0, 2.0),
        done(1, 0.0, 0.0, 1.0, 2.0, 3.0),
        failed(2, 0.0, 1.0, "http_503"),
        failed(3, 0.0, 1.0, "http_503"),
        failed(4, 0.0, 2.0, "broken"),
        failed(5, 3.0, None, INTERRUPTED),
    ]
    numbers = report(records, 4.0)
    assert (numbers.completed, numbers.interrupted) == (2, 1)
    assert numbers.failed == {"http_503": 2, "broken": 1}
    assert (numbers.prompt_tokens, numbers.cached_tokens, numbers.output_tokens) == (20, 8, 5)
    assert numbers.request_throughput == 0.5
    assert numbers.output_throughput == 1.25
    assert numbers.total_throughput == 6.25
    assert numbers.counted_by == {"usage": 2}
    assert numbers.goodput is None


def test_how_late_requests_were_sent_is_told_and_the_unsent_are_left_out():
    late = report([done(0, 1.0, 1.5, 2.0), Record(1, 2.0)], 4.0).sent_late
    assert late is not None and (late.count, late.mean) == (1, 0.5)


def test_concurrency_is_the_mean_over_the_run_and_the_most_at_once():
    records = [done(0, 0.0, 0.0, 2.0), done(1, 0.0, 1.0, 4.0), failed(2, 4.0, 6.0, "broken")]
    # 1 to 1 s, 2 to 2 s, 1 to 4 s, then the one that fails takes the place at that instant
    assert concurrency(records, 8.0) == (7 / 8, 2)
    assert concurrency([failed(0, 1.0, None, INTERRUPTED)], 4.0) == (0.75, 1)
    assert concurrency([Record(0, 1.0)], 4.0) == (0.0, 0)


def test_goodput_takes_every_limit():
    fast, slow = done(0, 0.0, 0.0, 0.1, 0.2), done(1, 0.0, 0.0, 0.1, 0.9)
    single = done(2, 0.0, 0.0, 0.1)
    records = [fast, slow, single, failed(3, 0.0, 1.0, "broken")]
    assert report(records, 2.0, {"ttft": 0.1}).goodput == 1.5
    assert report(records, 2.0, {"ttft": 0.1, "tpot": 0.5}).goodput == 1.0
    assert report(records, 2.0, {"ttft": 0.1, "e2el": 0.15}).goodput == 0.5


def test_a_run_in_which_nothing_was_completed_has_no_latencies():
    numbers = report([failed(0, 0.0, 1.0, "refused")], 1.0)
    assert set(numbers.latencies.values()) == {None} and numbers.request_throughput == 0
