"""A trace in which an engine was started twice: each life can be shown, and none is left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from minivllm.cli.main import main
from minivllm.errors import ConfigError, TraceError
from minivllm.scenario import load_scenario, start
from minivllm.terminal.runs import RecordedRun, open_run
from minivllm.terminal.verbs import Session, VerbError
from tests.helpers import write_two_lives
from tests.terminal.test_commands import Run, minivllm

__all__ = ["minivllm"]  # a fixture


@pytest.fixture(scope="module")
def two_lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_lives(tmp_path_factory.mktemp("lives") / "two.jsonl")


def test_last_life_is_shown_and_named_and_each_can_be_chosen(two_lives: Path) -> None:
    ends = {life: RecordedRun(two_lives, life).history for life in (None, 1, 2)}
    assert {life: history.last for life, history in ends.items()} == {None: 13, 1: 17, 2: 13}
    assert ends[None].header.name == "tiny-pressure, life 2 of 2"
    assert ends[1].header.name == "tiny-pressure, life 1 of 2"
    assert ends[1].view(8).story.headline.startswith("r4 is preempted")
    assert ends[2].view(8).story.headline == "3 requests decode one token each."


def test_life_that_was_not_had_is_refused(two_lives: Path) -> None:
    with pytest.raises(ConfigError, match=r"--life: got 3; allowed: 1 to 2"):
        RecordedRun(two_lives, 3)
    with pytest.raises(ConfigError, match="only for a recorded trace; tiny-pressure is run anew"):
        open_run("tiny-pressure", {}, life=1)


@pytest.mark.parametrize("command", [["replay"], ["step", "--no-live"], ["step", "-c", "goto 8"]])
def test_commands_show_the_life_that_is_asked_for(
    two_lives: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for life in ("1", "2"):
        with pytest.raises(SystemExit) as ended:
            main([*command, str(two_lives), "--life", life])
        assert not ended.value.code
        told.append(capsys.readouterr().out)
    assert "r4 is preempted" in told[0] and "r4 is preempted" not in told[1]


def test_trace_of_a_header_alone_is_the_traces_fault(tmp_path: Path) -> None:
    run = start(load_scenario("tiny-pressure"))
    path = tmp_path / "header.jsonl"
    path.write_bytes(msgspec.json.encode(run.recorder.log.header) + b"\n")
    with pytest.raises(TraceError, match=r"header\.jsonl has no event of an engine: .* record it"):
        RecordedRun(path)


def test_a_recording_with_a_scenarios_name_is_opened_with_recorded(minivllm: Run) -> None:
    anew = minivllm("step", "shared-prefix")
    assert "shared-prefix; run anew: --recorded opens the recording of that name" in anew.stderr
    recorded = minivllm("step", "shared-prefix", "--recorded", "--engine", "0", "-c", "goto last")
    assert recorded.returncode == 0 and "run anew" not in recorded.stderr
    with pytest.raises(VerbError, match="nothing runs behind a recording"):
        Session(open_run("shared-prefix", {}, recorded=True)).execute("submit hello 3")
    with pytest.raises(ConfigError, match="is run anew: --recorded opens the recording of that na"):
        open_run("shared-prefix", {}, number=0)


def test_recorded_says_which_recordings_there_are(minivllm: Run) -> None:
    assert "no recording" in minivllm("step", "memory-pressure", "--recorded").stderr
    assert "run anew" not in minivllm("step", "memory-pressure").stderr
    for other in (["--prompt", "hello"], ["--attach", "http://127.0.0.1:1"], []):
        done = minivllm("step", *other, "--recorded")
        assert done.returncode == 2 and "with the name or the file of a recording" in done.stderr
    done = minivllm("step", "shared-prefix", "--recorded", "--block-size", "8")
    assert "is a recording and shows what was" in done.stderr
