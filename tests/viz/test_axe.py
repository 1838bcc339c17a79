"""axe-core finds nothing in any view, theme and size. The views are those that the frame knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from tests.viz.axe import load_axe, violations
from tests.viz.browser import at_step, open_page
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

THEMES = ["dark", "light", "projector"]
SIZES = [(1024, 768), (390, 844)]
BY_THEME = ["color-contrast", "link-in-text-block"]
"""The rules that a theme can break; the others are judged in the first one."""
Look = Callable[[str], None]


@contextmanager
def looked_at(
    browser: Browser, url: str, theme: int = 0, size: tuple[int, int] = (1440, 900)
) -> Iterator[tuple[Page, Look]]:
    """tiny-pressure at step 8, and what lets axe look. Fails at the end with all that was found."""
    found: list[str] = []
    with open_page(browser, size=size, reduced_motion="reduce") as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        page.goto(f"{url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        load_axe(page)
        rules = BY_THEME if theme else []
        yield page, lambda state: found.extend(violations(page, state, *rules))
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def url(tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure], workbench=ScenarioBench()), port=0).start()
    yield server.url
    server.stop()


def names(page: Page, what: str) -> list[str]:
    """Ids of the ``views`` or ``drawers`` that the page knows."""
    found: list[str] = page.evaluate(f"__viz.board.frame.{what}.map((item) => item.id)")
    assert len(found) == len(set(found)) >= 2
    return found


def show(page: Page, view: str) -> None:
    page.evaluate("view => { __viz.board.focus.choose(null); __viz.board.frame.show(view); }", view)
    page.wait_for_selector(f"main.view.{view}")


def why_r4(page: Page) -> None:
    page.evaluate("__viz.board.focus.choose(null); __viz.board.frame.why({req: 'r4'})")


@pytest.mark.parametrize("theme", range(3), ids=THEMES)
def test_each_view_in_each_theme(browser: Browser, url: str, theme: int) -> None:
    """Plain, with a Why card open, with something under the pointer, and as tables."""
    with looked_at(browser, url, theme) as (page, look):
        for view in names(page, "views"):
            show(page, view)
            look(view)
            why_r4(page)
            look(f"{view}, Why card")
            page.evaluate("__viz.board.focus.point({req: 'r1'})")
            look(f"{view}, r1 under the pointer")
            page.evaluate("__viz.board.focus.point(null); __viz.board.open('tables')")
            look(f"{view}, tables")
            page.evaluate("__viz.board.close()")


@pytest.mark.parametrize("theme", range(3), ids=THEMES)
def test_what_opens_over_a_view_in_each_theme(browser: Browser, url: str, theme: int) -> None:
    with looked_at(browser, url, theme) as (page, look):
        for drawer in names(page, "drawers"):
            why_r4(page)
            page.evaluate("id => __viz.board.frame.toggle(id)", drawer)
            look(f"drawer {drawer}")
        page.evaluate("__viz.board.frame.closeDrawer()")
        for panel in ("help", "find", "printing"):
            page.evaluate("panel => __viz.board.open(panel)", panel)
            if panel == "find":
                page.fill(".find", "evict")
            look(panel)
        page.evaluate("__viz.board.close(); __viz.board.knobs.open()")
        page.wait_for_selector(".knob")
        look("knobs")
        page.evaluate("__viz.board.close(); __viz.board.own.open()")
        page.wait_for_selector(".own .knob")
        page.evaluate(
            "__viz.board.own.wrong = {'request.1.own': 'row 1: got 0; allowed: 1'};"
            "__viz.board.changed()"
        )
        look("own scenario, a field of it wrong")
        page.evaluate("__viz.board.close(); __viz.board.fail('It failed.', 'A cause.', true)")
        look("a red problem")
        page.evaluate("__viz.board.fail('It failed.', 'A cause.')")
        look("a problem")


@pytest.mark.parametrize("size", SIZES, ids=[f"{w}x{h}" for w, h in SIZES])
def test_each_view_and_drawer_in_each_size(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    with looked_at(browser, url, size=size) as (page, look):
        for view in names(page, "views"):
            show(page, view)
            look(view)
            why_r4(page)
            look(f"{view}, Why card")
        show(page, "board")
        for drawer in names(page, "drawers"):
            page.evaluate("id => __viz.board.frame.toggle(id)", drawer)
            look(f"drawer {drawer}")
        page.evaluate("__viz.board.frame.closeDrawer(); __viz.board.open('help')")
        look("help")


def test_two_runs_in_compare(browser: Browser, url: str) -> None:
    with looked_at(browser, url) as (page, look):
        show(page, "compare")
        page.evaluate("__viz.board.pair.load('tiny-pressure')")
        page.wait_for_function("() => __viz.board.pair.on")
        look("two runs")


def test_nothing_to_show(
    browser: Browser, serve: Callable[[BoardApp], Server], make_engine: MakeEngine
) -> None:
    """No run at all, then an engine that nobody has asked anything: every view stands empty."""
    app = create_app(workbench=ScenarioBench())
    server = serve(app)
    found: list[str] = []
    with open_page(browser, reduced_motion="reduce") as page:
        page.goto(server.url)
        page.wait_for_selector(".problem")
        load_axe(page)
        found += violations(page, "no run")
        app.attach_engine(make_engine())
        page.goto(f"{server.url}#/run/live")
        page.wait_for_function("() => __viz.board.store?.config && __viz.board.engine.driver")
        load_axe(page)
        for view in names(page, "views"):
            show(page, view)
            found += violations(page, f"{view}, idle")
        page.evaluate("__viz.board.engine.linked = false; __viz.board.changed()")
        show(page, "board")
        found += violations(page, "connection lost")
    assert not found, "\n".join(found)
