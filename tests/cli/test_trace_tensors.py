"""``minivllm trace tensors``: shapes, and who looked at whom, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from minivllm.cli.main import app
from minivllm.core.scheduler_output import StepTensors
from minivllm.errors import MiniVLLMError
from minivllm.trace.artifacts import folder_of
from minivllm.trace.events import Reason
from minivllm.trace.file import read_trace
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.conftest import RunPython
from tests.core.builders import HEADER, Engine
from tests.core.tensors import TensorExecutor, floats

WORDS = ["The", " cat", " sat", " on"]
CLI = "import sys; from minivllm.cli.main import main; main(sys.argv[1:])"


class Attentive(TensorExecutor):
    """In each head of each layer other weights; whoever runs one token has a row of 4 to 6."""

    def execute_model(self, scheduler_output):  # type: ignore[no-untyped-def]
        output = super().execute_model(scheduler_output)
        if scheduler_output.capture_tensors:
            n = scheduler_output.num_scheduled_tokens["r1"]
            keys = 4 if n > 1 else 4 + scheduler_output.step - 1
            rows = []
            for share in (0.5, 0.75, 0.25, 1.0):  # 2 layers × 2 heads
                for query in range(n):
                    seen = keys - n + query + 1
                    row = [share] + [(1 - share) / max(seen - 1, 1)] * (seen - 1)
                    rows += row + [0.0] * (keys - seen)
            array = floats("attention.r1", [2, 2, n, keys], rows, "F16")
            output.tensors = StepTensors(["r1"], [array], [])
        return output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    trace = Recorder(
        TraceLog(HEADER, str(path)), token_text=lambda i, _: (WORDS + ["…"] * 9)[i % 9]
    )
    e = Engine(lambda req, index: index, executor=Attentive, trace=trace, level="tensors")
    e.add("a", [0, 1, 2, 3], max_tokens=3)
    e.run()
    trace.close()
    return path


def tensors(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["trace", "tensors", str(path), *arguments])


def refusal(path: Path, *arguments: str) -> str:
    error = tensors(path, *arguments).exception
    assert isinstance(error, MiniVLLMError), error
    return str(error)


def test_without_a_step_the_steps_are_listed(path: Path) -> None:
    lines = tensors(path).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "3"] and lines[0].endswith("r1")


def test_step_shows_its_arrays(path: Path) -> None:
    lines = tensors(path, "--step", "2").stdout.splitlines()
    assert lines[1].split(maxsplit=2) == ["attention.r1", "F16", "(2, 2, 1, 5)"]


def test_table_has_the_keys_with_their_texts_largest_first(path: Path) -> None:
    told = tensors(path, "--step", "2", "--req", "r1", "--layer", "0", "--head", "1", "--top", "2")
    lines = told.stdout.splitlines()
    assert lines[0] == "step 2, r1: token 5 'The' looks at 5 tokens; layer 0, head 1"
    assert lines[1].split()[:4] == ["0.7500", "token", "1", "'The'"]
    assert lines[2].split()[:5] == ["0.0625", "token", "2", "'", "cat'"]
    assert lines[3].split() == ["0.1875", "the", "other", "3"]


def test_without_layer_and_head_the_mean_is_shown(path: Path) -> None:
    lines = tensors(path, "--step", "2", "--req", "r1").stdout.splitlines()
    assert lines[0].endswith("mean of 2 layers, mean of 2 heads")
    assert lines[1].split()[0] == "0.6250"  # (0.5 + 0.75 + 0.25 + 1) / 4
    assert sum(float(line.split()[0]) for line in lines[1:]) == pytest.approx(1, abs=1e-3)


def test_earlier_query_of_a_prompt_looks_at_fewer_keys(path: Path) -> None:
    lines = tensors(path, "--step", "1", "--req", "r1", "--query", "1").stdout.splitlines()
    assert lines[0].startswith("step 1, r1: token 2 ' cat' looks at 2 tokens") and len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--step", "9"), "no arrays of step 9; it has those of step 1, 2, 3"),
        (("--step", "2", "--req", "r9"), "--req: got 'r9'"),
        (("--step", "2", "--req", "r1", "--layer", "2"), "--layer: got 2; allowed: 0 to 1"),
        (("--step", "2", "--req", "r1", "--head", "-3"), "--head: got -3"),
        (("--step", "2", "--req", "r1", "--query", "1"), "--query: got 1; allowed: 0 to 0"),
        (("--engine", "5"), "--engine: got 5; allowed: 0"),
    ],
)
def test_what_is_not_there_is_a_named_error(
    path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refusal(path, *arguments)


def test_missing_file_is_a_named_error(path: Path) -> None:
    (folder_of(path) / "step-000002.safetensors").unlink()
    assert "is not there" in refusal(path, "--step", "2")


def test_trace_without_arrays_says_how_to_record_some(tmp_path: Path) -> None:
    assert "--trace-level tensors" in tensors(Path("tiny-pressure")).stdout
    assert "it has none (--trace-level tensors)" in refusal(Path("tiny-pressure"), "--step", "1")


@pytest.mark.parametrize("verb", ["stats", "cat", "check", "tensors"])
def test_other_commands_read_such_a_trace_without_torch(
    path: Path, verb: str, python_without: RunPython
) -> None:
    done = python_without(CLI, "trace", verb, str(path))
    assert done.returncode == 0, done.stderr
    assert verb in ("check", "tensors") or "exec.tensors" in done.stdout


def test_replay_verifies_such_a_trace(path: Path, python_without: RunPython) -> None:
    done = python_without(CLI, "replay", str(path), "--verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_steps_that_are_armed_for_a_recording_are_told_in_it(tmp_path: Path) -> None:
    """Without a model there is nothing to keep, and that is told. Step 0 is none."""
    out = tmp_path / "x.jsonl"
    record = ["trace", "record", "tiny-pressure", "-o", str(out), "--arm"]
    told = CliRunner().invoke(app, [*record, "2", "--arm", "4"])
    assert told.exit_code == 0, told.output
    events = read_trace(out).events
    assert [e.data.armed_step for e in events if e.kind == "trace.arm"] == [2, 4]
    assert {e.data.reason for e in events if e.kind == "trace.left_out"} == {Reason.NO_MODEL}
    refused = CliRunner().invoke(app, [*record, "0"])
    assert refused.exit_code != 0 and "a step after 0" in str(refused.exception)
