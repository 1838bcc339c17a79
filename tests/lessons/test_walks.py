"""Tours and their runs: every step, request, view and answer exists; the runs come again.

What a stop points at, on the page, is tried in a browser: ``tests/viz/test_lessons_page.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from minivllm.errors import ScenarioError
from minivllm.learn.lessons import Lesson, Lessons, find_lessons
from minivllm.scenario import load_scenario, start
from minivllm.trace.events import Event
from minivllm.trace.file import Trace, decode_event, read_trace
from minivllm.trace.gallery import gallery
from minivllm.trace.structural import structural

ROOT = Path(__file__).resolve().parents[2]
LESSONS = find_lessons().all()
WALKED = [lesson for lesson in LESSONS if lesson.tour() is not None]
KNOWN = {"say", "step", "view", "drawer", "select", "point", "ask"}


def tours() -> list[Any]:
    """(name, tour, its recording), of lessons and of the gallery."""
    found = [pytest.param(each.tour(), each.recording, id=each.slug) for each in WALKED]
    for name, path in gallery().items():
        beside = path.parent / f"{name}.tour.json"
        if beside.is_file():
            found.append(pytest.param(json.loads(beside.read_text()), path, id=name))
    return found


def registered(kind: str) -> set[str]:
    pattern = re.compile(rf'^{kind}\(\{{\s*id: "(\w+)"', re.M)
    pages = (ROOT / "viz/static/views").glob("*.js")
    return {name for page in pages for name in pattern.findall(page.read_text())}


def events_of(trace: Trace, step: int) -> list[Event]:
    return [event for event in trace.engine_events if event.step == step]


def test_the_views_of_the_page_are_found() -> None:
    assert {"board", "life", "pool"} <= registered("register")
    assert "source" in registered("registerDrawer")


@pytest.mark.parametrize(("tour", "recording"), tours())
def test_every_step_view_and_selection_of_a_tour_exists(tour: Any, recording: Path) -> None:
    trace = read_trace(recording)
    last = max(event.step for event in trace.engine_events)
    arrived: dict[str, int] = {}
    for event in trace.engine_events:
        if event.kind == "req.arrive":
            arrived[str(event.req)] = event.step
    blocks = next(e.data.num_kv_blocks for e in trace.engine_events if e.kind == "run.config")
    assert len(tour["stops"]) > 1
    for stop in tour["stops"]:
        assert not set(stop) - KNOWN
        assert 0 <= stop["step"] <= last
        assert stop.get("view", "board") in registered("register")
        assert stop.get("drawer") is None or stop["drawer"] in registered("registerDrawer")
        select = stop.get("select") or {}
        assert "req" not in select or arrived[select["req"]] <= stop["step"]
        assert "block" not in select or 0 < select["block"] < blocks


@pytest.mark.parametrize(("tour", "recording"), tours())
def test_every_question_is_answered_by_the_trace_after_it_was_asked(
    tour: Any, recording: Path
) -> None:
    trace = read_trace(recording)
    for stop in tour["stops"]:
        if (ask := stop.get("ask")) is None:
            continue
        of = ask["of"]
        assert of["step"] > stop["step"], "or the page would show the answer"
        answers = [
            str(e.req if of["read"] == "req" else getattr(e.data, of["read"]))
            for e in events_of(trace, of["step"])
            if e.kind == of["kind"] and of.get("req") in (None, e.req)
        ]
        assert answers, ask["words"]
        assert answers[0] in ask.get("choices", answers)
        assert ask["right"] and ask["wrong"]


@pytest.mark.parametrize("lesson", WALKED, ids=lambda lesson: lesson.slug)
def test_a_lesson_can_be_read_in_the_rail(lesson: Lesson) -> None:
    tour = lesson.tour()
    assert tour is not None and lesson.recording is not None and lesson.scenario is not None
    assert all(stop["say"] for stop in tour["stops"])
    assert lesson.title and lesson.title != lesson.slug


@pytest.mark.parametrize(
    "lesson", [each for each in LESSONS if each.recording], ids=lambda lesson: lesson.slug
)
def test_the_golden_run_is_what_its_scenario_runs_twice(lesson: Lesson) -> None:
    """``minivllm trace record lessons/NN-…/scenario.toml -o lessons/NN-…/golden.trace.jsonl``."""
    assert lesson.recording is not None
    golden = structural(read_trace(lesson.recording).engine_events)
    for _ in range(2):
        run = start(load_scenario(str(lesson.scenario))).run()
        log = run.recorder.log
        lines = log.lines("engine0", 1, 2**40)
        assert structural([decode_event(line) for line in lines]) == golden


# --- the folder ----------------------------------------------------------------------------------


def test_a_lesson_is_found_by_its_name_and_by_no_path(tmp_path: Path) -> None:
    inside = tmp_path / "lessons"
    for name in ("01-one", "02-two", "notes", "3-three", "04-UPPER"):
        (inside / name).mkdir(parents=True)
    (inside / "01-one" / "README.md").write_text("# 1 · One\n\ntext")
    (tmp_path / "05-outside").mkdir()
    (inside / "06-link").symlink_to(tmp_path / "05-outside")
    (tmp_path / "secret").write_text("secret")
    (inside / "02-two" / "README.md").symlink_to(tmp_path / "secret")
    lessons = Lessons(inside)
    assert [lesson.slug for lesson in lessons.all()] == ["01-one", "02-two"]
    assert lessons.all()[0].title == "One"
    assert lessons.all()[1].text() == "" and lessons.all()[1].title == "02-two"
    for name in ("../05-outside", "06-link", "notes", "01-one/..", "", "."):
        assert lessons.find(name) is None
    assert Lessons(tmp_path / "nowhere").all() == []


def test_a_scenario_may_be_like_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nlike = "tiny-pressure"\n[engine]\nnum_kv_blocks = 21\n')
    mine, base = load_scenario(str(path)), load_scenario("tiny-pressure")
    assert mine.name == "mine" and mine.request == base.request
    assert mine.engine == {**base.engine, "num_kv_blocks": 21}
    for wrong in ("nowhere", "../tiny-pressure"):
        path.write_text(f'name = "mine"\nlike = "{wrong}"\n')
        with pytest.raises(ScenarioError, match="like: got"):
            load_scenario(str(path))
