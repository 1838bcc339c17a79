"""Runs that do not begin at their beginning, or begin twice, on their way to the page."""

from __future__ import annotations

from pathlib import Path

import msgspec

from minivllm.scenario import load_scenario, start
from minivllm.trace.file import decode_event, read_trace
from minivllm.trace.fold import fold, to_json
from tests.helpers import write_two_lives
from viz.runs import Catalogue, LiveRun


def test_recording_is_handed_on_from_its_snapshot_on(tmp_path: Path) -> None:
    path = tmp_path / "t.trace.jsonl"
    start(load_scenario("tiny-pressure"), trace_path=str(path), retention=4).run()
    catalogue = Catalogue()
    run = catalogue.get(catalogue.add_file(path))
    assert run is not None
    events = read_trace(path).engine_events
    ((_, _, first, head),) = run.lives()
    assert (first, head) == (events[0].seq, events[-1].seq) and first > 100
    lines = run.lines("engine0", first, head)
    assert lines == [msgspec.json.encode(event) for event in events]
    assert run.lines("engine0", head, head + 9) == lines[-1:]
    assert run.lines("engine0", 1, first - 1) == []


def test_snapshot_for_a_late_page_is_right_though_most_events_are_gone() -> None:
    whole = start(load_scenario("tiny-pressure")).run()
    cut = start(load_scenario("tiny-pressure"), retention=2).run()
    catalogue, states = Catalogue(), []
    for name, run in (("whole", whole), ("cut", cut)):
        live = LiveRun(name, run.recorder.log)
        catalogue.put_live(live)
        states.append(catalogue.snapshots(live, "engine0", 1).latest()["state"])
    assert states[0] == states[1]
    log = whole.recorder.log
    events = log.lines("engine0", 1, log.head_seq("engine0"))
    assert states[0] == to_json(fold(decode_event(line) for line in events))


def test_page_is_offered_each_life_whole(tmp_path: Path) -> None:
    two_lives = write_two_lives(tmp_path / "two.jsonl")
    catalogue = Catalogue()
    assert catalogue.add_file(two_lives) == "two"
    (run,) = catalogue.all()
    assert [life.epoch for life in run.lives()] == [1, 2]
    for (stream, life, _, head), steps in zip(run.lives(), (17, 13), strict=True):
        lines = [msgspec.json.decode(line) for line in run.lines(stream, 1, head, life)]
        assert [line["seq"] for line in lines] == list(range(1, head + 1))
        assert max(line["step"] for line in lines) == steps
    assert run.lines("engine0", 1, 9) == run.lines("engine0", 1, 9, life=2)
