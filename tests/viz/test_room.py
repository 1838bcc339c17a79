"""Room on the page: what is long, selected or new takes none from its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.viz.browser import at_step, open_page, still
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

SERVED = "cmpl-f613e7fddf84492fb83b4a2f6a1c0d9e-0"  # as the server names a request
SIZES = [(1440, 900), (1024, 768), (390, 844)]


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("room") / "tiny-pressure.trace.jsonl"
    path.write_text(tiny_pressure.read_text().replace('"tiny-pressure-4"', f'"{SERVED}"'))
    server = Server(create_app([path]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/12")
        at_step(page, 12)
        still(page)
        yield page


def choose(page: Page, what: dict[str, Any] | None) -> None:
    page.evaluate("what => { __viz.board.focus.choose(what); __viz.draw(); }", what)


def show(page: Page, view: str) -> None:
    page.evaluate("view => { __viz.board.frame.show(view); __viz.draw(); }", view)
    page.wait_for_selector(f".view.{view}")


# A button is where its middle is hit.
HIT = """element => { const r = element.getBoundingClientRect();
    return r.right <= innerWidth && element.contains(document.elementFromPoint(
        r.x + r.width / 2, r.y + r.height / 2)); }"""


def test_a_served_requests_card_is_whole_and_can_be_closed(page: Page) -> None:
    choose(page, {"req": "r4"})
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        card = page.locator(".why")
        assert SERVED in card.inner_text()
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth"), width
        assert card.locator("header .tool").evaluate(HIT), width
        assert page.locator(".why nav a").last.evaluate(HIT), width
        if width >= 700:  # on a phone the drawer takes the card's place
            page.evaluate("__viz.board.frame.toggle('tensors'); __viz.draw()")
            assert page.locator(".drawer header .tool").evaluate(HIT), width
            assert card.locator("header .tool").evaluate(HIT), width
            page.evaluate("__viz.board.frame.closeDrawer(); __viz.draw()")


def test_no_view_is_higher_than_the_window(page: Page) -> None:
    """One pixel too many is a scrollbar, and 15 pixels of width."""
    for view in page.evaluate("__viz.board.frame.views.map(({ id }) => id)"):
        show(page, view)
        assert page.evaluate("document.scrollingElement.scrollHeight <= innerHeight"), view


def test_a_selected_token_takes_no_more_room_than_another(page: Page) -> None:
    choose(page, {"req": "r4"})
    show(page, "life")
    before = page.locator(".tok[data-token='9']").bounding_box()
    choose(page, {"req": "r4", "position": 9})
    chosen = page.locator(".tok.looked")
    assert chosen.get_attribute("data-token") == "9" and before
    box = chosen.bounding_box()
    assert box and box["height"] == before["height"]


INSIDE = """([inner, outer]) => {
    const box = document.querySelector(outer).getBoundingClientRect();
    return [...document.querySelectorAll(inner)].every((element) => {
        const { top, bottom } = element.getBoundingClientRect();
        return top >= box.top - 1 && bottom <= box.bottom + 1;
    });
}"""


def test_the_projector_shows_the_whole_board_at_1440_by_900(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.add_init_script("localStorage.setItem('minivllm.theme', '2')")
        page.goto(f"{url}#/run/tiny-pressure/step/5")
        still(page)
        for step in (5, 8, 13):
            page.evaluate("step => __viz.board.travel.seek(step)", step)
            at_step(page, step)
            assert page.evaluate(INSIDE, ["vz-pool, .free, .queued", "main"]), step
            assert page.evaluate(INSIDE, ["vz-pool", ".pool"]), step
            assert page.evaluate(INSIDE, [".rows li", ".rows"]), step
