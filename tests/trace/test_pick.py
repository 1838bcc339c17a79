"""Commands on a trace with several engines and lives: one of them, and the others are mentioned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import ConfigError
from minivllm.trace.file import load_index, read_trace
from minivllm.trace.fold import fold, to_json
from minivllm.trace.pick import pick
from minivllm.trace.stats import make_stats
from tests.two_engines import TwoEngines, write_two_engines


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_engines(tmp_path_factory.mktemp("pick") / "two.jsonl")


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def test_first_engines_last_life_is_taken_and_the_rest_is_said(path: Path) -> None:
    picked = pick(read_trace(path))
    assert (picked.stream, picked.life) == ("engine0", 1)
    assert (picked.which, picked.others) == (
        "engine0 of 2 engines",
        "--engine 0 to 1 shows the others",
    )
    second = pick(read_trace(path), engine=1)
    assert (second.stream, second.life, second.trace.last_step) == ("engine1", 2, 7)
    assert second.which == "engine1 of 2 engines, life 2 of 2"


@pytest.mark.parametrize(
    ("engine", "life", "told"),
    [(2, None, "--engine: got 2; allowed: 0 and 1"), (1, 3, "--life: got 3; allowed: 1 to 2"),
     (0, 2, "--life: got 2; allowed: 1: its engine was started once")],
)  # fmt: skip
def test_what_there_is_not_is_refused(path: Path, engine: int, life: int | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        pick(read_trace(path), engine, life)


def test_statistics_are_of_one_life(path: Path) -> None:
    counted = {
        (engine, life): json.loads(
            run("trace", "stats", str(path), "--json", "--engine", engine, "--life", life)
        )
        for engine, life in (("0", "1"), ("1", "1"), ("1", "2"))
    }
    assert [s["steps"] for s in counted.values()] == [13, 2, 7]
    assert [s["requests"] for s in counted.values()] == [3, 2, 1]
    assert [(s["stream"], s["life"]) for s in counted.values()] == [
        ("engine0", 1), ("engine1", 1), ("engine1", 2),
    ]  # fmt: skip
    assert counted["1", "1"]["ended"] == {}
    whole = make_stats(read_trace(path))
    assert whole.steps == 13 and whole.events == counted["0", "1"]["events"]
    assert "engine0 of 2 engines; --engine 0 to 1" in run("trace", "stats", str(path))


def test_index_has_each_life_and_a_step_is_sought_in_its_own(tmp_path: Path) -> None:
    server = TwoEngines(tmp_path / "long.jsonl")
    for epoch in (1, 2):
        server.start(1, epoch)
        for i in range(14):
            server.ask(f"q{epoch}-{i}", [epoch, i, 7], engine=1, max_tokens=6)
            server.step(1, 6)
    server.log.close()
    index = load_index(tmp_path / "long.jsonl")
    assert set(index.lives) == {"engine1", "engine1, life 2"}
    assert all(64 in life.snapshots for life in index.lives.values())
    whole = read_trace(tmp_path / "long.jsonl")
    assert whole.index is not None
    for life in whole.lives().values():
        before = fold(event for event in life.events if event.step < 70)
        assert to_json(life.state_before(70)) == to_json(before)


def test_check_and_verify_take_all_engines_or_the_one_that_is_named(path: Path) -> None:
    checked = run("trace", "check", str(path))
    assert "engine0 steps 1 to 13; engine1 steps" in checked and "engine1, life 2" in checked
    assert run("replay", str(path), "--verify").count("verified.") == 3
    one = run("replay", str(path), "--verify", "--engine", "1", "--life", "1")
    assert one.count("verified.") == 1 and "engine1: verified. 2 steps" in one


def test_a_breach_is_told_with_its_engine(path: Path, tmp_path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    at = next(
        i for i, line in enumerate(lines)
        if b'"stream":"engine1"' in line and b'"kind":"step.begin"' in line
    )  # fmt: skip
    lines[at] = lines[at].replace(b'"budget":32', b'"budget":3')
    broken.write_bytes(b"".join(lines))
    assert "engine1, step 1: the grants add up to" in run("trace", "check", str(broken), status=1)
    run("trace", "check", str(broken), "--engine", "0")


def test_replay_and_step_show_the_engine_that_is_asked_for(path: Path) -> None:
    told = run("replay", str(path), "--engine", "1", "--life", "1")
    assert "two-engines, engine1 of 2 engines, life 1 of 2 · 3 steps" in told
    assert "--engine 0 to 1 and --life 1 to 2 shows the others" in told
    assert "r1 is admitted: all 9" in run("step", str(path), "--engine", "1", "-c", "next")
    with pytest.raises(ConfigError, match="--engine: got 0; allowed: only for a recorded trace"):
        run("step", "tiny-pressure", "--engine", "0")


def test_diff_compares_each_life_with_its_like(path: Path) -> None:
    whole = run("trace", "diff", str(path), str(path))
    assert [line for line in whole.splitlines() if line.startswith("engine")] == [
        "engine0", "engine1", "engine1, life 2",
    ]  # fmt: skip
    one = run("trace", "diff", str(path), str(path), "--engine", "1")
    assert "the same in all 7 steps" in one and "13" not in one.splitlines()[-1]
