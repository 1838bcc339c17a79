"""``compare`` and ``bench``: what they print, what they write, how they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from minivllm.cli.options import parse_flags
from minivllm.errors import ConfigError
from minivllm.trace.file import read_trace
from tests.cli.test_commands import CLI
from tests.conftest import RunPython


def test_compare_needs_no_torch_and_names_the_first_other_decision(
    tmp_path: Path, python_without: RunPython
) -> None:
    out = tmp_path / "new" / "dir"
    run = python_without(
        CLI, "compare", "tiny-pressure", "--b", "--no-enable-prefix-caching", "-o", str(out),
        env={"COLUMNS": "120"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    words = run.stdout.split()
    for cells in (
        ["steps", "17", "20", "+3"],
        ["run", "87", "152", "+65", "+24", "no", "hit,", "+41", "again"],
        ["mean,", "steps", "2.80", "3.80", "+1.00", "r4", "+4,", "r2", "+1"],
    ):
        assert any(words[i : i + len(cells)] == cells for i in range(len(words))), cells
    assert "First other decision: step 2\n" in run.stdout
    assert "A  r2 is admitted: 8 of its 11 prompt tokens are already in" in run.stdout
    assert "because enable_prefix_caching is on in A and off in B" in run.stdout
    for name, steps in (("a", 17), ("b", 20)):
        assert read_trace(out / f"tiny-pressure.{name}.trace.jsonl").last_step == steps


def test_compare_as_json(tmp_path: Path, python_without: RunPython) -> None:
    run = python_without(
        CLI, "compare", "tiny-pressure", "--a", "--num-kv-blocks 21", "--json", "-o", str(tmp_path)
    )
    told = json.loads(run.stdout)
    assert (told["a"]["metrics"]["steps"], told["b"]["metrics"]["steps"]) == (13, 17)
    assert told["a"]["flags"] == "--num-kv-blocks 21"
    assert told["first_other_decision"]["step"] > 1
    assert Path(told["b"]["trace"]).is_file()


def test_runs_that_decide_the_same_say_so(tmp_path: Path, python_without: RunPython) -> None:
    run = python_without(CLI, "compare", "tiny-pressure", "-o", str(tmp_path))
    assert run.stdout.endswith("The same decisions in all 17 steps.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-pressure", "--a", "--block-sice 4"], r"--a: .*No such option"),
        (["tiny-pressure", "--b", "--block-size four"], r"--b: .*--block-size"),
        (["tiny-pressure", "--b", "--block-size 'x"], "flags as the shell takes them"),
        (["tiny-pressure", "--b", "--trace x.jsonl"], "both traces go to --out DIR"),
        (["tiny-pressure", "--b", "--trace-retention 9"], "all steps are compared"),
        (["tiny-pressure", "--b", "--block-size 0"], "block_size: got 0"),
        (["nothing"], "no scenario 'nothing'; shipped: chat-burst"),
    ],
)
def test_compare_refuses_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, python_without: RunPython
) -> None:
    run = python_without(CLI, "compare", *arguments, "-o", str(tmp_path))
    assert run.returncode in (1, 2) and not run.stdout
    assert run.stderr.startswith("minivllm: ") and run.stderr.count("\n") == 1
    assert re.search(message, run.stderr), run.stderr


def test_flags_are_read_as_on_the_command_line() -> None:
    text = "--no-enable-prefix-caching --kv-cache-memory 1MiB --scheduling-policy priority"
    assert parse_flags(text, "--a") == {
        "enable_prefix_caching": False,
        "kv_cache_memory": 2**20,
        "policy": "priority",
    }
    assert parse_flags("", "--a") == {}
    with pytest.raises(ConfigError, match="512MiB"):
        parse_flags("--kv-cache-memory many", "--a")
