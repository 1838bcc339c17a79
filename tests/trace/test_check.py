"""``trace check``: a sound trace passes, an unsound one is told with its step."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import TraceError
from minivllm.scenario import load_scenario, start


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
