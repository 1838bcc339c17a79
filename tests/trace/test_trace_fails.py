"""A trace that fails ends alone: who is traced goes on, and so does whoever else is told of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.errors import TraceError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.trace import log_file
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.events import RunIdle
from minivllm.trace.file import read_trace
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, SMALL, Engine, message


class BrokenSink:
    start_ns = 0
    redacted = False

    def __init__(self) -> None:
        self.artifacts = ArtifactStore()
        self.calls = 0

    def append(self, *_: Any) -> None:
        self.calls += 1
        raise RuntimeError("the socket is gone")

    def close(self) -> None:
        raise RuntimeError("the socket is gone")


def test_sink_that_fails_ends_the_stream_and_not_the_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = BrokenSink()
    config = make_config(**SMALL)
    core = EngineCore(config, ScriptedExecutor(config, counting_tokens), Recorder(sink))
    core.add_request(message("a", 6, max_tokens=3))
    for _ in range(3):
        core.step()
    assert not core.has_requests() and sink.calls == 1
    assert caplog.text.count("the trace of engine0 ends here") == 1
    core.trace.close()


def test_defect_of_the_retention_ends_the_trace_and_not_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TraceLog(HEADER, str(tmp_path / "t.jsonl"), steps=2)
    config = make_config(**SMALL)
    core = EngineCore(config, ScriptedExecutor(config, counting_tokens), Recorder(log))
    core.add_request(message("a", 6, max_tokens=3))
    core.step()

    def broken(*_: Any) -> dict[tuple[str, int], int]:
        raise IndexError("deque index out of range")

    monkeypatch.setattr(log._ring, "take", broken)
    for _ in range(2):
        core.step()
    assert not core.has_requests()
    assert caplog.text.count("the trace ends here; the run goes on") == 1
    assert log.streams() == [] and not log.artifacts.is_open
    assert read_trace(tmp_path / "t.jsonl").last_step == 1


def test_viewer_that_fails_is_told_no_more_and_all_others_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trace = Recorder(TraceLog(HEADER))
    told: list[str] = []

    def fail(stream: str, lines: list[bytes]) -> None:
        told.append("fails")
        raise ValueError("the page is gone")

    trace.log.subscribe(fail)
    trace.log.subscribe(lambda stream, lines: told.append(stream))
    for _ in range(2):
        trace.emit(RunIdle, None)
        trace.flush()
    assert told == ["fails", "engine0", "engine0"]
    assert caplog.text.count("is told no more") == 1


# --- two runs, one file --------------------------------------------------------------------------

locks = pytest.mark.skipif(log_file.fcntl is None, reason="no such locks on this system")


@locks
@pytest.mark.parametrize("steps", [None, 2])
def test_second_run_with_the_same_file_is_refused_and_the_first_goes_on(
    tmp_path: Path, steps: int | None
) -> None:
    path = tmp_path / "t.jsonl"
    engine = Engine(trace=Recorder(TraceLog(HEADER, str(path), steps=steps)))
    engine.add("a", 6, max_tokens=20)
    for _ in range(10):  # with a retention the file is another one by now
        engine.step()
    with pytest.raises(TraceError, match=r"t\.jsonl is being written by another run.*--trace"):
        TraceLog(HEADER, str(path))
    engine.run()
    engine.trace.close()
    assert read_trace(path).events[-1].kind == "step.end"
    TraceLog(HEADER, str(path)).close()
    assert read_trace(path).events == []


@locks
def test_lock_is_held_against_another_process_and_ends_with_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = TraceLog(HEADER, str(path))
    record = ["-m", "minivllm", "trace", "record", "tiny-pressure", "-o", str(path)]
    refused = subprocess.run([sys.executable, *record], capture_output=True, text=True, timeout=60)
    assert refused.returncode and "is being written by another run" in refused.stderr
    assert "Traceback" not in refused.stderr
    log.close()
    subprocess.run([sys.executable, *record], check=True, capture_output=True, timeout=60)
    assert read_trace(path).last_step == 17


def test_what_is_no_file_has_no_lock() -> None:
    logs = [TraceLog(HEADER, "/dev/null") for _ in range(2)]
    for log in logs:
        log.close()
