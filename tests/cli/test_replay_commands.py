"""``replay --verify``, ``fork`` and ``trace diff``: what they print, and their status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from minivllm.cli.main import main
from minivllm.trace.file import read_trace
from tests.conftest import RunPython

CLI = "import sys; from minivllm.cli.main import main; main(sys.argv[1:])"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def minivllm(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; returns status, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "tiny.trace.jsonl"
    with pytest.raises(SystemExit):
        main(["trace", "record", "tiny-pressure", "-o", str(path)])
    return path


def altered(recording: Path, tmp_path: Path) -> Path:
    """Somebody else stands as the victim of step 8."""
    path = tmp_path / "altered.jsonl"
    text = recording.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"kind":"sched.victim"' in line)
    lines[at] = lines[at].replace('"req":"r4"', '"req":"r1"')
    path.write_text("".join(lines), encoding="utf-8")
    return path


# --- replay --verify -----------------------------------------------------------------------------


def test_recording_is_verified(minivllm: Command, recording: Path) -> None:
    status, out, _ = minivllm("replay", recording, "--verify")
    assert status == 0
    assert out == (
        "tiny.trace.jsonl: verified. 17 steps run again, with the recorded tokens: "
        "all 297 events are the same\n"
    )


def test_altered_trace_is_not_verified_and_the_place_is_named(
    minivllm: Command, recording: Path, tmp_path: Path
) -> None:
    status, out, _ = minivllm("replay", altered(recording, tmp_path), "--verify")
    assert status == 1
    assert "NOT verified. Run again, it differs first in step 8, after" in out
    assert "  recorded: r1 gives way to r3, which needs 1 block (0 free)" in out
    assert "  now:      r4 gives way to r3" in out
    assert "  told by:  minivllm/core/scheduler.py:" in out


def test_two_engines_in_one_trace_are_verified_each(
    minivllm: Command, recording: Path, tmp_path: Path
) -> None:
    other = altered(recording, tmp_path).read_text(encoding="utf-8").split("\n", 1)[1]
    path = tmp_path / "two.jsonl"
    both = recording.read_text(encoding="utf-8") + other.replace('"engine0"', '"engine1"')
    path.write_text(both, encoding="utf-8")
    status, out, _ = minivllm("replay", path, "--verify")
    assert status == 1
    assert "two.jsonl, engine0: verified." in out and "two.jsonl, engine1: NOT verified." in out


def test_what_cannot_be_verified_is_status_2(
    minivllm: Command, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(recording.read_text(encoding="utf-8").split("\n", 1)[0] + "\n")
    status, _, err = minivllm("replay", path, "--verify")
    assert status == 2 and "cannot be run again: it has no engine's events" in err
    status, _, err = minivllm("replay", recording, "--verify", "--tokens", "recompute")
    assert status == 2 and "nothing to recompute" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tokens", "invented"], "--tokens: got 'invented'; allowed: recorded | recompute"),
        (["--model", "smollm2-135m"], "only with --tokens recompute"),
        (["--from", "5"], "--from: got 5; allowed: not with --verify"),
        (["--to", "0"], "--to: got 0; allowed: not with --verify"),
    ],
)
def test_bad_option_of_verify_is_named(
    minivllm: Command, recording: Path, arguments: list[str], says: str
) -> None:
    status, _, err = minivllm("replay", recording, "--verify", *arguments)
    assert status == 2 and says in err


# --- trace diff ----------------------------------------------------------------------------------


def test_diff_of_equal_runs(minivllm: Command, recording: Path) -> None:
    status, out, _ = minivllm("trace", "diff", "tiny-pressure", recording)
    assert status == 0
    assert out.splitlines()[-1] == "the same in all 17 steps"


def test_diff_names_step_decision_and_cause(minivllm: Command, tmp_path: Path) -> None:
    roomy = tmp_path / "roomy.jsonl"
    minivllm("trace", "record", "tiny-pressure", "--num-kv-blocks", 24, "-o", roomy)
    status, out, _ = minivllm("trace", "diff", "tiny-pressure", roomy)
    assert status == 1
    assert "first other decision: step 8" in out
    assert "  r4    A  gives way to r3\n        B  runs token 11 (decode)\n" in out
    assert "because\n  num_kv_blocks is 16 in A and 24 in B\n" in out
    status, out, _ = minivllm("trace", "diff", "tiny-pressure", roomy, "--json")
    told = json.loads(out)["engine0"]
    assert status == 1 and told["same"] is False and told["first"]["step"] == 8
    assert told["cause"] == ["num_kv_blocks is 16 in A and 24 in B"]


def test_diff_of_two_workloads_is_status_2(minivllm: Command, tmp_path: Path) -> None:
    scenario = tmp_path / "other.toml"
    scenario.write_text(
        'name = "other"\n[engine]\nnum_kv_blocks = 16\n'
        "[[request]]\narrives = 1\noutput_tokens = 2\nprompt_token_ids = [1, 2, 3]\n"
    )
    other = tmp_path / "other.jsonl"
    minivllm("trace", "record", scenario, "-o", other)
    status, out, _ = minivllm("trace", "diff", "tiny-pressure", other)
    assert status == 2 and "not comparable: the workloads differ" in out


# --- fork ----------------------------------------------------------------------------------------


def test_fork_writes_a_trace_and_says_where_it_parts(minivllm: Command, tmp_path: Path) -> None:
    out_file = tmp_path / "fork.jsonl"
    knob = ["--at-step", 5, "--set", "max_num_seqs=2"]
    status, out, err = minivllm("fork", "tiny-pressure", *knob, "-o", out_file)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == (
        f"first other decision: step 5 (minivllm trace diff tiny-pressure {out_file})"
    )
    assert read_trace(out_file).header.fidelity == "recorded"  # a model's tokens, taken over
    assert minivllm("replay", out_file, "--verify")[0] == 0
    assert minivllm("trace", "diff", "tiny-pressure", out_file)[0] == 1


def test_fork_is_written_beside_where_one_stands(
    minivllm: Command, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert minivllm("fork", recording, "--set", "num_kv_blocks=24")[0] == 0
    assert (tmp_path / "tiny.fork.trace.jsonl").is_file()


def test_fork_tells_of_placeholders_and_of_a_recording_that_does_not_verify(
    minivllm: Command, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fork.jsonl"
    wrong = altered(recording, tmp_path)
    status, out, _ = minivllm("fork", wrong, "--set", "max_model_len=65", "-o", path)
    assert status == 0
    assert "note: the recording itself does not verify, from step 8 on" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--at-step", "5", "--set", "num_kv_blocks=20"], "num_kv_blocks: got 20; allowed: from"),
        (["--set", "num_kv_blocks=0"], "num_kv_blocks: got 0"),
        ([], "at least one key=value"),
        (["--at-step", "18", "--set", "max_num_seqs=2"], "1 to 17"),
    ],
)
def test_bad_fork_is_named_and_nothing_is_written(
    minivllm: Command, recording: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    path = tmp_path / "fork.jsonl"
    status, _, err = minivllm("fork", recording, *arguments, "-o", path)
    assert status == 2 and says in err and not path.exists()


def test_fork_does_not_overwrite_what_it_is_made_from(minivllm: Command, recording: Path) -> None:
    before = recording.read_bytes()
    status, _, err = minivllm("fork", recording, "--set", "max_num_seqs=2", "-o", recording)
    assert status == 2 and "another file than the trace" in err
    assert recording.read_bytes() == before


# --- everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stats", "cat"])
def test_gallery_names_are_taken_for_files(minivllm: Command, command: str) -> None:
    status, out, _ = minivllm("trace", command, "tiny-pressure")
    assert status == 0 and "sched.victim" in out


def test_none_of_it_needs_torch(python_without: RunPython, tmp_path: Path) -> None:
    path = str(tmp_path / "fork.jsonl")
    assert python_without(CLI, "replay", "tiny-pressure", "--verify").returncode == 0
    run = python_without(CLI, "fork", "tiny-pressure", "--set", "max_num_seqs=1", "-o", path)
    assert run.returncode == 0, run.stderr
    assert python_without(CLI, "trace", "diff", "tiny-pressure", path).returncode == 1
    run = python_without(CLI, "replay", "tiny-pressure", "--verify", "--tokens", "recompute")
    assert run.returncode == 2 and "minivllm[engine]" in run.stderr
