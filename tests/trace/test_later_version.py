"""A trace of a later minor version is read, told and counted; what is new is shown as it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import TraceError
from minivllm.terminal.runs import RecordedRun
from minivllm.trace.events import REASONS, GrantWhy, Reason
from minivllm.trace.file import read_trace
from minivllm.trace.fold import fold
from minivllm.trace.why import why_budget, why_request, why_step
from tests.helpers import trace_of
from tests.vectors.make import LATER, later_minor, tiny_pressure


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("later") / "later.jsonl"
    trace = later_minor()
    header = {**msgspec.to_builtins(trace.header), "mood": "of a later version"}
    lines = [msgspec.json.encode(line) for line in [header, *trace.events]]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_words_of_a_later_version_are_kept_as_text(path: Path) -> None:
    trace = read_trace(path)
    assert trace.header.schema == LATER
    skips = [e.data.reason for e in trace.events if e.kind == "sched.skip"]
    grants = [e.data.why for e in trace.events if e.kind == "sched.grant"]
    assert "bad_weather" in skips and "dream" in grants
    assert isinstance(skips[0], Reason) and isinstance(grants[0], GrantWhy)
    again = [msgspec.json.encode(event) for event in trace.events]
    assert again == path.read_bytes().splitlines()[1:], "written as it was read"


def test_unknown_word_is_equal_to_no_known_one_and_explained_as_unknown() -> None:
    word = Reason("bad_weather")
    assert word not in set(Reason) and word == Reason("bad_weather") == "bad_weather"
    assert REASONS[word] == "“bad_weather”, a word of a later version"
    with pytest.raises(ValueError, match="3 is not a valid Reason"):
        Reason(3)


def test_state_is_that_of_the_same_run_without_the_new_words(path: Path) -> None:
    later, now = fold(read_trace(path).events), fold(trace_of(tiny_pressure()).events)
    assert later.blocks == now.blocks and later.free == now.free
    assert {n: r.tokens for n, r in later.requests.items()} == {
        n: r.tokens for n, r in now.requests.items()
    }


def test_every_step_and_request_can_be_asked_why(path: Path) -> None:
    history = RecordedRun(path).history
    told: list[str] = []
    for step in range(1, history.last + 1):
        state = history.state_after(step)
        answers = [*why_step(history, state, step), why_budget(history, state, step)]
        answers += [why_request(history, state, step, req) for req in state.requests]
        told += [str(answer) for answer in answers] + [history.view(step).story.headline]
    assert any("bad_weather" in text for text in told)
    assert any("all_asleep" in text for text in told)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["replay"], "bad_weather"),
        (["trace", "cat"], '"dream"'),
        (["trace", "cat", "--kind", "sched.dream"], '{"of":["r1",{"blocks":3}]}'),
        (["trace", "stats"], "sched.dream"),
    ],
)
def test_commands_show_what_is_new(path: Path, command: list[str], shown: str) -> None:
    result = CliRunner().invoke(app, [*command, str(path)])
    assert result.exit_code == 0, result.output
    assert shown in result.output


def test_later_major_version_is_refused(path: Path) -> None:
    other = path.with_name("major.jsonl")
    other.write_bytes(path.read_bytes().replace(b"trace/1.7", b"trace/2.0", 1))
    with pytest.raises(TraceError, match=r"has schema 'minivllm.trace/2.0'; this version reads"):
        read_trace(other)
