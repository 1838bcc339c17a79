"""Trace files: what was written is read; what was broken is named with its line."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minivllm.errors import TraceError
from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from minivllm.trace.file import Trace, load_index, parse_trace, read_trace
from minivllm.trace.fold import apply, fold, from_json, new_state, to_json
from minivllm.trace.index import SNAPSHOT_EVERY, Index, build_index
from minivllm.trace.structural import structural
from tests.helpers import trace_of


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a trace file of tiny-pressure."""
    path = tmp_path_factory.mktemp("traces") / "t.jsonl"
    run = start(load_scenario("tiny-pressure"), trace_path=str(path)).run()
    run.recorder.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def long_trace() -> Trace:
    """More steps than lie between two snapshots, with requests that come and go."""
    scenario = Scenario(
        name="long",
        engine={"num_kv_blocks": 12, "block_size": 4, "max_model_len": 64},
        request=[
            ScenarioRequest(
                arrives=1 + 11 * i, output_tokens=20, prompt_token_ids=list(range(5 + i % 3))
            )
            for i in range(20)
        ],
    )
    return trace_of(start(scenario).run())


def write(tmp_path: Path, raw: bytes, name: str = "t.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(raw)
    return path


# --- reading -----------------------------------------------------------------------------------


def test_file_is_read_as_it_was_told(tmp_path: Path, raw: bytes) -> None:
    trace = read_trace(write(tmp_path, raw))
    again = trace_of(start(load_scenario("tiny-pressure")).run())
    assert structural(trace.events) == structural(again.events)
    assert (trace.header.name, trace.header.fidelity) == ("tiny-pressure", "given")
    assert trace.last_step == 17


def test_packed_file_is_read_too(tmp_path: Path, raw: bytes) -> None:
    packed = read_trace(write(tmp_path, gzip.compress(raw), "t.jsonl.gz"))
    assert packed.events == read_trace(write(tmp_path, raw)).events


def test_step_has_its_inputs_and_ends_with_its_end(raw: bytes) -> None:
    trace = parse_trace(raw, "t")
    for number in range(1, 18):
        kinds = [e.kind for e in trace.steps[number] if e.kind != "run.source"]
        assert kinds[-1] == "step.end" and kinds.count("step.begin") == 1
    arrivals = {
        e.req: step for step, es in trace.steps.items() for e in es if e.kind == "req.arrive"
    }
    assert arrivals == {"r1": 1, "r2": 2, "r3": 3, "r4": 4, "r5": 9}
    assert [e.kind for e in trace.steps[0] if e.kind != "run.source"] == ["run.start", "run.config"]


def test_state_before_a_step_is_the_fold_of_what_came_before(raw: bytes) -> None:
    trace = parse_trace(raw, "t")
    for number in (1, 5, 18):
        before = [e for step in range(number) for e in trace.steps[step]]
        assert to_json(trace.state_before(number)) == to_json(fold(before))


def test_engine_events_leave_the_api_stream_out(raw: bytes) -> None:
    line = json.loads(raw.split(b"\n")[1])
    api = json.dumps({**line, "stream": "api", "seq": 1, "kind": "http.dream", "data": {}}).encode()
    trace = parse_trace(raw + api + b"\n", "t")
    assert len(trace.engine_events) == len(trace.events) - 1
    assert structural(trace.events) == structural(trace.engine_events)


Break = Callable[[bytes], bytes]


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Break:
    return lambda raw: b"\n".join(change(raw.split(b"\n")))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param(lambda raw: b"", "is no trace: its first line must", id="empty"),
        pytest.param(lambda raw: b"\n" + raw, "is no trace", id="blank first line"),
        pytest.param(lambda raw: bytes(range(256)) * 9, "is no trace", id="binary"),
        pytest.param(lambda raw: b"\xff\xfe" + raw, "is no trace", id="byte order mark"),
        pytest.param(lambda raw: b"[1, 2]\n", "is no trace", id="other JSON"),
        pytest.param(lambda raw: b'{"schema": 3}\n', "is no trace", id="schema is a number"),
        pytest.param(lambda raw: raw.partition(b"\n")[2], "is no trace", id="no header"),
        pytest.param(
            lambda raw: raw.replace(b"trace/1.0", b"trace/2.0", 1),
            r"schema .minivllm\.trace/2\.0.; this version reads minivllm\.trace/1\.x",
            id="later major",
        ),
        pytest.param(
            lambda raw: raw.replace(b"trace/1.0", b"trace/10.0", 1), r"trace/10\.0", id="major 10"
        ),
        pytest.param(
            lambda raw: raw.replace(b"minivllm.trace/1.0", b"other/1.0", 1),
            "schema 'other/1.0'",
            id="another schema",
        ),
        pytest.param(lambda raw: raw[:-1], "cut in the middle of a line", id="last newline gone"),
        pytest.param(lambda raw: raw[:-20], "cut in the middle of a line", id="cut"),
        pytest.param(
            lambda raw: raw[: len(raw) // 2].rpartition(b"\n")[0],
            "cut in the middle of a line",
            id="cut after a line, newline gone",
        ),
        pytest.param(
            lines(lambda all: [*all[:9], *all[10:]]),
            r"line 10: event 10 of engine0 where 9 was due; lines are missing or were moved",
            id="line missing",
        ),
        pytest.param(lines(lambda all: [all[0], *all[2:]]), "line 2: event 2", id="first missing"),
        pytest.param(
            lines(lambda all: [*all[:9], all[10], all[9], *all[11:]]), "line 10: ", id="reordered"
        ),
        pytest.param(
            lines(lambda all: [*all[:9], all[9], all[9], *all[10:]]), "line 11: ", id="doubled"
        ),
        pytest.param(
            lines(lambda all: [*all[:9], b"", *all[9:]]), "line 10: not an event", id="blank line"
        ),
        pytest.param(
            lines(lambda all: [*all[:9], b"{}", *all[10:]]), "line 10: not an event", id="no event"
        ),
        pytest.param(
            lines(lambda all: [*all[:9], b"\xff\x00", *all[10:]]), "line 10: not", id="garbage"
        ),
        pytest.param(
            lambda raw: raw.replace(b'"seq":9,', b'"seq":"9",'), "line 10: not", id="wrong type"
        ),
        pytest.param(
            lambda raw: raw.replace(b'"token_id":', b'"token":', 1),
            "not an event .*missing required field `token_id`",
            id="field missing",
        ),
        pytest.param(
            lambda raw: raw.replace(b'"reason":"no_budget"', b'"reason":7', 1),
            "not an event .*reason",
            id="reason that is no word",
        ),
    ],
)
def test_broken_file_is_named_with_its_fault(
    tmp_path: Path, raw: bytes, broken: Break, message: str
) -> None:
    changed = broken(raw)
    assert changed != raw
    with pytest.raises(TraceError, match=f"(?s)^.*t\\.jsonl.*{message}"):
        read_trace(write(tmp_path, changed))


def test_later_minor_version_is_read(tmp_path: Path, raw: bytes) -> None:
    header, rest = raw.split(b"\n", 1)
    later = header.replace(b"trace/1.0", b"trace/1.7").replace(b"{", b'{"planet":"earth",', 1)
    trace = read_trace(write(tmp_path, later + b"\n" + rest))
    assert trace.header.schema == "minivllm.trace/1.7" and trace.last_step == 17


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read the trace .*none: No such file"):
        read_trace(tmp_path / "none")
    with pytest.raises(TraceError, match="cannot read the trace"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    "broken", [lambda z: z[:-9], lambda z: b"", lambda z: b"\x1f\x8b" + z, lambda z: z[2:]]
)
def test_broken_packed_file(tmp_path: Path, raw: bytes, broken: Break) -> None:
    path = write(tmp_path, broken(gzip.compress(raw)), "t.jsonl.gz")
    with pytest.raises(TraceError, match=r"t\.jsonl\.gz"):
        read_trace(path)


def test_trace_without_events_is_a_trace(tmp_path: Path, raw: bytes) -> None:
    trace = read_trace(write(tmp_path, raw.partition(b"\n")[0] + b"\n"))
    assert trace.events == [] and trace.last_step == 0 and trace.steps == {}


# --- index -------------------------------------------------------------------------------------


def steps_in(index: Index) -> int:
    return len(index.lives["engine0"].steps)


def test_snapshot_is_the_state_before_its_step(long_trace: Trace) -> None:
    index = build_index(long_trace, size=0).lives["engine0"]
    assert list(index.snapshots) == [64, 128, 192] and SNAPSHOT_EVERY == 64
    for step, snapshot in index.snapshots.items():
        assert snapshot == to_json(long_trace.state_before(step))


def test_any_step_is_reached_from_the_snapshot_before_it(long_trace: Trace) -> None:
    index = build_index(long_trace, size=0).lives["engine0"]
    events = long_trace.engine_events
    for step in (65, 100, 128, 190, long_trace.last_step):
        nearest = max(s for s in index.snapshots if s <= step)
        state = from_json(json.loads(json.dumps(index.snapshots[nearest])))
        for event in events[index.steps[nearest] : index.steps[step]]:
            apply(state, event)
        assert to_json(state) == to_json(long_trace.state_before(step))


def test_index_points_at_the_first_event_of_each_step(long_trace: Trace) -> None:
    index = build_index(long_trace, size=0).lives["engine0"]
    assert list(index.steps) == list(range(long_trace.last_step + 1))
    for step, position in index.steps.items():
        assert long_trace.engine_events[position] is long_trace.steps[step][0]


def test_index_is_written_beside_the_trace_and_used(tmp_path: Path, raw: bytes) -> None:
    path = write(tmp_path, raw)
    index = load_index(path)
    assert (tmp_path / "t.jsonl.index").is_file() and steps_in(index) == 18
    path.chmod(0o644)
    path.write_bytes(b"x" * len(raw))  # of the same size, but older than the index: not read
    os.utime(path, (0, 0))
    assert load_index(path) == index


@pytest.mark.parametrize("sidecar", [b"", b"{}", b"\xff\xfe\x00", b'{"size": "\xff', b"[1]"])
def test_broken_index_is_made_anew(tmp_path: Path, raw: bytes, sidecar: bytes) -> None:
    path = write(tmp_path, raw)
    expected = load_index(path)
    write(tmp_path, sidecar, "t.jsonl.index")
    assert load_index(path) == expected
    assert (tmp_path / "t.jsonl.index").read_bytes() != sidecar


def test_index_of_a_file_that_has_grown_is_made_anew(tmp_path: Path, raw: bytes) -> None:
    half = raw[: len(raw) // 2].rpartition(b"\n")[0] + b"\n"
    path = write(tmp_path, half)
    shorter = load_index(path)
    path.write_bytes(raw)
    assert steps_in(load_index(path)) == 18 > steps_in(shorter)


def test_index_older_than_a_file_of_the_same_size_is_made_anew(tmp_path: Path, raw: bytes) -> None:
    path = write(tmp_path, raw)
    load_index(path)
    changed = raw.replace(b'"step":17,', b'"step":16,')
    assert len(changed) == len(raw)
    path.write_bytes(changed)
    later = (tmp_path / "t.jsonl.index").stat().st_mtime + 10
    os.utime(path, (later, later))
    assert 17 not in load_index(path).lives["engine0"].steps


def test_index_of_a_broken_trace_is_refused(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(TraceError):
        load_index(write(tmp_path, raw[:-9]))


def test_index_is_given_though_it_cannot_be_written(
    tmp_path: Path, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, raw)
    (tmp_path / "t.jsonl.index").mkdir()  # what stands in its place cannot be written
    assert steps_in(load_index(path)) == 18


def test_state_survives_json(long_trace: Trace) -> None:
    state = long_trace.state_before(100)
    assert to_json(from_json(json.loads(json.dumps(to_json(state))))) == to_json(state)
    assert to_json(new_state()) == to_json(from_json({}))
