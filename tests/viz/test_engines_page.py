"""The page with several engines: the selector, a restart under it, a link to a request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.trace.events import EngineDrain, EngineResume, EngineWhy
from tests.two_engines import TwoEngines, write_two_engines
from tests.viz.browser import at_step, open_page
from tests.viz.test_several_engines import Server as Played
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]


@pytest.fixture
def played() -> TwoEngines:
    server = TwoEngines()
    server.start(0)
    server.start(1)
    server.ask("cmpl-a", [1, 2, 3, 4, 5], engine=0)
    server.ask("cmpl-b", list(range(20, 32)), engine=1)
    server.step(0)
    server.step(1, 2)
    return server


@pytest.fixture
def live(serve: Serve, played: TwoEngines) -> Server:
    app = create_app()
    server = serve(app)
    app.attach_engine(Played(played))  # type: ignore[arg-type]
    return server


@pytest.fixture
def recorded(serve: Serve, tmp_path: Path) -> Server:
    return serve(create_app([write_two_engines(tmp_path / "two.trace.jsonl")]))


def shows(page: Page, engine: int, life: int, step: int) -> None:
    page.wait_for_function(
        "at => Object.values(window.__viz?.board.at ?? {}).join() === at",
        arg=f"engine{engine},{life}",
    )
    at_step(page, step)


def pressed(page: Page) -> list[str]:
    return page.locator(".engines [aria-pressed=true]").all_inner_texts()


def test_engines_are_chosen_by_key_and_button_and_stand_in_the_address(
    browser: Browser, recorded: Server
) -> None:
    with open_page(browser) as page:
        page.goto(f"{recorded.url}#/run/two")
        shows(page, 0, 1, 0)
        page.keyboard.press("End")
        at_step(page, 13)
        page.keyboard.press("e")
        shows(page, 1, 2, 0)
        assert pressed(page) == ["engine 1", "2"]
        page.wait_for_url("**#/run/two/engine/1/step/0")
        page.click(".engines [aria-label='life 1 of engine 1']")
        shows(page, 1, 1, 0)
        page.wait_for_url("**#/run/two/engine/1/life/1/step/0")
        page.keyboard.press("End")
        page.wait_for_selector(".problem >> text=Engine 1 died here: it was killed by signal 9.")
        page.keyboard.press("ArrowLeft")
        at_step(page, 1)
        assert page.locator(".problem").count() == 0
        page.wait_for_url("**#/run/two/engine/1/life/1/step/1")
        page.reload()
        shows(page, 1, 1, 1)
        page.evaluate("location.hash = '#/run/two/engine/0/step/4'")
        shows(page, 0, 1, 4)
        assert page.locator(".running .chip").count() == 2


def test_why_card_tells_which_engine_a_request_went_to_and_why(
    browser: Browser, recorded: Server
) -> None:
    with open_page(browser) as page:
        page.goto(f"{recorded.url}#/run/two/engine/0/step/4/req/r2")
        at_step(page, 4)
        assert "it holds so much of the prompt in its prefix cache" in page.inner_text(".why")
        rows = page.locator(".why .route tbody tr").all_inner_texts()
        assert [row.split("\t") for row in rows] == [["0 ✓", "1", "1", "12"], ["1", "1", "1", "0"]]


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_link_of_an_answer_leads_to_the_engine_and_the_request(
    browser: Browser, recorded: Server, size: tuple[int, int]
) -> None:
    with open_page(browser, size=size) as page:
        page.goto(f"{recorded.url}#/run/two?request=cmpl-e")
        shows(page, 1, 2, 1)
        page.wait_for_url("**#/run/two/engine/1/step/1/req/r1")
        assert page.inner_text(".why h2 small") == "cmpl-e"
        # Nothing of the page is wider than the screen, and no control lies outside.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = [box.bounding_box() for box in page.locator(".bar > *, .engines .tool").all()]
        assert all(box["x"] + box["width"] <= size[0] for box in boxes if box and box["width"])


def test_link_to_a_request_that_nobody_knows_is_told(browser: Browser, recorded: Server) -> None:
    with open_page(browser) as page:
        page.goto(f"{recorded.url}#run=two&request=cmpl-z")
        page.wait_for_selector(".problem >> text=There is no request “cmpl-z” here.")
        page.goto(f"{recorded.url}#/run/two/engine/7")
        page.wait_for_selector(".problem >> text=There is no engine 7.")
        shows(page, 0, 1, 0)
        page.click(".problem >> text=Go on")
        assert page.locator(".problem button").count() == 0


def test_who_stands_at_the_head_goes_along_to_the_next_life_of_an_engine(
    browser: Browser, live: Server, played: TwoEngines
) -> None:
    with open_page(browser) as page:
        page.goto(f"{live.url}#/run/live/engine/1")
        shows(page, 1, 1, 2)
        played.kill(1, retried=0, failed=1)
        page.wait_for_selector(".problem >> text=Engine 1 died here: it was killed by signal 9.")
        assert page.locator(".engines >> text=dead").count() == 1
        played.start(1, epoch=2, why=EngineWhy.DEATH)
        shows(page, 1, 2, 0)
        assert "Engine 1 was started anew. This is its life 2." in page.inner_text(".problem")
        played.ask("cmpl-c", [1, 2, 3], engine=1)
        played.step(1)
        at_step(page, 1)
        assert page.inner_text(".running .tail").startswith(" w1 w2 w3")
        page.click(".problem >> text=See how life 1 ended")
        page.wait_for_url("**/engine/1/life/1/step/*")
        page.keyboard.press("End")
        at_step(page, 2)
        assert page.evaluate("__viz.board.store.violated") == []


def test_who_reads_the_past_stays_there_and_is_offered_the_next_life(
    browser: Browser, live: Server, played: TwoEngines
) -> None:
    with open_page(browser) as page:
        page.goto(f"{live.url}#/run/live/engine/1/step/1")
        shows(page, 1, 1, 1)
        played.kill(1, retried=0, failed=1)
        played.start(1, epoch=2, why=EngineWhy.DEATH)
        page.wait_for_selector(".engines .lives")
        shows(page, 1, 1, 1)
        assert page.locator(".problem").count() == 0
        page.keyboard.press("ArrowRight")
        at_step(page, 2)
        page.click(".problem >> text=Go to life 2")
        shows(page, 1, 2, 0)


def test_other_engines_go_on_under_a_page_that_shows_one(
    browser: Browser, live: Server, played: TwoEngines
) -> None:
    with open_page(browser) as page:
        page.goto(f"{live.url}#/run/live")
        shows(page, 0, 1, 1)
        played.step(1, 3)
        played.step(0, 2)
        at_step(page, 3)
        page.click(".engines >> text=engine 1")
        shows(page, 1, 1, 5)
        page.keyboard.press("e")
        shows(page, 0, 1, 3)
        played.api.emit(EngineDrain, None, engine=0, epoch=1, open_requests=1)
        played.api.flush()
        page.wait_for_selector(".problem >> text=Engine 0 is drained: it gets no new requests.")
        assert page.locator(".engines >> text=draining").count() == 1
        played.api.emit(EngineResume, None, engine=0, epoch=1)
        played.api.flush()
        page.wait_for_function("() => !document.querySelector('.problem')")


def test_reconnected_page_has_all_of_its_engine(
    browser: Browser, live: Server, played: TwoEngines
) -> None:
    with open_page(browser) as page:
        page.goto(f"{live.url}#/run/live/engine/1")
        shows(page, 1, 1, 2)
        page.evaluate("__viz.board.engine.channel.socket.disconnect()")
        page.wait_for_selector(".problem.red")
        played.step(1, 2)
        page.evaluate("__viz.board.engine.channel.socket.connect()")
        shows(page, 1, 1, 4)
        page.evaluate("__viz.board.engine.channel.socket.disconnect()")
        played.kill(1, retried=0, failed=1)
        played.start(1, epoch=2, why=EngineWhy.DEATH)
        page.evaluate("__viz.board.engine.channel.socket.connect()")
        shows(page, 1, 2, 0)


def test_a_file_of_several_engines_is_read_in_the_page(
    browser: Browser, recorded: Server, tmp_path: Path
) -> None:
    path = write_two_engines(tmp_path / "own.trace.jsonl")
    with open_page(browser) as page:
        page.goto(recorded.url)
        shows(page, 0, 1, 0)
        page.set_input_files("#file", path)
        page.wait_for_url("**#/run/own/engine/0/step/0")
        page.keyboard.press("e")
        shows(page, 1, 2, 0)
        page.evaluate("location.hash = '#run=own&request=cmpl-b'")
        shows(page, 1, 1, 1)
        assert page.inner_text(".why h2 small") == "cmpl-b"
        page.evaluate("location.hash = '#run=own&request=cmpl-z'")
        page.wait_for_selector(".problem >> text=There is no request “cmpl-z” here.")
        shows(page, 0, 1, 0)
