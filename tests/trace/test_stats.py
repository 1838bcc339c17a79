"""Statistics of a run: each number by another way than the one that counts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import ConfigError
from minivllm.scenario import load_scenario, start
from minivllm.trace import events as ev
from minivllm.trace.file import Trace, parse_trace, read_trace
from minivllm.trace.schema import vocabulary
from minivllm.trace.stats import Stats, make_stats
from tests.vectors.make import VECTORS, trace_of


@pytest.fixture(scope="module", params=VECTORS)
def counted(request: pytest.FixtureRequest) -> tuple[Trace, Stats]:
    trace = trace_of(VECTORS[request.param]())
    return trace, make_stats(trace)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stats") / "t.jsonl"
    start(load_scenario("tiny-pressure"), trace_path=str(path)).run().recorder.close()
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["trace", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_token_of_the_budget_was_used_or_left_for_a_reason(
    counted: tuple[Trace, Stats],
) -> None:
    trace, stats = counted
    budget = stats.budget
    assert budget.used + sum(budget.unused.values()) == budget.total
    begun = [e.data.budget for e in trace.events if e.kind == "step.begin"]
    run = [e.data.tokens for e in trace.events if e.kind == "batch.compose"]
    assert (budget.total, budget.used) == (sum(begun), sum(run))


def test_waits_are_those_of_the_state_after_each_step(counted: tuple[Trace, Stats]) -> None:
    trace, stats = counted
    waiting = 0
    for step in range(1, trace.last_step + 1):
        stops = [e.data for e in trace.steps.get(step, []) if e.kind == "sched.stop"]
        waiting += sum(len({d.head, *d.behind}) for d in stops)
        waiting += sum(
            e.kind == "sched.skip" and e.data.reason in ("larger_than_pool", "waiting_for_grammar")
            for e in trace.steps.get(step, [])
        )
    assert sum(stats.waits.values()) == waiting > 0


def test_pool_and_cache_are_those_of_the_engine(counted: tuple[Trace, Stats]) -> None:
    trace, stats = counted
    in_use = []
    for step in sorted(trace.steps)[1:]:
        state = trace.state_before(step + 1)
        if any(e.kind == "step.end" for e in trace.steps[step]):
            in_use.append(sum(block.ref > 0 for block in state.blocks[1:]))
    assert (stats.pool.max, stats.pool.p50) == (max(in_use), sorted(in_use)[len(in_use) // 2])
    touched = sum(e.kind == "kv.touch" for e in trace.events)
    size = next(e.data.block_size for e in trace.events if e.kind == "run.config")
    assert stats.cache.hit_tokens == touched * size
    if stats.cache.hit_rate is not None:
        assert abs(stats.cache.hit_rate * stats.cache.asked_tokens - stats.cache.hit_tokens) < 1


def test_victims_ends_and_events_are_all_there(counted: tuple[Trace, Stats]) -> None:
    trace, stats = counted
    assert sum(stats.ended.values()) == sum(e.kind == "req.finish" for e in trace.events)
    assert sum(stats.events.values()) == len(trace.events)
    preempted = [(e.step, e.req, e.data.tokens_lost) for e in trace.events if "preempt" in e.kind]
    assert [(v.step, v.req, v.tokens_lost) for v in stats.victims] == preempted


def test_run_without_a_step_has_statistics_too(path: Path) -> None:
    raw = b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    stats = make_stats(parse_trace(raw, "t"))
    assert (stats.steps, stats.times_ms, stats.cache.hit_rate) == (0, {}, None)


def test_table_and_json_say_the_same(path: Path) -> None:
    stats, table = json.loads(run("stats", str(path), "--json")), run("stats", str(path))
    assert stats["budget"]["unused"]["no_free_blocks"] == 44
    lines = {" ".join(line.split()) for line in table.splitlines()}
    assert {"steps 17", "unused: no_free_blocks 44", "step 8: r4 for r3 10 lost"} <= lines
    assert {f"hit rate {stats['cache']['hit_rate']:.1%}", "max 15"} <= lines


# --- cat ---------------------------------------------------------------------------------------


def cat(path: Path, *filters: str) -> list[ev.Event]:
    from minivllm.trace.file import decode_event

    lines = run("cat", str(path), "--json", *filters).splitlines()
    return [decode_event(line.encode()) for line in lines]


def test_without_a_filter_the_lines_are_those_of_the_file(path: Path) -> None:
    assert cat(path) == read_trace(path).events


@pytest.mark.parametrize(
    ("filters", "keeps"),
    [
        (["--kind", "kv"], lambda e: e.kind.startswith("kv.")),
        (
            ["--kind", "sched.skip", "--kind", "req"],
            lambda e: e.kind == "sched.skip" or e.kind.startswith("req."),
        ),
        (["--req", "r3", "--req", "r4"], lambda e: e.req in ("r3", "r4")),
        (["--step", "5-7", "--step", "12"], lambda e: e.step in (5, 6, 7, 12)),
        (["--reason", "no_free_blocks"], lambda e: "no_free_blocks" in str(e.data)),
        (
            ["--reason", "last_chunk"],
            lambda e: e.kind in ("sched.grant", "batch.compose") and "last_chunk" in str(e.data),
        ),
        (
            ["--block", "6"],
            lambda e: (
                e.kind.startswith("kv.")
                and (getattr(e.data, "block", 0) == 6 or 6 in getattr(e.data, "blocks", []))
            ),
        ),
        (["--stream", "engine0", "--req", "r1"], lambda e: e.req == "r1"),
        (["--kind", "kv", "--req", "r4"], lambda e: e.kind.startswith("kv.") and e.req == "r4"),
    ],
)
def test_filters_keep_what_they_say(path: Path, filters: list[str], keeps: object) -> None:
    expected = [e for e in read_trace(path).events if keeps(e)]  # type: ignore[operator]
    assert cat(path, *filters) == expected and expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["--kind", "shed"], "--kind: got 'shed'.*sched"),
        (["--req", "r99"], "--req: got 'r99'.*r1"),
        (["--step", "9-5"], "--step: got '9-5'.*5-9"),
        (["--step", "x"], "--step: got 'x'"),
        (["--reason", "no_luck"], "--reason: got 'no_luck'"),
        (["--stream", "api"], "--stream: got 'api'.*engine0"),
    ],
)
def test_filter_that_can_fit_nothing_is_named(path: Path, filters: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("cat", str(path), *filters)


# --- vocabulary --------------------------------------------------------------------------------


def test_vocabulary_has_every_word_with_one_line() -> None:
    words = vocabulary()
    assert set(words["kinds"]) == set(ev.KINDS)
    assert set(words["reasons"]) == {reason.value for reason in ev.Reason}
    assert set(words["grants"]) == {why.value for why in ev.GrantWhy}
    for lines in words.values():
        assert all(text and "\n" not in text for text in lines.values())
    assert json.loads(run("vocabulary", "--json")) == words
    assert words["kinds"]["kv.hit"].startswith("A prefix lookup found `tokens` tokens in `blocks`")
    assert "no_budget" in run("vocabulary") and "(moves the state)" in words["kinds"]["kv.alloc"]
