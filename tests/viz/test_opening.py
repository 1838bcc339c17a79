"""What can be opened, and when: own files, a run that comes later, addresses gone wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.setup.progress import EngineStatus, StatusBoard
from tests.trace.test_self_check import LEAK, LeakyKVManager, run
from tests.viz.browser import at_step, headline, open_page, still
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser


@pytest.fixture
def board(browser: Browser, app: BoardApp, serve: Callable[[BoardApp], Server]) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{serve(app).url}#/run/tiny-pressure/step/3")
        at_step(page, 3)
        still(page)
        yield page


def choose(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_file_is_opened_in_the_page_and_sent_nowhere(
    packed: bool, board: Page, tiny_pressure: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("Mine.trace.jsonl" + (".gz" if packed else ""))
    data = tiny_pressure.read_bytes()
    path.write_bytes(gzip.compress(data) if packed else data)
    sent: list[str] = []
    board.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    choose(board, path)
    board.wait_for_url("**#/run/mine/step/0")
    board.keyboard.press("End")
    at_step(board, 17)
    assert headline(board).endswith("All requests are done.")
    assert [line for line in sent if not line.endswith("/icon.svg")] == []
    choose(board, path)  # a second one of the same name
    board.wait_for_url("**#/run/mine-2/step/0")
    board.select_option(".picker select", "tiny-pressure")  # and back to the server's own
    board.wait_for_url("**#/run/tiny-pressure/step/0")


def test_a_file_that_is_no_trace_leaves_the_page_as_it_was(board: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"a": 1}\n{"b"')
    choose(board, path)
    board.wait_for_selector(".problem >> text=notes.jsonl cannot be shown.")
    assert "Line 2 is no JSON" in board.inner_text(".problem")
    board.click(".problem >> text=Go on")
    assert board.locator(".problem button").count() == 0
    at_step(board, 3)


def test_a_breach_that_the_engine_told_is_a_red_banner(board: Page, tmp_path: Path) -> None:
    path = tmp_path / "leak.jsonl"
    run(LeakyKVManager, path)
    choose(board, path)
    board.wait_for_url("**#/run/leak/step/0")
    board.wait_for_selector(f".problem.red >> text={LEAK}.")
    board.click(".problem >> text=Go to step 2")
    at_step(board, 2)
    assert headline(board).startswith(f"An invariant is broken: {LEAK}.")


def test_a_file_with_two_lives_of_an_engine_shows_the_last_and_says_so(
    board: Page, tiny_pressure: Path, tmp_path: Path
) -> None:
    header, *lines = tiny_pressure.read_bytes().splitlines(keepends=True)
    eight_steps = lines[: next(i for i, line in enumerate(lines) if b'"step":9' in line)]
    second = [line.replace(b'"epoch":1', b'"epoch":2') for line in eight_steps]
    path = tmp_path / "two.jsonl"
    path.write_bytes(b"".join([header, *lines, *second]))
    choose(board, path)
    board.wait_for_selector(".engines [aria-pressed=true] >> text=2")
    board.keyboard.press("End")
    at_step(board, 8)
    assert board.locator(".problem").count() == 0
    board.click(".engines >> text=1")
    board.wait_for_url("**#/run/two/life/1/step/0")
    board.keyboard.press("End")
    board.wait_for_selector(".problem >> text=Here life 1 of engine 0 ends.")
    board.click(".problem >> text=Go to life 2")
    at_step(board, 0)


def test_a_file_can_be_dropped_on_the_page(board: Page, tiny_pressure: Path) -> None:
    board.evaluate(
        """text => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([text], "dropped.trace.jsonl"));
            const on = { dataTransfer, cancelable: true, bubbles: true };
            if (document.body.dispatchEvent(new DragEvent("drop", on))) throw "not taken";
        }""",
        tiny_pressure.read_text(),
    )
    board.wait_for_url("**#/run/dropped/step/0")


def test_a_link_to_the_live_run_waits_for_the_engine(
    browser: Browser,
    tiny_pressure: Path,
    serve: Callable[[BoardApp], Server],
    make_engine: MakeEngine,
) -> None:
    app = create_app([tiny_pressure], status=StatusBoard(EngineStatus.loading()))
    with open_page(browser) as page:
        page.goto(f"{serve(app).url}#/run/live")
        page.wait_for_selector("text=The engine is not there yet.")
        assert page.locator(".problem >> text=Open tiny-pressure").count() == 1
        app.attach_engine(make_engine())
        page.wait_for_selector(".pill.live")
        page.wait_for_url("**#/run/live")
        assert page.locator("text=The engine is not there yet.").count() == 0


def test_who_opened_another_run_meanwhile_is_not_moved(
    browser: Browser,
    tiny_pressure: Path,
    serve: Callable[[BoardApp], Server],
    make_engine: MakeEngine,
) -> None:
    app = create_app([tiny_pressure], status=StatusBoard(EngineStatus.loading()))
    with open_page(browser) as page:
        page.goto(f"{serve(app).url}#/run/live")
        page.click(".problem >> text=Open tiny-pressure")
        page.wait_for_url("**#/run/tiny-pressure/step/0")
        app.attach_engine(make_engine())
        page.wait_for_function("() => __viz.board.runs.length === 2")
        assert page.evaluate("__viz.board.run.id") == "tiny-pressure"


@pytest.mark.parametrize("address", ["#/%E0%A4%A", "#/%", "#nonsense", "#/run"])
def test_an_address_that_is_malformed_opens_the_first_run(
    address: str, browser: Browser, app: BoardApp, serve: Callable[[BoardApp], Server]
) -> None:
    with open_page(browser) as page:
        page.goto(f"{serve(app).url}{address}")
        at_step(page, 0)
        page.evaluate("location.hash = '#/run/tiny-pressure/step/4/req/%E0%A4%A'")
        at_step(page, 4)


def test_at_the_last_stop_the_tours_button_does_not_promise_another(
    browser: Browser, app: BoardApp, serve: Callable[[BoardApp], Server]
) -> None:
    app.catalogue.add_file(GALLERY)
    with open_page(browser, tour=True, reduced_motion="reduce") as page:
        page.goto(f"{serve(app).url}#/run/tiny-pressure-2")
        page.wait_for_selector(".tour >> text=Play")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(".tour >> text=Next stop")
        page.keyboard.press("End")
        at_step(page, 17)
        assert "Next stop" not in page.inner_text(".tour")
        page.click(".tour >> text=To the end")
        page.wait_for_selector(".end-card")


def test_who_goes_beyond_a_stop_while_the_tour_plays_stays_there(
    browser: Browser, app: BoardApp, serve: Callable[[BoardApp], Server]
) -> None:
    app.catalogue.add_file(GALLERY)
    with open_page(browser, tour=True) as page:
        page.goto(f"{serve(app).url}#/run/tiny-pressure-2")
        page.wait_for_selector(".tour >> text=Play")
        page.evaluate("__viz.clock.byHand()")
        page.keyboard.press("Space")
        page.evaluate("__viz.clock.turn(300)")
        page.keyboard.press("End")
        page.evaluate("__viz.clock.turn(9000)")
        at_step(page, 17)
        page.click(".tour >> text=To the end")
        page.wait_for_selector(".end-card")


GALLERY = Path(__file__).parents[2] / "minivllm" / "gallery" / "tiny-pressure.trace.jsonl"


def test_a_question_is_not_asked_of_who_has_gone_elsewhere(
    browser: Browser, app: BoardApp, serve: Callable[[BoardApp], Server]
) -> None:
    app.catalogue.add_file(GALLERY)
    with open_page(browser, tour=True, reduced_motion="reduce") as page:
        page.goto(f"{serve(app).url}#/run/tiny-pressure-2")
        page.wait_for_selector(".tour >> text=Play")
        page.evaluate("__viz.board.travel.seek(6)")
        page.click(".tour [data-tour=next]")
        page.wait_for_selector(".choices")
        page.keyboard.press("Home")
        at_step(page, 0)
        assert page.locator(".choices").count() == 0
        page.keyboard.press("Escape")  # the tour ends, and what its question hid is there again
        page.keyboard.press("End")
        at_step(page, 17)
