"""The worksheet in the browser: from the panel, one page of A4 a sheet, and its refusals."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser

from minivllm.scenario import load_scenario, start
from minivllm.trace.worksheet import make_sheet
from minivllm.trace.worksheet_page import sheet_page
from tests.helpers import trace_of
from tests.viz.browser import at_step, open_page
from tests.viz.test_picture import pages_of
from viz.access import Access
from viz.server import BoardApp, Server, create_app

BROKEN = """() => [...document.querySelectorAll('thead th')].filter((th) => {
  const range = document.createRange();
  range.selectNodeContents(th);
  const lines = range.getClientRects().length;
  return lines > th.textContent.split(' ').length || th.scrollWidth > th.clientWidth;
}).map((th) => th.textContent)"""
"""Headings that are broken inside a word, or stick out."""


def answer(app: BoardApp, **query: str) -> tuple[int, str, str]:
    got = app.test_client().get(f"/api/runs/tiny-pressure/worksheet?{urlencode(query)}")
    return got.status_code, got.get_data(as_text=True), got.headers["Content-Security-Policy"]


def test_the_server_gives_the_sheet_that_is_asked_for(app: BoardApp) -> None:
    status, page, policy = answer(app)
    assert status == 200 and page.count("<section>") == 2
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert answer(app, sheets="filled")[1].count("<section>") == 1
    _, page, _ = answer(app, sheets="blank", ask="free", **{"from": "9", "to": "12"})
    assert "r4 no_free_blocks (need 3, have 2; hit 8)" in page and page.count("15◆ 14◆") == 1
    assert "steps 9 to 12 of 17" in page


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sheets": "three"}, "sheets: got 'three'; allowed: both, blank, filled"),
        ({"ask": "who"}, "ask: got 'who'"),
        ({"from": "x"}, "from: got 'x'; allowed: the number of a step"),
        ({"to": "-1"}, "to: got '-1'"),
        ({"to": "18"}, "a step of this run, 1 to 17"),
        ({"from": "9", "to": "3"}, "a step up to --to, which is 3"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    app: BoardApp, query: dict[str, str], words: str
) -> None:
    status, body, _ = answer(app, **query)
    assert status == 400 and words in body
    assert answer(app, stream="engine7")[0] == 404


def test_a_worksheet_is_for_those_who_may_look(tiny_pressure: Path) -> None:
    closed = create_app([tiny_pressure], access=Access(join_code="abc", code_for_all=True))
    assert answer(closed)[0] == 403


@pytest.mark.browser
def test_a_sheet_is_one_page_whatever_the_run(browser: Browser) -> None:
    with open_page(browser) as page:
        for scenario, last in [
            ("tiny-pressure", None),
            ("memory-pressure", 26),
            ("mixed-lengths", 14),
            ("shared-system-prompt", 8),
        ]:
            trace = trace_of(start(load_scenario(scenario)).run())
            page.set_content(sheet_page(make_sheet(trace, 1, last), [True, False]))
            pages = pages_of(page.pdf(prefer_css_page_size=True))
            assert len(pages) == 2, scenario
            assert page.evaluate(BROKEN) == [], scenario
            assert all(w > h for w, h in pages)


@pytest.mark.browser
def test_the_panel_opens_it(browser: Browser, app: BoardApp) -> None:
    server = Server(app, port=0).start()
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        page.keyboard.press("i")
        page.get_by_label("to step", exact=True).fill("40")
        page.get_by_role("button", name="Open the worksheet").click()
        notice = page.locator(".printing .notice")
        page.wait_for_function("() => document.querySelector('.printing .notice').textContent")
        assert notice.inner_text() == "to step: got “40”; allowed: 1 to 17"
        page.get_by_label("to step", exact=True).fill("12")
        page.get_by_label("budget", exact=True).uncheck()
        with page.expect_popup() as opened:
            page.get_by_role("button", name="Open the worksheet").click()
        sheet = opened.value
        sheet.wait_for_load_state()
        assert sheet.locator("section").count() == 2
        first = sheet.locator(".blank tbody tr").first.locator("td")
        assert first.all_inner_texts() == ["r1", "", "", "12", "", "", ""]
        assert (
            sheet.evaluate("getComputedStyle(document.querySelector('.steps')).tableLayout")
            == "fixed"
        )
    server.stop()
