"""The export for Perfetto opens without a warning (balanced, in order, nested) and is the run."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from minivllm.cli.main import app
from minivllm.errors import ConfigError, TraceError
from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from minivllm.trace.file import Trace
from minivllm.trace.fold import fold
from minivllm.trace.perfetto import chrome_trace
from tests.helpers import trace_of
from tests.two_engines import TwoEngines
from tests.vectors.make import TRACES, VECTORS

Entry = dict[str, Any]


def traces() -> dict[str, Trace]:
    return {
        **{name: trace_of(make()) for name, make in VECTORS.items()},
        **{name: make() for name, make in TRACES.items()},
        "two-engines": TwoEngines().run().trace(),
    }


TRACE_OF = traces()


@pytest.fixture(params=TRACE_OF)
def trace(request: pytest.FixtureRequest) -> Trace:
    return TRACE_OF[request.param]


def complaints(entries: list[Entry]) -> list[str]:
    """What Perfetto's importer would count as an error."""
    found: list[str] = []
    last = -1
    open_async: dict[tuple[object, ...], list[str]] = defaultdict(list)
    open_slices: dict[tuple[int, int], list[int]] = defaultdict(list)  # ends, outermost first
    for entry in entries:
        ph = entry["ph"]
        if ph == "M":
            continue
        if not all(type(entry[name]) is int for name in ("ts", "pid", "tid")):
            found.append(f"not a whole number in {entry}")
        if entry["ts"] < last:
            found.append(f"time runs backwards at {entry}")
        last = entry["ts"]
        if ph in "ben":
            if type(entry["id"]) is not int:
                found.append(f"id of {entry} is no integer")
            track = open_async[entry["pid"], entry["cat"], entry["id"]]
            if ph == "b":
                track.append(entry["name"])
            elif not track:
                found.append(f"{entry} outside any slice")
            elif ph == "e" and track.pop() != entry["name"]:
                found.append(f"{entry} closes another slice")
        elif ph == "X":
            stack = open_slices[entry["pid"], entry["tid"]]
            while stack and stack[-1] <= entry["ts"]:
                stack.pop()
            end = entry["ts"] + entry["dur"]
            if entry["dur"] < 0 or (stack and end > stack[-1]):
                found.append(f"{entry} overlaps what it lies in")
            stack.append(end)
    return found + [f"never closed: {names}" for names in open_async.values() if names]


def test_it_opens_without_a_complaint(trace: Trace) -> None:
    assert complaints(chrome_trace(trace)["traceEvents"]) == []


def test_checker_complains_of_what_is_wrong() -> None:
    good = chrome_trace(TRACE_OF["tiny-pressure"])["traceEvents"]
    slices = [i for i, entry in enumerate(good) if entry["ph"] == "X"]
    begins = [i for i, entry in enumerate(good) if entry["ph"] == "b"]
    for at, change in [
        (slices[1], {"dur": 10**9}),
        (begins[3], {"id": "0x1"}),
        (begins[3], {"ts": 0}),
        (begins[3], {"name": "other"}),
    ]:
        bad = [*good[:at], {**good[at], **change}, *good[at + 1 :]]
        assert complaints(bad), change
    assert complaints(good[: begins[0]] + good[begins[0] + 1 :])


def test_phases_of_a_request_are_its_story() -> None:
    entries = chrome_trace(TRACE_OF["tiny-pressure"])["traceEvents"]
    ids = {e["name"]: e["id"] for e in entries if e["ph"] == "b" and "args" in e}
    assert sorted(ids) == ["r1", "r2", "r3", "r4", "r5"]
    told = [(e["ph"], e["name"]) for e in entries if e.get("id") == ids["r4"]]
    assert [name for ph, name in told if ph == "b"] == [
        "r4",
        "waiting",
        "prefill",
        "decode",
        "preempted",
        "prefill again",
        "decode",
    ]
    assert ("n", "no_free_blocks") in told
    first = next(e for e in entries if e["ph"] == "b" and e["name"] == "r4")
    assert first["args"]["ended"] == "length" and first["args"]["preemptions"] == 1


def test_phases_follow_one_another_without_a_hole(trace: Trace) -> None:
    by_id: dict[int, list[Entry]] = defaultdict(list)
    for entry in chrome_trace(trace)["traceEvents"]:
        if entry["ph"] in "be":
            by_id[entry["id"]].append(entry)
    for first, *inner, last in by_id.values():
        edges = [entry["ts"] for entry in inner]
        if edges:
            assert (edges[0], edges[-1]) == (first["ts"], last["ts"])
        assert edges[1:-1:2] == edges[2:-1:2]


def test_steps_have_their_three_phases_and_counters(trace: Trace) -> None:
    entries = [e for e in chrome_trace(trace)["traceEvents"] if e["pid"] == 1]
    names = [e["name"] for e in entries if e["ph"] == "X" and e["cat"] == "step"]
    ended = [e.step for e in trace.engine_events if e.kind == "step.end"]
    assert names[::4] == [f"step {step}" for step in ended]
    assert names[1:4] == ["schedule", "execute", "update"]
    blocks = [e["args"]["value"] for e in entries if e["name"] == "KV blocks in use"]
    state = fold(trace.engine_events)
    assert len(blocks) == len(ended)
    assert blocks[-1] == sum(block.ref > 0 for block in state.blocks[1:])


arrivals = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=9
)


@settings(max_examples=40, deadline=None)
@given(arrivals, st.integers(0, 400), st.sampled_from([None, 3]))
def test_no_run_wherever_it_is_cut_gives_a_complaint(
    given_arrivals: list[tuple[int, int, int]], cut: int, retention: int | None
) -> None:
    scenario = Scenario(
        name="any",
        engine={"num_kv_blocks": 12, "block_size": 4, "max_model_len": 44, "max_num_seqs": 4},
        request=[
            ScenarioRequest(arrives=at, output_tokens=out, prompt_token_ids=list(range(prompt)))
            for at, prompt, out in given_arrivals
        ],
    )
    run = start(scenario, retention=retention).run()
    trace = trace_of(run)
    trace.events = trace.events[: max(len(trace.events) - cut, 1)]
    assert complaints(chrome_trace(trace)["traceEvents"]) == []


# --- the command -------------------------------------------------------------------------------


def test_command_writes_both_forms(tmp_path: Path) -> None:
    path, out, kv = tmp_path / "t.jsonl", tmp_path / "out.json", tmp_path / "kv.jsonl"
    start(load_scenario("tiny-pressure"), trace_path=str(path)).run().recorder.close()
    command = ["trace", "export", str(path), "--perfetto", str(out), "--kv-events", str(kv)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0 and "ui.perfetto.dev" in result.output
    assert complaints(json.loads(out.read_text())["traceEvents"]) == []
    assert kv.read_text().count("\n") > 5
    with pytest.raises(ConfigError, match="--perfetto FILE or --kv-events FILE"):
        CliRunner().invoke(app, command[:3], catch_exceptions=False)
    bad = [*command[:4], str(tmp_path / "nowhere" / "x.json")]
    with pytest.raises(TraceError, match=r"cannot write .*nowhere"):
        CliRunner().invoke(app, bad, catch_exceptions=False)


def test_export_overwrites_neither_the_trace_nor_the_other_form(tmp_path: Path) -> None:
    path, out = tmp_path / "t.jsonl", tmp_path / "out"
    start(load_scenario("tiny-pressure"), trace_path=str(path)).run().recorder.close()
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for flags in (
        ["--perfetto", str(path)],
        ["--kv-events", str(tmp_path / "link")],
        ["--perfetto", str(out), "--kv-events", str(out)],
    ):
        with pytest.raises(ConfigError, match="another file than"):
            CliRunner().invoke(app, ["trace", "export", str(path), *flags], catch_exceptions=False)
    assert path.read_bytes() == before and not out.exists()


def test_each_engine_and_the_front_end_is_a_process() -> None:
    entries = chrome_trace(TRACE_OF["two-engines"])["traceEvents"]
    named = [e for e in entries if e["name"] == "process_name"]
    assert {e["pid"]: e["args"]["name"] for e in named} == {1: "engine0", 2: "engine1", 3: "api"}
    asked = {e["name"] for e in entries if e["ph"] == "b" and e["pid"] == 3}
    assert asked == {f"cmpl-{letter}" for letter in "abcde"}


def test_an_arrow_leads_from_each_route_to_the_engine_that_was_picked() -> None:
    entries = chrome_trace(TRACE_OF["two-engines"])["traceEvents"]
    begins = {e["id"]: e for e in entries if e["ph"] == "s"}
    ends = {e["id"]: e for e in entries if e["ph"] == "f"}
    assert set(begins) == set(ends) and len(begins) == 6  # one request was sent twice
    assert all(e["pid"] == 3 for e in begins.values())
    assert [e["pid"] for e in ends.values()] == [1, 2, 1, 2, 1, 2]
    assert all(begins[number]["ts"] <= end["ts"] for number, end in ends.items())
    slices = {(e["pid"], e["tid"], e["ts"]) for e in entries if e["ph"] == "X"}
    assert {(e["pid"], e["tid"], e["ts"]) for e in [*begins.values(), *ends.values()]} <= slices
