"""The recorder: the same bytes for file, history and subscribers; sources before their use."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from minivllm.errors import TraceError
from minivllm.trace.events import HttpDone, ReqError, RunEnd, RunIdle
from minivllm.trace.file import read_trace
from minivllm.trace.recorder import Recorder
from minivllm.trace.tracer import OFF
from tests.core.builders import Engine, recorder
from tests.helpers import events_of


def run_some(engine: Engine) -> Engine:
    engine.add("a", 6, max_tokens=3)
    engine.add("b", 6, max_tokens=3)
    return engine.run()


def test_file_history_and_subscribers_have_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace = recorder(str(path))
    got: list[bytes] = []
    trace.log.subscribe(lambda stream, lines: got.extend(lines))
    for index in range(5):
        trace.emit(ReqError, "r1", message=f"é {index}")
        trace.flush()
    trace.close()
    header, *lines = path.read_bytes().splitlines()
    assert json.loads(header)["run_id"] == "test"
    assert lines == got == trace.log.lines("engine0", 1, trace.seq)
    assert len(read_trace(path).events) == trace.seq == 7, "a start, a source, five errors"


def test_nothing_is_handed_on_before_the_flush() -> None:
    trace = recorder()
    calls: list[int] = []
    trace.log.subscribe(lambda stream, lines: calls.append(len(lines)))
    for _ in range(3):
        trace.emit(RunIdle, None)
    assert calls == [] and trace.log.head_seq("engine0") == 0
    trace.flush()
    trace.flush()  # nothing new: nobody is called
    assert calls == [5] and trace.log.head_seq("engine0") == 5


def test_each_stream_counts_its_own_events(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    engine = recorder(str(path))
    api = engine.sibling("api")
    for _ in range(3):
        engine.emit(RunIdle, None)
        api.emit(HttpDone, None, request_id="a", status=200, bytes=1)
    engine.flush()
    api.flush()
    engine.close()
    trace = read_trace(path)
    by_stream: dict[str, list[int]] = {}
    for event in trace.events:
        by_stream.setdefault(event.stream, []).append(event.seq)
    assert by_stream == {"engine0": [1, 2, 3, 4, 5], "api": [1, 2, 3, 4, 5]}
    assert {event.stream for event in trace.engine_events} == {"engine0"}
    assert sorted(engine.log.streams()) == ["api", "engine0"]


def test_retention_keeps_the_newest_events_and_says_which() -> None:
    trace = recorder(retention=10)
    for _ in range(30):
        trace.emit(RunIdle, None)
        trace.flush()
    log = trace.log
    assert (log.first_seq("engine0"), log.head_seq("engine0")) == (23, 32)
    seqs = [json.loads(line)["seq"] for line in log.lines("engine0", 1, 99)]
    assert seqs == list(range(23, 33))
    assert [json.loads(line)["seq"] for line in log.lines("engine0", 25, 27)] == [25, 26, 27]
    assert log.lines("engine0", 5, 9) == [] and log.lines("nobody", 1, 9) == []


def test_source_is_told_before_its_first_use_and_once(tmp_path: Path) -> None:
    engine = run_some(Engine())
    told: dict[int, Any] = {}
    start, *events = events_of(engine.trace)
    assert (start.kind, start.src) == ("run.start", 0), "no line of the engine decided that"
    for event in events:
        if event.kind == "run.source":
            assert event.data.src not in told, "told twice"
            told[event.data.src] = event.data
        assert event.src in told, f"{event.kind} names a source that is not known yet"


def test_source_shows_the_line_that_took_the_decision() -> None:
    engine = run_some(Engine())
    events = events_of(engine.trace)
    sources = {e.data.src: e.data for e in events if e.kind == "run.source"}
    texts = {source.function: source.text for source in sources.values() if source.text}
    grant = sources[next(e for e in events if e.kind == "sched.grant").src]
    assert grant.file == "minivllm/core/scheduler.py" and "_grant" in grant.function
    lines = texts[grant.function].splitlines()
    assert "ev.SchedGrant" in lines[grant.line - grant.first_line]
    assert lines[0].strip().startswith("def _grant(")


def test_functions_text_is_told_once() -> None:
    trace = recorder()
    trace.emit(RunIdle, None)
    trace.emit(RunIdle, None)
    first, second = [e.data for e in events_of(trace) if e.kind == "run.source"]
    assert inspect.getsource(test_functions_text_is_told_once) == first.text and second.text == ""
    assert (first.line + 1, first.function) == (second.line, second.function)


def test_source_of_somebody_elses_file_does_not_tell_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "my_scheduler.py"
    path.write_text("def decide(trace, kind):\n    trace.emit(kind, None)\n")
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    trace = recorder()
    namespace["decide"](trace, RunIdle)
    source = events_of(trace)[1].data
    assert (source.file, source.function) == ("my_scheduler.py", "decide")
    assert source.text == path.read_text()


def test_times_do_not_run_backwards() -> None:
    times = [event.t_ns for event in events_of(run_some(Engine()).trace)]
    # A source is interned before the event that needs it, whose time is taken later.
    assert times == sorted(times) and times[0] >= 0


def test_unsubscribed_is_not_called_again() -> None:
    trace = recorder()
    calls: list[int] = []
    unsubscribe = trace.log.subscribe(lambda stream, lines: calls.append(1))
    trace.emit(RunIdle, None)
    trace.flush()
    unsubscribe()
    unsubscribe()
    trace.emit(RunIdle, None)
    trace.flush()
    assert calls == [1]


def test_many_threads_may_tell_on_one_stream() -> None:
    api = recorder().sibling("api")

    def tell() -> None:
        for _ in range(200):
            api.emit(HttpDone, None, request_id="a", status=200, bytes=1)
            api.flush()

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in events_of(api)] == list(range(1, api.seq + 1))
    assert api.seq == 4 * 200 + 2


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot write the trace .*nowhere"):
        recorder(str(tmp_path / "nowhere" / "t.jsonl"))


def test_closing_writes_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    trace = recorder(str(path))
    trace.emit(RunEnd, None, steps=0)
    trace.close()
    trace.close()
    assert read_trace(path).events[-1].kind == "run.end"


def test_tracer_that_is_off_tells_nobody() -> None:
    assert OFF.on is False and OFF.text(3) == ""
    OFF.emit(RunIdle, None)
    OFF.flush()
    OFF.close()


def test_text_of_a_token_is_the_tokenizers() -> None:
    assert recorder().text(7) == "<7>"
    trace = Recorder(recorder().log, token_text=lambda token_id, _before: f"t{token_id}")
    assert trace.text(7) == trace.sibling("api").text(7) == "t7"
