"""Retention: the last N steps, readable at any time, and the same state as with all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.parts import build
from minivllm.errors import ConfigError, TraceError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.terminal.runs import RecordedRun
from minivllm.trace.events import HttpDone
from minivllm.trace.file import decode_event, load_index, parse_trace, read_trace
from minivllm.trace.fold import apply, fold, new_state, to_json
from minivllm.trace.invariants import violations
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, SMALL, message
from tests.helpers import engine_view, fold_view

KEEP = 5


def traced(path: Path | None, steps: int | None = KEEP) -> EngineCore:
    config = make_config(**SMALL)
    log = TraceLog(HEADER, str(path) if path else None, steps=steps)
    return EngineCore(config, ScriptedExecutor(config, counting_tokens), Recorder(log))


def busy(core: EngineCore, steps: int) -> Iterator[int]:
    """A server's life: somebody arrives every third step, somebody waits, somebody ends."""
    for step in range(1, steps + 1):
        if step % 3 == 1:
            core.add_request(message(f"q{step}", 9 + step % 7, max_tokens=8))
        if step % 11 == 0:
            core.take_outputs()
        core.step()
        yield step


def test_file_is_a_readable_trace_after_every_step(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    core = traced(path)
    for step in busy(core, 60):
        trace = read_trace(path)
        assert trace.last_step == step
        kept = trace.last_step - trace.first_step + 1
        assert min(step, KEEP) <= kept <= 2 * KEEP + 1
        state = fold(trace.engine_events)
        assert fold_view(state) == engine_view(core) and violations(state) == []


def test_kept_steps_are_the_same_lines_as_without_retention(tmp_path: Path) -> None:
    short, whole = tmp_path / "short.jsonl", tmp_path / "whole.jsonl"
    for path, steps in ((short, KEEP), (whole, None)):
        for _ in busy(traced(path, steps), 40):
            pass
    all_events = {(e.stream, e.seq): e for e in read_trace(whole).events}
    snapshot, *kept = read_trace(short).events
    assert snapshot.kind == "run.snapshot" and len(kept) > 50
    for event in kept:
        other = all_events[event.stream, event.seq]
        assert (event.kind, event.req, event.step, event.src) == (
            other.kind,
            other.req,
            other.step,
            other.src,
        )


def test_beginning_is_the_state_and_the_sources_of_what_was_dropped(tmp_path: Path) -> None:
    short, whole = tmp_path / "short.jsonl", tmp_path / "whole.jsonl"
    for path, steps in ((short, KEEP), (whole, None)):
        for _ in busy(traced(path, steps), 40):
            pass
    trace, full = read_trace(short), read_trace(whole)
    snapshot = trace.events[0]
    state = new_state()
    for event in full.engine_events:
        if event.seq <= snapshot.seq:
            apply(state, event)
    assert snapshot.data.state == to_json(state) and snapshot.step == trace.first_step - 1
    known = {source.src for source in snapshot.data.sources}
    known |= {e.data.src for e in trace.events if e.kind == "run.source"}
    assert {e.src for e in trace.events[1:]} <= known


def test_memory_reads_as_the_file_does() -> None:
    core = traced(None)
    log = core.trace.log  # type: ignore[attr-defined]
    for step in busy(core, 30):
        first, head = log.first_seq("engine0"), log.head_seq("engine0")
        events = [decode_event(line) for line in log.lines("engine0", first, head)]
        assert events == [decode_event(line) for line in log.lines("engine0", 1, head)]
        assert [e.seq for e in events] == list(range(first, head + 1))
        assert fold_view(fold(events)) == engine_view(core)
        steps = {e.step for e in events if e.kind == "step.end"}
        assert len(steps) == min(step, KEEP + 1)
    assert log.lines("engine0", head, head) == [msgspec.json.encode(events[-1])]


def test_other_streams_are_cut_at_the_same_step(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    core = traced(path)
    api = core.trace.sibling("api")  # type: ignore[attr-defined]
    for step in busy(core, 40):
        api.emit(HttpDone, None, request_id=f"s{step}", status=200, bytes=1)
        api.flush()
    trace = read_trace(path)
    done = [e.data.request_id for e in trace.events if e.kind == "http.done"]
    assert done == [f"s{step}" for step in range(trace.first_step, 41)]
    first = next(e for e in trace.events if e.stream == "api")
    assert first.kind == "run.snapshot" and first.data.state["seq"] == first.seq


def refuse(api: Recorder, name: str) -> None:
    api.emit(HttpDone, None, request_id=name, status=400, bytes=1)
    api.flush()


def test_front_end_goes_on_after_all_it_told_was_dropped(tmp_path: Path) -> None:
    """An engine may run many steps before the front end has something to tell again."""
    path = tmp_path / "t.jsonl"
    core = traced(path)
    api = core.trace.sibling("api")  # type: ignore[attr-defined]
    refuse(api, "early")
    for _ in busy(core, 4 * KEEP):
        pass
    log = core.trace.log  # type: ignore[attr-defined]
    (snapshot,) = (decode_event(line) for line in log.lines("api", 1, 2**62))
    assert snapshot.kind == "run.snapshot" and snapshot.seq == log.head_seq("api")
    refuse(api, "late")
    for _ in busy(core, 4 * KEEP):
        refuse(api, "later")
    told = [decode_event(line) for line in log.lines("api", 1, 2**62)]
    assert [e.seq for e in told] == list(range(told[0].seq, log.head_seq("api") + 1))
    assert read_trace(path).last_step == 8 * KEEP


def test_what_is_told_while_no_engine_steps_is_held_to_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minivllm.trace.retention.OTHERS_KEPT", 30)
    path = tmp_path / "t.jsonl"
    log = TraceLog(HEADER, str(path), steps=KEEP)
    api = Recorder(log, "api")
    for i in range(500):
        refuse(api, f"q{i}")
        head = log.head_seq("api")
        assert head - log.first_seq("api") <= 30
    names = [e.data.request_id for e in read_trace(path).events if e.kind == "http.done"]
    assert names == [f"q{i}" for i in range(500 - len(names), 500)] and 29 <= len(names) <= 61


def test_no_stream_keeps_more_events_than_it_may_however_few_steps_they_are() -> None:
    config = make_config(**SMALL)
    log = TraceLog(HEADER, steps=30, retention=100)
    core = EngineCore(config, ScriptedExecutor(config, counting_tokens), Recorder(log))
    for _ in busy(core, 40):
        first, head = log.first_seq("engine0"), log.head_seq("engine0")
        events = [decode_event(line) for line in log.lines("engine0", first, head)]
        assert len(events) <= 102 and fold_view(fold(events)) == engine_view(core)


def test_finished_requests_are_forgotten_in_the_end() -> None:
    core = traced(None)
    for _ in busy(core, 700):
        pass
    line = core.trace.log.lines("engine0", 1, 2**62)[0]  # type: ignore[attr-defined]
    assert len(decode_event(line).data.state["requests"]) < 150


def test_viewers_begin_where_the_trace_does(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    core = traced(path)
    for _ in busy(core, 40):
        pass
    trace, history = read_trace(path), RecordedRun(path).history
    assert (history.first, history.last) == (trace.first_step - 1, 40)
    assert "earlier steps were not kept" in history.view(history.first).story.headline
    view = history.view(trace.first_step)
    assert view.story.headline and view.before.requests
    assert history.sources[view.events[-1].src].file
    load_index(path)
    again = read_trace(path)
    assert to_json(again.state_before(39)) == to_json(history.state_before(39))
    with pytest.raises(TraceError, match=r"step 2 was not kept; the trace begins with 3\d"):
        again.state_before(2)
    for command in (["replay"], ["trace", "stats"], ["trace", "cat"]):
        result = CliRunner().invoke(app, [*command, str(path)])
        assert result.exit_code == 0, result.output


def test_snapshot_elsewhere_than_at_the_beginning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for _ in busy(traced(path), 40):
        pass
    header, snapshot, *rest = path.read_bytes().splitlines(keepends=True)
    with pytest.raises(TraceError, match=r"line 12: event \d+ of engine0 where \d+ was due"):
        parse_trace(b"".join([header, snapshot, *rest[:9], snapshot, *rest[9:]]), "t")


def test_restarted_engine_counts_anew_in_a_later_epoch(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    config = make_config(**SMALL)
    log = TraceLog(HEADER, str(path))
    for epoch in (1, 2):
        trace = Recorder(log, epoch=epoch)
        core = EngineCore(config, ScriptedExecutor(config, counting_tokens), trace)
        core.add_request(message("a", 9, max_tokens=4))
        core.step()
    read = read_trace(path)
    assert [e.data.epoch for e in read.events if e.kind == "run.start"] == [1, 2]
    assert fold_view(fold(read.events)) == engine_view(core)
    broken = path.read_bytes().replace(b'{"epoch":2}', b'{"epoch":1}')
    with pytest.raises(TraceError, match="event 1 of engine0 where"):
        parse_trace(broken, "t")


def test_disk_that_fills_up_at_the_rewriting_ends_the_file_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"
    core = traced(path)
    (tmp_path / "t.jsonl.rotating").mkdir()  # so that nothing can be written there
    with caplog.at_level(logging.WARNING):
        for _ in busy(core, 40):
            pass
    assert "the trace file" in caplog.text and read_trace(path).last_step == 2 * KEEP
    assert core.scheduler.current_step == 40


def test_what_is_no_regular_file_is_refused() -> None:
    with pytest.raises(TraceError, match=r"no regular file.*leave --trace-retention out"):
        TraceLog(HEADER, "/dev/null", steps=3)


@pytest.mark.parametrize("knob", [{"retention": 3}, {"redact": True}])
def test_without_a_trace_there_is_nothing_to_keep_or_to_hide(knob: dict[str, object]) -> None:
    config = make_config(**{**SMALL, **knob})
    factory = lambda config: ScriptedExecutor(config, counting_tokens)  # noqa: E731
    with pytest.raises(ConfigError, match="a run that is traced"):
        build(config, executor_factory=factory, tokenizer=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_fewer_than_one_step_cannot_be_kept(steps: object) -> None:
    with pytest.raises(ConfigError, match="retention"):
        make_config(retention=steps)
