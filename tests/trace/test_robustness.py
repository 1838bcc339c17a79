"""What must not take the engine or a viewer with it: a full disk, an altered trace, a long life."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivllm.errors import ConfigError, TraceError
from minivllm.scenario import load_scenario, start
from minivllm.trace.events import Header
from minivllm.trace.file import load_index, read_trace
from minivllm.trace.fold import fold, forget_finished, new_state, to_json
from minivllm.trace.gate import Gate
from minivllm.trace.log import TraceLog
from tests.helpers import trace_of

HEADER = Header(run_id="x", created="", engine_version="")


def test_full_disk_ends_the_file_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(load_scenario("tiny-pressure"), trace_path=str(tmp_path / "t.jsonl"))
    run.step()

    class FullDisk:
        path = "t.jsonl"

        def append(self, lines: list[bytes]) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(run.recorder.log, "_file", FullDisk())
    with caplog.at_level(logging.WARNING):
        run.run()
    assert run.core.scheduler.current_step == 17
    assert caplog.text.count("No space left on device") == 1  # said once, not at every step


def test_what_a_full_disk_left_is_a_trace_of_whole_steps(tmp_path: Path) -> None:
    """A file may grow to 40 kB in that process: the disk takes a part of a step, then nothing."""
    path = tmp_path / "t.jsonl"
    code = (
        "import resource, sys; from minivllm.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        f"main(['trace', 'record', 'tiny-pressure', '-o', {str(path)!r}])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ends here" in run.stderr and "Traceback" not in run.stderr
    assert 20_000 < path.stat().st_size <= 40_000
    trace = read_trace(path)
    assert trace.events[-1].kind == "step.end" and 1 < trace.last_step < 17


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_disk_that_is_full_from_the_start_is_a_named_error() -> None:
    with pytest.raises(TraceError, match="No space left"):
        TraceLog(HEADER, "/dev/full")


NO_NUMBER = {"name": "max_num_seqs", "value": "many"}
POLICY_OF_NOBODY = {"name": "policy", "value": "priority", "waiting": ["r1", "r9"]}


def alter(kind: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    """tiny-pressure's lines, with the first event of a kind changed."""
    lines = (Path(__file__).parents[1] / "vectors/tiny-pressure.json").read_text(encoding="utf-8")
    events = json.loads(lines)["events"]
    change(next(event for event in events if event["kind"] == kind))
    header = {"schema": "minivllm.trace/1.0", "run_id": "x", "created": "", "engine_version": ""}
    return b"".join(json.dumps(line).encode() + b"\n" for line in [header, *events])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("kv.alloc", lambda e: e["data"].update(blocks=[999])),
        ("kv.alloc", lambda e: e["data"].update(blocks=[-3])),
        ("kv.touch", lambda e: e["data"].update(block=999)),
        ("req.admit", lambda e: e.update(req="r99")),
        ("req.token", lambda e: e.update(req=None)),
        ("req.arrive", lambda e: e.update(kind="req.unheard_of")),
        ("run.config", lambda e: e.update(kind="run.unheard_of")),
        ("run.config", lambda e: e["data"].update(num_kv_blocks=0)),
        ("run.config", lambda e: e["data"].update(num_kv_blocks=10**12)),
        ("run.config", lambda e: e["data"].update(block_size=0)),
        (
            "step.begin",
            lambda e: e.update(kind="run.knob", data={"name": "block_size", "value": 0}),
        ),
        ("step.begin", lambda e: e.update(kind="run.knob", data=NO_NUMBER)),
        ("step.begin", lambda e: e.update(kind="run.knob", data={"name": "luck", "value": 7})),
        ("step.begin", lambda e: e.update(kind="run.knob", data=POLICY_OF_NOBODY)),
        ("req.enqueue", lambda e: e["data"].update(position=10**30)),
    ],
)
def test_altered_trace_is_a_named_error_with_its_line(
    tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = tmp_path / "altered.jsonl"
    path.write_bytes(alter(kind, change))
    with pytest.raises(TraceError, match=r"altered\.jsonl, line \d+"):
        read_trace(path)


@pytest.mark.parametrize("line", [1, 9])
def test_line_that_is_nested_too_deeply_is_a_named_error(tmp_path: Path, line: int) -> None:
    lines = alter("kv.alloc", lambda _: None).splitlines(keepends=True)
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    if line == 1:
        lines[0] = lines[0].replace(b"}", b', "config": ' + deep + b"}")
    else:
        event = {**json.loads(lines[line - 1]), "kind": "x.deep", "data": {}}
        lines[line - 1] = json.dumps(event).encode().replace(b"{}", deep) + b"\n"
    path = tmp_path / "deep.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(TraceError, match=r"is no trace" if line == 1 else r"line 9: not an event"):
        read_trace(path)


def test_empty_line_is_named_with_what_to_do(tmp_path: Path) -> None:
    lines = alter("kv.alloc", lambda _: None).splitlines(keepends=True)
    path = tmp_path / "blank.jsonl"
    path.write_bytes(b"".join([*lines[:8], b"\n", *lines[8:]]))
    with pytest.raises(TraceError, match=r"line 9: not an event \(an empty line; delete it"):
        read_trace(path)


@pytest.mark.parametrize("spoil", [lambda p: p[:-9], lambda p: p[:-8] + bytes(8), lambda _: b"{}"])
def test_spoilt_packing_is_named_with_what_to_do(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(spoil(gzip.compress(alter("kv.alloc", lambda _: None))))
    with pytest.raises(TraceError, match=r"cannot unpack the trace .*; copy it anew"):
        read_trace(path)


def test_unaltered_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.jsonl"
    path.write_bytes(alter("kv.alloc", lambda _: None))
    assert read_trace(path).last_step == 17


def test_forgetting_finished_requests_keeps_the_newest_and_whose_tokens_a_block_holds() -> None:
    run = start(load_scenario("tiny-pressure")).run()
    state = fold(trace_of(run).engine_events, new_state())
    holders = {block.held.req for block in state.blocks if block.held is not None}
    assert state.finished == ["r2", "r1", "r3", "r4", "r5"]
    forget_finished(state, keep=1)
    assert set(state.finished) == holders | {"r5"}
    assert set(state.requests) == set(state.finished)
    assert "r2" not in state.requests  # r1 shared its prefix and gave those blocks back later


def test_lines_beyond_any_number_are_none() -> None:
    log = TraceLog(HEADER)
    log.append("engine0", [b"{}"], step=1)
    assert log.lines("engine0", 10**20, 10**20) == []
    assert log.lines("engine0", 1, 10**20) == [b"{}"]


def test_rate_that_would_hold_the_engine_for_ever_is_refused() -> None:
    with pytest.raises(ConfigError, match="gate rate"):
        Gate(rate=1e-300)


def test_state_is_sought_from_the_nearest_snapshot_of_the_index(tmp_path: Path) -> None:
    scenario = load_scenario("tiny-pressure")
    for request in scenario.request:
        request.output_token_ids, request.output_texts = [], []
        request.output_tokens = 40
    path = tmp_path / "long.trace.jsonl"
    run = start(scenario, trace_path=str(path), max_num_seqs=1).run()
    run.recorder.close()
    whole = read_trace(path)
    assert whole.index is None
    index = load_index(path)
    trace = read_trace(path)
    steps = index.lives["engine0"]
    assert trace.index == index and 64 in steps.snapshots
    for step in (1, 63, 64, 65, 100, trace.last_step):
        assert to_json(trace.state_before(step)) == to_json(whole.state_before(step))
    trace.events[:] = trace.engine_events[:] = [e for e in trace.events if e.step >= 64]
    steps.steps[64] = 0
    trace.index = index  # what came before the snapshot is not looked at
    assert to_json(trace.state_before(70)) == to_json(whole.state_before(70))
