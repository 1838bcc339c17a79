"""The KV pool in a real browser: four columns that say the same, of few blocks and of many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.scenario import load_scenario, start
from tests.viz.browser import at_step, open_page, still
from tests.viz.crowd import record_crowd
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

TABLE = json.loads((Path(__file__).parents[1] / "data" / "tiny-pressure.json").read_text())


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pool")
    bare = folder / "no-caching.trace.jsonl"
    run = start(
        load_scenario("tiny-pressure"), trace_path=str(bare), enable_prefix_caching=False
    ).run()
    run.recorder.close()
    crowd = record_crowd(folder / "crowd.trace.jsonl")
    server = Server(create_app([tiny_pressure, bare, crowd]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def pool(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/12?view=pool")
        at_step(page, 12)
        still(page)
        yield page


def go(page: Page, step: int) -> None:
    page.evaluate("step => { __viz.board.focus.clear(); __viz.board.travel.seek(step); }", step)
    page.mouse.move(2, 2)
    at_step(page, step)


def data(page: Page, element: str, what: str) -> Any:
    return page.evaluate(f"(name) => document.querySelector(name).data.{what}", element)


def tree(page: Page) -> list[str]:
    """``--3 Why is the sky``; what is gone has a ✕."""
    return page.evaluate(
        """() => { const { rows, text } = document.querySelector("vz-prefixes").data;
        return rows.map(r => "-".repeat(r.depth) + r.blocks.join("+") + (r.gone ? "✕ " : " ")
            + text(r.hash)); }"""
    )


def test_step_12_is_drawn_as_the_board_says(pool: Page) -> None:
    go(pool, 12)
    tables = data(pool, "vz-tables", "rows.map(r => [r.req, r.table])")
    assert tables == [["r3", [7, 8, 9, 11, 12, 13, 6, 15]], ["r4", [14, 10, 5]]]
    words = "rows.map(r => document.querySelector('vz-tables').data.words(r))"
    assert data(pool, "vz-tables", words) == ["token 29 runs", "1–4 reused, 5–11 run"]
    faces = data(pool, "vz-pool", "faces.map(f => f.marks + (f.hashed ? '◆' : ''))")
    assert faces == [
        *("◆", "◆", "◆", "◆", "✕+"),
        *("◆", "◆", "◆", "◆", "✕+◆"),
        *("◆", "◆", "◆", "↺◆", "+"),
    ]
    assert data(pool, "vz-pool", "layout.detail") == "words"
    assert data(pool, "vz-pool", "layout.columns") == 5
    said = "faces.slice(0, 4).map(f => document.querySelector('vz-pool').data.words(f).join(''))"
    assert data(pool, "vz-pool", said)[2] == " Why is the sky"
    assert data(pool, "vz-queue", "free") == [4, 3, 2, 1]
    assert tree(pool)[:4] == [
        "1 You are a kind",
        "-2 and patient teacher.",
        "--3 Why is the sky",
        "---4 blue in the morning",
    ]
    assert [row for row in tree(pool) if row.endswith(("One, two,", "three, four,"))] == [
        "14 One, two,",
        "-10 three, four,",
    ]
    assert sum("✕" in row for row in tree(pool)) == 2
    titles = pool.locator(".view.pool h2").all_inner_texts()
    assert [" ".join(title.split()).upper() for title in titles] == [
        "BLOCK TABLES LOGICAL → PHYSICAL",
        "PHYSICAL 11 OF 15 IN USE · 4 TOKENS A BLOCK",
        "FREE QUEUE 4",
        "CACHED PREFIXES 13",
    ]


def test_every_step_has_the_queue_and_the_tables_of_the_board_s_table(pool: Page) -> None:
    for step, expected in enumerate(TABLE["steps"], start=1):
        go(pool, step)
        free = data(pool, "vz-pool", "faces.filter(f => !f.ref).length")
        queue = pool.locator("vz-queue")
        told = data(pool, "vz-queue", "free") if queue.count() else []
        assert len(told) == free
        assert told == pool.evaluate("__viz.state().free"), (step, expected)


def test_what_is_looked_at_in_one_column_is_lit_in_all(pool: Page) -> None:
    go(pool, 12)
    box = pool.locator("vz-queue").bounding_box()
    assert box is not None
    pool.mouse.move(box["x"] + 60, box["y"] + 40)  # the second: block 3
    for column in ("vz-tables", "vz-queue", "vz-prefixes"):
        assert data(pool, column, "lit.block") == 3
        assert data(pool, column, "lit.blocks.size") == 1
    assert data(pool, "vz-pool", "cursor") == 3
    assert pool.get_attribute(".view.pool .lines path", "d") == ""
    assert "block 3: free, still cached" in pool.inner_text(".detail")
    box = pool.locator("vz-tables").bounding_box()
    assert box is not None
    pool.mouse.move(box["x"] + 20, box["y"] + 24)  # r3's row
    assert data(pool, "vz-queue", "lit.blocks.size") == 8
    assert (pool.get_attribute(".view.pool .lines path", "d") or "").count("M") == 8
    pool.mouse.move(2, 2)


def test_a_request_that_waits_lights_what_its_look_up_found(pool: Page) -> None:
    go(pool, 12)
    pool.hover(".headline [data-req=r5]")
    assert data(pool, "vz-queue", "lit.blocks.values().toArray().sort()") == [1, 2, 3, 4]


def test_what_is_evicted_stands_once_more_with_who_missed_it(pool: Page) -> None:
    go(pool, 10)
    gone = data(pool, "vz-prefixes", "rows.filter(r => r.gone).map(r => [r.blocks[0], r.missed])")
    ((block, missed),) = gone
    assert block == 15 and missed.startswith("missed by r4 in 1")
    pool.evaluate("__viz.board.focus.choose({ block: 15 })")
    card = pool.inner_text(".why")
    assert "What was evicted in step 10 was missed: r4 looked for it in step" in card
    assert "taken by r4 (5), given back by r4 (8), evicted for r1 (10), taken by r1 (10)" in card
    pool.click(".why .life a >> text=/^8$/")
    at_step(pool, 8)


def test_the_cursor_moves_on_cells_of_each_column(pool: Page) -> None:
    go(pool, 12)
    pool.focus("vz-queue")
    pool.keyboard.press("Enter")
    pool.keyboard.press("ArrowDown")
    assert pool.inner_text("#say").startswith("number 2 of 4 to go: block 3: free, still cached")
    pool.keyboard.press("Escape")
    pool.focus("vz-prefixes")
    pool.keyboard.press("Enter")
    pool.keyboard.press("ArrowDown")
    pool.keyboard.press("ArrowDown")
    assert "“Why is the sky”, level 3" in pool.inner_text("#say")
    pool.keyboard.press("ArrowLeft")
    assert "“and patient teacher.”, level 2" in pool.inner_text("#say")
    pool.keyboard.press("Escape")
    pool.focus("vz-tables")
    pool.keyboard.press("Enter")
    pool.keyboard.press("ArrowDown")
    assert "r4, logical block 0: block 14" in pool.inner_text("#say")
    pool.keyboard.press("ArrowRight")
    pool.keyboard.press("Enter")
    pool.wait_for_url("**/step/12/block/10?view=pool")
    pool.keyboard.press("Escape")
    pool.keyboard.press("Escape")
    pool.keyboard.press("ArrowRight")
    at_step(pool, 13)


def test_the_tables_say_the_same(pool: Page) -> None:
    go(pool, 12)
    pool.evaluate("__viz.board.open('tables')")
    text = pool.inner_text(".dialog .tables")
    pool.keyboard.press("Escape")
    assert "r4\t14 10 5\t1–4 reused, 5–11 run" in text
    assert "1\t4\tyes\tblue in the morning" in text
    assert "evicted in this step; forgotten" in text


def test_empty_states_say_what_is_missing(pool: Page, url: str) -> None:
    go(pool, 0)
    assert "Nobody holds a block." in pool.inner_text(".logical")
    assert "No block has been used." in pool.inner_text(".tree")
    assert len(data(pool, "vz-queue", "free")) == 15
    go(pool, 7)
    assert "All 15 blocks are in use." in pool.inner_text(".free-queue")
    pool.goto(f"{url}#/run/no-caching/step/5?view=pool")
    at_step(pool, 5)
    assert "Prefix caching is off" in pool.inner_text(".tree")
    pool.goto(f"{url}#/run/tiny-pressure/step/12?view=pool")
    at_step(pool, 12)


def test_the_queue_moves_for_less_than_180_ms(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/11?view=pool")
        at_step(page, 11)
        page.evaluate("__viz.clock.byHand()")
        page.keyboard.press("ArrowRight")
        moved = []
        for _ in range(80):
            page.evaluate("__viz.clock.turn(10)")
            progress = page.evaluate("document.querySelector('vz-queue').progress")
            if data(page, "vz-queue", "before") and 0 < progress < 1:
                moved.append((data(page, "vz-queue", "before"), data(page, "vz-queue", "free")))
        assert 3 <= len(moved) <= 18
        assert moved[0] == ([15, 14, 10, 5, 4, 3, 2, 1], [4, 3, 2, 1])
        page.wait_for_function("() => !__viz.board.player.motion")


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_nothing_is_cut_at_the_three_sizes(
    size: tuple[int, int], browser: Browser, url: str
) -> None:
    with open_page(browser, size=size) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/12?view=pool")
        at_step(page, 12)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        inside = """() => { const grid = document.querySelector("vz-pool").getBoundingClientRect();
            const room = document.querySelector(".physical .room").getBoundingClientRect();
            return grid.right <= room.right && grid.bottom <= room.bottom + 1; }"""
        page.wait_for_function(inside)


def test_a_crowd_is_drawn_small_and_both_ends_of_the_queue_stay(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/crowd?view=pool")
        page.wait_for_function("() => window.__viz?.board.store?.lastStep > 2")
        page.evaluate("__viz.board.travel.end()")
        page.wait_for_function("() => document.querySelector('vz-tables')?.layout")
        assert data(page, "vz-pool", "layout.detail") == "pixel"
        assert page.evaluate("document.querySelector('vz-tables').layout.mode") == "dense"
        free = data(page, "vz-queue", "free")
        page.evaluate("document.querySelector('vz-queue').scrollTop = 5000")
        page.wait_for_function("() => document.querySelector('vz-queue').top === 5000")
        ends = """() => { const queue = document.querySelector("vz-queue");
            const top = queue.top, height = queue.clientHeight;
            return [5, height - 5].map(y => queue.hit({ x: 50, y: top + y }).block); }"""
        assert page.evaluate(ends) == [free[0], free[-1]]
