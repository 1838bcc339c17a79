"""One selection in a real browser: what is chosen in one view is shown in every other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import minivllm
from tests.viz.browser import at_step, open_page, still
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

RECORDING = Path(minivllm.__file__).parent / "gallery" / "tiny-pressure.trace.jsonl"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = Server(create_app([RECORDING]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def page(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/12")
        at_step(page, 12)
        still(page)
        yield page


def go(page: Page, url: str, place: str, step: int) -> None:
    page.goto(f"{url}#/run/tiny-pressure/{place}")
    at_step(page, step)


def show(page: Page, view: str) -> None:
    page.evaluate("view => __viz.board.frame.show(view)", view)
    page.wait_for_selector(f".view.{view}")


def settled(page: Page) -> None:
    """What a new view measured of itself has been drawn."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"  # noqa: E501
    )


def chosen(page: Page) -> Any:
    return page.evaluate("__viz.board.focus.chosen")


def test_a_token_is_chosen_in_its_row_and_every_view_shows_it(page: Page, url: str) -> None:
    go(page, url, "step/12", 12)
    strip = page.locator("vz-strip[data-req=r4]")
    x = page.evaluate(
        """() => { const s = document.querySelector('vz-strip[data-req=r4]');
        const { cell, gap } = s.data.cells; return cell * 8.5 + 2 * gap; }"""
    )
    strip.click(position={"x": x, "y": 8})
    page.wait_for_url("**/step/12/req/r4/token/9")
    assert chosen(page) == {"req": "r4", "position": 8}
    assert page.evaluate("document.querySelector('vz-strip[data-req=r4]').data.mark") == 8
    slot = {"block": 5, "offset": 0}  # r4's third block at step 12 is 5
    assert page.evaluate("document.querySelector('vz-pool').data.slot") == slot
    card = page.inner_text(".why")
    assert "token 9, output 1" in card and "slot 20: block 5, offset 0" in card
    assert "drawn (5), computed (6), computed again (12)" in " ".join(card.split())
    assert page.evaluate("[...document.querySelector('vz-scrub').data.hits]") == [5, 6, 12]
    show(page, "pool")
    assert page.evaluate("document.querySelector('.pool vz-pool').data.slot") == slot
    show(page, "life")
    assert page.locator(".tok.looked").get_attribute("data-token") == "8"
    assert page.evaluate("document.querySelector('vz-stair').data.token") == 8
    show(page, "timeline")
    assert page.evaluate("[...document.querySelector('vz-cells').data.hits]") == [5, 6, 12]
    page.keyboard.press("t")
    looked = page.locator(".flat .looked")
    assert looked.all_inner_texts()[1:3] == ["", "8"] or "8" in looked.all_inner_texts()
    assert page.evaluate(
        "new Set([...document.querySelectorAll('.flat .looked')].map(td => td.cellIndex)).size"
    ) == 1  # fmt: skip
    page.keyboard.press("Escape")
    show(page, "lens")
    assert "r4" in page.inner_text(".lens-head h2")
    page.reload()
    at_step(page, 12)
    assert chosen(page) == {"req": "r4", "position": 8}


def test_a_cell_of_the_batch_chooses_its_token_and_its_block_row_the_block(
    page: Page, url: str
) -> None:
    go(page, url, "step/12?drawer=tensors", 12)
    rows = page.locator(".flat tr")
    rows.nth(3).locator("td").nth(5).click()  # positions
    assert chosen(page) == {"req": "r4", "position": 8}
    rows.nth(5).locator("td").nth(5).click()  # block : offset
    assert chosen(page) == {"block": 5}


def test_an_event_is_chosen_from_a_card_and_lights_its_block_its_line_and_its_step(
    page: Page, url: str
) -> None:
    go(page, url, "step/10/req/r1", 10)
    page.click(".told-here >> text=kv.evict")
    page.wait_for_url("**/told/engine0.*")
    card = page.inner_text(".why")
    assert (
        "kv.evict" in card and "Block 15: evicted for r1: what r4 left there is forgotten" in card
    )
    assert page.evaluate("__viz.board.focus.target") == {"req": "r1", "block": 15}
    assert page.evaluate("[...document.querySelector('vz-scrub').data.hits]") == [10]
    page.keyboard.press("ArrowRight")  # the cursor moves on, the event stays what it was
    at_step(page, 11)
    assert "in step 10" in page.inner_text(".why") and "step 10, event" in page.inner_text(
        ".detail"
    )
    page.keyboard.press("s")
    assert "kv.evict" in page.inner_text(".drawer .at")
    assert "BlockPool" in page.inner_text(".drawer .where")
    page.reload()
    at_step(page, 11)
    assert page.inner_text(".why h2").startswith("kv.evict")
    page.keyboard.press("Escape")


def test_a_line_is_chosen_in_the_source_and_its_steps_are_marked(page: Page, url: str) -> None:
    go(page, url, "step/8?drawer=source", 8)
    page.click(".code .current button")
    page.wait_for_url("**/line/minivllm**")
    assert page.evaluate("[...document.querySelector('vz-scrub').data.hits]") == [8]
    card = page.inner_text(".why")
    assert "In this step this branch was taken once: it told sched.victim." in card
    page.keyboard.press("Escape")
    show(page, "timeline")
    assert page.evaluate("[...document.querySelector('vz-cells').data.hits]") == [8]
    page.reload()
    at_step(page, 8)
    assert page.inner_text(".why h2").startswith("scheduler.py:")


def test_every_gap_can_be_asked(page: Page, url: str) -> None:
    go(page, url, "step/2", 2)
    page.click(".waiting .queue button")
    assert "Everyone who has come was admitted" in page.inner_text(".why")
    page.click(".done .queue button")
    assert "none has all it asked for" in page.inner_text(".why")
    go(page, url, "step/17", 17)
    page.click(".running .rows >> text=nobody")
    assert "All 5 requests that came are done." in page.inner_text(".why")
    page.click(".unused button")
    assert "nothing waits" in page.inner_text(".why").lower()
    # A flat of the stair: the step in which it waits, and why.
    go(page, url, "step/16/req/r4?view=life", 16)
    settled(page)
    at = page.evaluate(
        """() => { const { data } = document.querySelector('vz-stair');
        const c = data.layout.columns.find(c => c.item.column?.step === 9);
        return { x: c.x + c.width / 2, y: data.layout.height - 8 }; }"""
    )
    page.click("vz-stair", position=at)
    at_step(page, 9)
    card = page.inner_text(".why")
    assert "no_free_blocks" in card and "Its 11 tokens need 3 blocks; 2 are free." in card
    # A hole in the timeline: a request's own step in which it did not run.
    go(page, url, "step/16?view=timeline", 16)
    settled(page)
    at = page.evaluate(
        """() => { const c = document.querySelector('vz-cells');
        const { gutter, lane, lanes, rows } = c.data;
        const { at } = rows.find(({ row }) => row.req === 'r5');
        return { x: gutter + (c.axis.x(11) + c.axis.x(12)) / 2,
                 y: c.clientHeight - 8 - (lanes - at - 0.5) * lane }; }"""
    )
    page.click("vz-cells", position=at)
    at_step(page, 11)
    assert "Stands behind r4" in page.inner_text(".why")
