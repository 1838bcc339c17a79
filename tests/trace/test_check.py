"""``trace check``: a sound trace passes, an unsound one is told with its step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import TraceError
from minivllm.scenario import load_scenario, start
from minivllm.trace.file import decode_event
from minivllm.trace.invariants import TraceChecker
from tests.vectors.make import HERE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    start(load_scenario("tiny-pressure"), trace_path=str(path)).run().recorder.close()
    return path


def test_sound_trace_passes(path: Path) -> None:
    result = CliRunner().invoke(app, ["trace", "check", str(path)])
    assert result.exit_code == 0
    assert "steps 1 to 17; every invariant holds" in result.output


def test_breach_is_told_with_its_step(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"max_num_seqs":8,', b'"max_num_seqs":1,'))
    result = CliRunner().invoke(app, ["trace", "check", str(path)])
    assert result.exit_code == 1
    assert "step 2: 2 requests run, max_num_seqs allows 1" in result.output


def test_altered_file_is_refused_with_its_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"kind":"kv.free"', b'"kind":"kv.lost"', 1))
    with pytest.raises(TraceError, match=r"line \d+: .*the file was altered"):
        CliRunner().invoke(app, ["trace", "check", str(path)], catch_exceptions=False)


def altered(path: Path, change: Callable[[dict[str, Any]], bool]) -> Result:
    """Check the trace with each event as ``change`` leaves it (and without those it denies)."""
    header, *lines = path.read_bytes().splitlines()
    events = [event for event in map(msgspec.json.decode, lines) if change(event)]
    for seq, event in enumerate(events, start=1):
        event["seq"] = seq
    path.write_bytes(b"\n".join([header, *map(msgspec.json.encode, events), b""]))
    return CliRunner().invoke(app, ["trace", "check", str(path)])


def test_more_granted_than_the_budget_is_told(path: Path) -> None:
    old, new = b'"max_num_batched_tokens":12,', b'"max_num_batched_tokens":5,'
    path.write_bytes(path.read_bytes().replace(old, new))
    result = CliRunner().invoke(app, ["trace", "check", str(path)])
    assert result.exit_code == 1
    assert "step 1: the grants add up to 12 tokens, the budget is 5" in result.output


@pytest.mark.parametrize("number", [-4, 10**15, 3])
def test_impossible_step_number_is_told(path: Path, number: int) -> None:
    def renumber(event: dict[str, Any]) -> bool:
        event["step"] = number if event["step"] == 5 else event["step"]
        return True

    result = altered(path, renumber)
    assert result.exit_code == 1
    assert f"step {number}: it begins where step 5 was due" in result.output


def test_event_told_in_another_step_is_told(path: Path) -> None:
    def move(event: dict[str, Any]) -> bool:
        event["step"] += (event["step"], event["kind"]) == (5, "sched.ledger")
        return True

    result = altered(path, move)
    assert result.exit_code == 1
    assert "(sched.ledger) is told in step 5" in result.output


def test_step_without_an_end_is_told_if_it_is_not_the_last(path: Path) -> None:
    result = altered(path, lambda event: (event["step"], event["kind"]) != (5, "step.end"))
    assert result.exit_code == 1
    assert "step 6: it begins before step 5 has ended" in result.output
    assert "1 breach of an invariant" in result.output

    result = altered(path, lambda event: event["step"] < 5)
    assert result.exit_code == 0, "the last may have been cut off"


def test_file_with_only_a_header_holds_no_events(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines()[0] + b"\n")
    with pytest.raises(TraceError, match="holds no events of an engine"):
        CliRunner().invoke(app, ["trace", "check", str(path)], catch_exceptions=False)


@pytest.mark.parametrize("vector", sorted(HERE.glob("*.json")), ids=lambda path: path.stem)
def test_every_kind_of_run_passes(vector: Path) -> None:
    checker = TraceChecker()
    raw = msgspec.json.decode(vector.read_bytes())["events"]
    events = [decode_event(msgspec.json.encode(event)) for event in raw]
    assert [breach for event in events for breach in checker.take(event)] == []
