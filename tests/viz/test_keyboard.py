"""The page by keyboard alone: all is reached and seen, nothing traps, each key has a button."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from tests.viz.browser import at_step, open_page, still
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

CONTROLS = """() => {
  const all = 'a[href], button:enabled, input:enabled, select:enabled, textarea:enabled, summary,'
    + ' [tabindex="0"]';
  const seen = (element) => element.checkVisibility({ visibilityProperty: true })
    && !element.closest('[inert]') && !(element.type === 'radio' && !element.checked);
  window.controls = [...document.querySelectorAll(all)].filter(seen);
  window.reached = new Set();
  window.unseen = [];
  document.activeElement.blur();
  return controls.length;
}"""

# Which of them has the focus now; whether it shows. "": the walk has left the page.
STAND = """() => {
  const element = document.activeElement;
  if (!element || element === document.body) return '';
  if (reached.has(element)) return 'again';
  reached.add(element);
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  if (outlineStyle === 'none' || parseFloat(outlineWidth) < 2) unseen.push(element.outerHTML);
  return element.tagName;
}"""

MISSED = """() => controls.filter((element) => element.isConnected && element.checkVisibility()
  && !reached.has(element)).map((element) => element.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def url(tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure], workbench=ScenarioBench()), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture
def board(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser, reduced_motion="reduce") as page:
        page.goto(f"{url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        still(page)
        yield page


def ids(page: Page, what: str) -> list[str]:
    found: list[str] = page.evaluate(f"__viz.board.frame.{what}.map(({{ id }}) => id)")
    return found


def show(page: Page, view: str) -> None:
    page.evaluate("id => { __viz.board.focus.choose(null); __viz.board.frame.show(id); }", view)
    page.wait_for_selector(f"main.view.{view}")


def walk(page: Page) -> tuple[list[str], list[str]]:
    """Tab through the whole page: controls that were not reached, and those without a mark."""
    count = page.evaluate(CONTROLS)
    assert count > 0
    ends = 0  # it begins anywhere, so it goes once over the end of the page
    for _ in range(2 * count + 20):
        page.keyboard.press("Tab")
        at = page.evaluate(STAND)
        ends += at == ""
        if at == "again" or ends == 2:
            break
    else:
        raise AssertionError("the walk does not end")
    return page.evaluate(MISSED), page.evaluate("unseen")


def test_tab_reaches_every_control_of_every_view_and_shows_where_it_stands(board: Page) -> None:
    for view in ids(board, "views"):
        show(board, view)
        assert walk(board) == ([], []), view


def test_tab_reaches_the_why_card_and_every_drawer(board: Page) -> None:
    for drawer in ids(board, "drawers"):
        board.evaluate("__viz.board.frame.closeDrawer(); __viz.board.focus.chosen = null")
        board.evaluate("__viz.board.frame.why({req: 'r4'})")
        board.evaluate("id => __viz.board.frame.toggle(id)", drawer)
        assert walk(board) == ([], []), drawer


@pytest.mark.parametrize("panel", ["help", "find", "knobs", "tables", "breaks", "more"])
def test_a_dialog_takes_the_focus_keeps_it_and_gives_it_back(board: Page, panel: str) -> None:
    board.focus(".position input")
    opens = "name => (name === 'knobs' ? __viz.board.knobs.open() : __viz.board.open(name))"
    board.evaluate(opens, panel)
    board.wait_for_selector(".dialog")
    assert board.evaluate("document.activeElement.closest('.dialog') !== null")
    if panel == "knobs":
        board.wait_for_selector(".knob")
    missed, unseen = walk(board)
    assert (missed, unseen) == ([], [])
    assert board.evaluate("[...reached].every((element) => element.closest('.dialog'))")
    board.focus(".dialog button")
    board.keyboard.press("Escape")
    board.wait_for_selector(".dialog", state="detached")
    assert board.evaluate("document.activeElement.name") == "step"


def test_escape_closes_the_innermost_first(board: Page) -> None:
    board.evaluate("__viz.board.frame.why({req: 'r4'})")
    board.keyboard.press("t")
    board.focus("vz-pool")
    board.keyboard.press("Enter")
    board.keyboard.press("?")
    there = """() => [Boolean(document.querySelector('.dialog')), __viz.board.focus.cells,
      Boolean(document.querySelector('.drawer')), Boolean(document.querySelector('.why'))]"""
    seen = [board.evaluate(there)]
    for _ in range(4):
        board.keyboard.press("Escape")
        seen.append(board.evaluate(there))
    yes, no = True, False
    assert seen == [
        [yes, yes, yes, yes],
        [no, yes, yes, yes],
        [no, no, yes, yes],
        [no, no, no, yes],
        [no, no, no, no],
    ]


def test_every_grid_has_a_cursor_on_cells_that_is_spoken(board: Page) -> None:
    """Each element that says ``application``: Enter, arrows, Enter chooses, Esc leaves."""
    grids = 0
    for view in ids(board, "views"):
        show(board, view)
        names = "[...document.querySelectorAll('main [role=application]')].map(e => e.localName)"
        for name in board.evaluate(names):
            grids += 1
            grid = f"main {name}[role=application]"
            board.evaluate("__viz.board.focus.choose(null)")
            board.focus(grid)
            board.keyboard.press("Enter")
            assert board.inner_text("#say").startswith("Cursor on"), (view, name)
            first = board.inner_text("#say")
            board.keyboard.press("ArrowDown")
            said = board.inner_text("#say")
            assert said and said != first, (view, name)
            assert board.evaluate("__viz.board.step") == 8
            assert "Esc leaves" in board.inner_text(".detail")
            board.keyboard.press("Enter")
            assert board.evaluate("__viz.board.focus.chosen !== null"), (view, name)
            board.keyboard.press("Escape")
            assert board.inner_text("#say") == "Arrows step again."
            board.keyboard.press("ArrowLeft")
            at_step(board, 7)
            board.keyboard.press("ArrowRight")
            at_step(board, 8)
    assert grids >= 5


def test_each_key_of_the_help_has_a_button(board: Page) -> None:
    board.keyboard.press("?")
    cells: list[str] = board.locator(".help kbd").all_inner_texts()
    single = {key for cell in cells for key in cell.split() if len(key) == 1}
    board.keyboard.press("Escape")
    board.evaluate("__viz.board.open('more')")
    titles: list[str] = board.evaluate(
        "[...document.querySelectorAll('[title]')].map(e => e.title)"
    )
    buttons = {m[1] for title in titles for m in re.finditer(r"\((\S+?)\)$", title)}
    by_field = {"G"}  # the step's field stands in the transport
    only_there = {"B", "E"}  # flips Compare's two runs; the next engine, where there are several
    assert single - buttons - by_field - only_there == set()


def test_with_the_switch_off_single_keys_do_nothing_and_arrows_step(board: Page) -> None:
    board.keyboard.press("?")
    board.uncheck(".help input[type=checkbox]")
    board.keyboard.press("Escape")
    place = """() => { const b = __viz.board; return [b.step, b.frame.id, b.frame.drawerId, b.panel,
      b.player.speed, b.player.playing, b.recall('theme'), b.focus.term, b.predict?.on]; }"""
    before = board.evaluate(place)
    for key in "abcdefghijklmnopqrstuvwxyz/?[].,+-0 ":
        board.keyboard.press("Space" if key == " " else key)
        assert board.evaluate(place) == before, key
    board.keyboard.press("ArrowRight")
    at_step(board, 9)


def test_every_view_with_a_canvas_has_a_twin_as_tables(board: Page) -> None:
    for view in ids(board, "views"):
        show(board, view)
        drawn = board.locator("main canvas").count()
        board.evaluate("__viz.board.open('tables')")
        tables = board.locator(".dialog table").count()
        assert tables or not drawn, view
        board.evaluate("__viz.board.close()")


def test_a_rest_is_told_once_and_d_reads_out_the_state(board: Page) -> None:
    board.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => said.push(document.getElementById('say').textContent))
            .observe(document.getElementById('say'), { childList: true, characterData: true,
              subtree: true });
          __viz.clock.byHand();
          __viz.board.player.speed = 8;
          __viz.board.travel.seek(2);
        }"""
    )
    board.evaluate("new Promise(requestAnimationFrame)")
    board.evaluate("said.length = 0")
    board.keyboard.press("Space")
    for _ in range(8):
        board.evaluate("__viz.clock.turn(125)")
    board.evaluate("new Promise(requestAnimationFrame)")
    assert board.evaluate("said") == [], "while it plays"
    board.keyboard.press("Space")
    board.evaluate("new Promise(requestAnimationFrame)")
    step = board.evaluate("__viz.board.step")
    told: list[Any] = board.evaluate("said")
    assert len(told) == 1 and told[0].startswith(f"Step {step}. ")
    board.keyboard.press("d")
    said = board.inner_text("#say")
    for part in ("Running:", "Waiting:", "Budget:", "Pool:"):
        assert part in said
