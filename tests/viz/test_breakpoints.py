"""Breakpoints: a recording that is played stops at the event, a live engine is held there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.viz.axe import load_axe, violations
from tests.viz.browser import at_step, open_page, still
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

PLACE = "[__viz.board.step, __viz.board.player.event, __viz.board.player.playing]"
STOPPED_AT = """() => {
  const { step, event } = __viz.board.player;
  return __viz.board.store.eventsOf(step)[event - 1].kind;
}"""


@pytest.fixture(scope="module")
def url(tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture
def board(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/4")
        at_step(page, 4)
        still(page)
        yield page


def switch(page: Page, words: str) -> None:
    page.keyboard.press("w")
    page.click(f".breaks .switches button:has-text('{words}')")
    page.keyboard.press("Escape")


def play(page: Page) -> None:
    """Space, and the clock turned until play has ended."""
    page.evaluate("__viz.clock.byHand()")
    page.keyboard.press("Space")
    for _ in range(40):
        page.evaluate("__viz.clock.turn(2000)")
    assert page.evaluate(PLACE)[2] is False


def test_play_stops_at_the_event_of_a_switched_mark_and_goes_on_from_there(board: Page) -> None:
    switch(board, "eviction")
    switch(board, "preemption")
    assert "stops 2" in board.inner_text(".transport")
    seen = []
    for _ in range(7):
        play(board)
        step, event, _ = board.evaluate(PLACE)
        seen.append((step, board.evaluate(STOPPED_AT) if event else None))
        if event:
            assert "stopped at" in board.inner_text(".also")
    evicted, victim = "kv.evict", "sched.victim"
    stops = [(6, evicted), (8, victim), (10, evicted), (12, evicted), (12, evicted), (14, evicted)]
    assert seen == [*stops, (17, None)]
    said = board.inner_text("#say")
    assert said.startswith("Step 17")


def test_next_and_previous_breakpoint_by_key_and_the_rest_of_the_step_by_arrow(board: Page) -> None:
    board.keyboard.press(".")  # none is set: the panel opens
    assert "none yet" in board.inner_text(".dialog")
    board.fill(".breaks input", "no_free_blocks r4")
    board.keyboard.press("Enter")
    assert board.locator(".breaks li code").all_inner_texts() == ["no_free_blocks r4"]
    assert "3 steps of 17 have one" in board.inner_text(".breaks .notice")
    board.keyboard.press("Escape")
    for step in (9, 10, 11):
        board.keyboard.press(".")
        assert board.evaluate(PLACE)[0] == step
        assert board.evaluate(STOPPED_AT) == "sched.skip"
    board.keyboard.press(".")
    assert board.evaluate(PLACE)[0] == 11
    assert board.inner_text("#say") == "No breakpoint lies ahead."
    board.keyboard.press(",")
    assert board.evaluate(PLACE)[0] == 10
    assert board.inner_text("#say").startswith("Stopped at no_free_blocks r4. Step 10.")
    board.keyboard.press("ArrowRight")
    assert board.evaluate(PLACE)[:2] == [10, None]


def test_words_that_name_nothing_are_refused_with_what_is_allowed(board: Page) -> None:
    board.keyboard.press("w")
    board.fill(".breaks input", "whenever")
    board.keyboard.press("Enter")
    notice = board.inner_text(".breaks .notice")
    assert "“whenever” names nothing" in notice and "FILE:LINE" in notice
    assert board.evaluate("__viz.board.breaks.list.length") == 0


def test_a_line_of_the_source_is_a_breakpoint_too_and_stands_on_the_scrubber(board: Page) -> None:
    board.keyboard.press("s")
    board.click(".code .now button >> nth=0")
    board.click("text=Stop at this line")
    assert board.get_attribute("text=Stop at this line", "aria-pressed") == "true"
    words = board.evaluate("__viz.board.breaks.list[0].words")
    file, line = words.rsplit(":", 1)
    assert file.endswith(".py") and int(line) > 0
    assert board.evaluate("document.querySelector('vz-scrub').data.stops.size") > 0
    board.focus("vz-scrub")  # Space on a button is the button's
    play(board)
    at = board.evaluate(
        """() => {
          const { store, player } = __viz.board;
          const event = store.eventsOf(player.step)[player.event - 1];
          const { file, line } = store.sources.get(event.src);
          return [file, line];
        }"""
    )
    assert at == [file, int(line)]


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["1440", "390"])
def test_the_panel_has_no_axe_findings(browser: Browser, url: str, size: tuple[int, int]) -> None:
    with open_page(browser, size=size) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/8/req/r4")
        at_step(page, 8)
        load_axe(page)
        page.keyboard.press("w")
        page.fill(".breaks input", "skip")
        page.keyboard.press("Enter")
        page.click("text=any event of r4")
        assert violations(page, "breakpoints") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_drivers_engine_is_held_at_a_breakpoint_inside_its_step(
    browser: Browser, serve: Callable[[BoardApp], Server], make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine(paused=True)
    server = serve(app)
    app.attach_engine(engine)
    engine.submit("one two three four five", max_tokens=4)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector(".waiting .chip >> text=r1")
        page.wait_for_function("() => __viz.board.engine.driver && __viz.board.travel.steers")
        still(page)
        switch(page, "finish")
        page.click("main")
        page.keyboard.press("Space")
        page.wait_for_selector("text=held inside step 4")
        assert engine.gate.held is not None and engine.gate.held.event is not None
        assert engine.gate.held.event.kind == "req.finish"
        assert "req.finish r1" in page.inner_text(".also")
        assert page.inner_text(".pill.live").endswith("LIVE · paused")
        page.keyboard.press("Shift+ArrowRight")  # the engine makes one more event
        page.wait_for_function(
            "() => !/req.finish/.test(document.querySelector('.also').textContent)"
        )
        assert engine.gate.mode == "pause"
        page.keyboard.press(".")  # runs until the next one: nothing comes
        page.wait_for_function("() => __viz.board.idle")
        assert page.evaluate("__viz.board.lastStep") == 4


def test_a_step_is_passed_once_and_where_one_driver_holds_the_engine_the_other_sees(
    browser: Browser, serve: Callable[[BoardApp], Server], make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine(paused=True)
    server = serve(app)
    app.attach_engine(engine)
    engine.submit("one two three four five", max_tokens=12)
    with open_page(browser) as page, open_page(browser) as other:
        for each in (page, other):
            each.goto(f"{server.url}#/run/live")
            each.wait_for_selector(".waiting .chip >> text=r1")
            each.wait_for_function("() => __viz.board.engine.driver && __viz.board.travel.steers")
            still(each)
        page.evaluate("__viz.board.breaks.toggle('step 3')")
        page.keyboard.press("Space")
        page.wait_for_selector("text=held inside step 3")
        assert "another page" not in page.inner_text(".also")
        other.wait_for_selector(".also >> text=stopped by another page at “step 3”")
        other.keyboard.press("w")
        assert "stopped by another page at “step 3”" in other.inner_text("[data-others]")
        page.keyboard.press("Space")  # that step is behind it: on to the end
        page.wait_for_function("() => __viz.board.idle && __viz.board.lastStep > 5")
        other.wait_for_function("() => !__viz.board.breaks.ofOthers")


def test_an_engine_that_does_not_keep_the_pace_it_was_asked_says_its_own(
    browser: Browser, serve: Callable[[BoardApp], Server], make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    engine.gate.rate = 100.0
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_function("() => __viz.board.engine.driver && __viz.board.store?.config")
        words = """rate => {
          const { board } = __viz;
          board.idle = false;
          board.pace.begun = [0, 1, 2, 3].map((k) => (k * 1e9) / rate);
          return board.pill.text;
        }"""
        assert page.evaluate(words, 12.5) == "LIVE · 12.5 of 100 steps/s"
        assert page.evaluate(words, 99) == "LIVE · 100 steps/s"
