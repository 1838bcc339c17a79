"""The projector's page: its sentences are the trace's, its links lead to what they speak of."""

from __future__ import annotations

import json
from pathlib import Path

from minivllm.trace.gallery import gallery
from tests.conftest import ROOT
from viz.access import Access
from viz.projector import DOCS, RUN, as_markdown, ten_minutes
from viz.server import create_app


def test_what_is_said_is_the_headline_that_the_board_shows() -> None:
    table = json.loads((ROOT / "tests/data/tiny-pressure.json").read_text())["steps"]
    expected = [row["headline"] for row in table]
    stops = ten_minutes().stops
    assert len(stops) == 8
    for stop in stops:
        assert stop.say == expected[stop.step - 1]
        assert stop.ask.endswith("?")


def test_whoever_a_link_is_about_is_in_its_sentence_or_its_question() -> None:
    for stop in ten_minutes().stops:
        name = stop.about.replace("req/", "").replace("/", " ")
        assert name in f"{stop.say} {stop.ask}", stop


def test_the_clicker_stops_at_each_link() -> None:
    tour = json.loads(gallery()[RUN].with_name(f"{RUN}.tour.json").read_text())
    stops = [stop if isinstance(stop, int) else stop["step"] for stop in tour["stops"]]
    assert {stop.step for stop in ten_minutes().stops} <= set(stops)


def test_the_page_is_served_to_who_may_look_and_needs_nothing_else(tiny_pressure: Path) -> None:
    app = create_app([tiny_pressure], access=Access("KQ73XA"))
    page = app.test_client().get("/class")
    assert page.status_code == 200 and "<script" not in page.text and "http" not in page.text
    assert page.text.count('href="/#/run/tiny-pressure/step/') == 8
    assert "script-src" not in page.headers["Content-Security-Policy"]
    stranger = app.test_client().get("/class", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert stranger.status_code == 403


def test_where_its_run_is_not_open_the_page_says_how_to_open_it() -> None:
    answer = create_app([]).test_client().get("/class")
    assert answer.status_code == 404 and f"minivllm view {RUN}" in answer.get_json()["error"]


def test_the_copy_in_the_docs_is_the_same() -> None:
    assert DOCS.read_text(encoding="utf-8") == as_markdown(ten_minutes()), (
        "run: python -m viz.projector"
    )
