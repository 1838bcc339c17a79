"""``minivllm step`` and ``minivllm replay`` without a terminal: pipes, scripts, files, errors."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from minivllm.cli.main import main
from minivllm.scenario import load_scenario, start
from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = json.loads((ROOT / "tests/data/tiny-pressure.json").read_text())
HEADLINES = [row["headline"] for row in EXPECTED["steps"]]


@dataclass
class Done:
    stdout: str
    stderr: str
    returncode: int


Run = Callable[..., Done]


@pytest.fixture
def minivllm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The command line in this process; its output is no terminal."""

    def run(*arguments: str, **env: str) -> Done:
        for name, value in {"MINIVLLM_HOME": str(tmp_path), "COLUMNS": "100", **env}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return Done(*capsys.readouterr(), int(ended.value.code or 0))

    return run


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "run.trace.jsonl"
    run = start(load_scenario("tiny-pressure"), trace_path=str(path)).run()
    run.recorder.close()
    return path


def stories(output: str) -> list[tuple[int, str]]:
    rows = [line.split(maxsplit=1) for line in output.splitlines() if line[:3].strip().isdigit()]
    return [(int(number), words.split("  (")[0]) for number, words in rows]


def test_a_pipe_gets_one_story_per_step(minivllm: Run) -> None:
    for arguments in (["step", "--no-live"], ["step", "tiny-pressure"]):
        done = minivllm(*arguments)
        assert stories(done.stdout) == list(enumerate(HEADLINES, start=1))
        assert done.returncode == 0 and "\x1b" not in done.stdout


def test_a_trace_tells_the_same_as_the_scenario(minivllm: Run, trace: Path) -> None:
    packed = trace.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    for file in (trace, packed):
        assert minivllm("step", str(file)).stdout == minivllm("step", "tiny-pressure").stdout
        assert stories(minivllm("replay", str(file)).stdout) == list(enumerate(HEADLINES, start=1))


def test_knobs_of_the_engine_change_the_scenario(minivllm: Run) -> None:
    told = stories(minivllm("step", "tiny-pressure", "--num-kv-blocks", "21", "--no-live").stdout)
    assert len(told) == 13
    assert not any("preempted" in words for _, words in told)


def test_a_script_runs_its_commands_and_exits(minivllm: Run) -> None:
    done = minivllm("step", "-c", "goto 8; why r4", "-c", "block 6; quit; goto 99")
    assert done.returncode == 0 and done.stderr == ""
    assert "r3 needs 1 more block; 0 are free." in done.stdout
    assert "evicted for r4: what r2 left there is forgotten" in done.stdout


def test_a_script_that_fails_stops_there_with_status_1(minivllm: Run) -> None:
    done = minivllm("step", "-c", "goto 3; why r9; goto 4")
    assert done.returncode == 1
    assert (
        done.stderr == "minivllm step: why r9: no such request at step 3; there are: r1, r2, r3\n"
    )
    assert "r4 waits" not in done.stdout


def test_the_board_can_be_printed(minivllm: Run) -> None:
    done = minivllm("step", "-c", "goto 12; board", COLUMNS="80")
    assert "▨▨▨▨ ◉◉◉◉ ◉◉◉○" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()[2:]) == 80


def test_no_color_and_pipes_carry_no_escape_codes(minivllm: Run) -> None:
    for env in ({"NO_COLOR": "1"}, {}):
        done = minivllm("step", "-c", "goto 12; board; why; help", **env)
        assert "\x1b" not in done.stdout


def test_replay_takes_a_range_of_steps(minivllm: Run, trace: Path) -> None:
    told = stories(minivllm("replay", str(trace), "--from", "8", "--to", "9").stdout)
    assert told == [(8, HEADLINES[7]), (9, HEADLINES[8])]
    assert len(stories(minivllm("replay", str(trace), "--from", "16", "--to", "99").stdout)) == 2
    for bad in (["--from", "18"], ["--from", "-1"], ["--from", "5", "--to", "4"]):
        done = minivllm("replay", str(trace), *bad)
        assert done.returncode == 2 and "allowed" in done.stderr


def test_broken_files_are_told_in_one_line(minivllm: Run, trace: Path, tmp_path: Path) -> None:
    lines = trace.read_bytes().splitlines(keepends=True)
    files = {
        "cut": (b"".join(lines)[:5000], "cut in the middle of a line"),
        "missing": (b"".join(lines[:5] + lines[6:]), "lines are missing"),
        "garbage": (b"\x00\xff\n", "is no trace"),
        "empty": (b"", "is no trace"),
        "old": (lines[0].replace(b"trace/1.0", b"trace/9.0"), "this version reads"),
    }
    for name, (content, says) in files.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_bytes(content)
        for command in ("replay", "step"):
            done = minivllm(command, str(file))
            assert done.returncode == 1, name
            assert says in done.stderr and len(done.stderr.splitlines()) == 1
            assert "Traceback" not in done.stderr


def test_a_target_that_is_nothing_lists_what_there_is(minivllm: Run) -> None:
    done = minivllm("step", "tiny-presure")
    assert done.returncode == 1 and "tiny-pressure" in done.stderr
    assert "No such file" in minivllm("step", "no/such.trace.jsonl").stderr
    assert "No such file" in minivllm("replay", "no-such").stderr


def test_a_recording_cannot_be_run_with_other_knobs(minivllm: Run, trace: Path) -> None:
    done = minivllm("step", str(trace), "--block-size", "8")
    assert done.returncode == 1
    assert "is a recording" in done.stderr and "tiny-pressure" in done.stderr


def test_prompts_and_a_scenario_exclude_each_other(minivllm: Run) -> None:
    done = minivllm("step", "tiny-pressure", "--prompt", "hello")
    assert done.returncode == 2 and "not with a scenario or trace: only one" in done.stderr


def test_scenario_without_token_ids_says_that_it_needs_a_model(
    minivllm: Run, tmp_path: Path
) -> None:
    file = tmp_path / "text.toml"
    table = '[[request]]\narrives = 1\nprompt = "Hello"\noutput_tokens = 1\n'
    file.write_text(f'name = "text"\n{table}')
    done = minivllm("step", str(file))
    assert done.returncode == 1 and "--with-model" in done.stderr


def test_neither_command_needs_or_imports_the_engine(
    trace: Path, python_without: RunPython
) -> None:
    for arguments in (["step", "-c", "goto 8; why; board; request r4"], ["replay", str(trace)]):
        code = (
            "import sys\n"
            "from minivllm.cli.main import app\n"
            f"app({arguments!r}, standalone_mode=False)\n"
            "bad = [m for m in ('torch', 'transformers', 'numpy', 'flask') if sys.modules.get(m)]\n"
            "print('imported', bad)\n"
        )
        done = python_without(code)
        assert "imported []" in done.stdout, done.stdout + done.stderr


def test_the_screen_is_not_imported_for_a_script() -> None:
    code = (
        "import sys\n"
        "from minivllm.cli.main import app\n"
        "app(['step', '-c', 'goto 8'], standalone_mode=False)\n"
        "print('prompt_toolkit' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("False False\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-tokens", "3"], "--max-tokens: got 3; allowed: only with --prompt"),
        (["--temperature", "2"], "--temperature: got 2.0; allowed: only with --prompt"),
        (["--attach", "http://127.0.0.1:1", "--stop", "x"], "--stop: got ['x']; allowed:"),
        (["--api-key", "x"], "--api-key: got 'x'; allowed: only with --attach"),
        (["--no-live", "-c", "next"], "--no-live: got True; allowed: without -c and --commands"),
    ],
)
def test_flags_that_would_be_passed_over_are_refused(
    minivllm: Run, arguments: list[str], says: str
) -> None:
    done = minivllm("step", *arguments)
    assert done.returncode == 2 and says in done.stderr and done.stdout == ""


def test_a_key_in_the_environment_is_for_whoever_wants_it(minivllm: Run) -> None:
    assert minivllm("step", "-c", "next", MINIVLLM_API_KEY="x").returncode == 0


def test_what_brings_candidates_is_told_as_it_is(minivllm: Run) -> None:
    done = minivllm("step", "--trace-level", "sampling", "-c", "goto 5; topk r1; fork; next; topk")
    assert done.stdout.count("these tokens were given: nothing was drawn; --with-model") == 2
