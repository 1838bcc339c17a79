"""The frame around the views, and Life: one request's way, stair, text and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.two_engines import write_two_engines
from tests.viz.browser import at_step, open_page, still
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

R4 = "#/run/tiny-pressure/step/{step}/req/r4?view=life"
PICTURES = Path(__file__).parents[2] / "screenshots"
PIXELS = "document.querySelector('vz-stair canvas').toDataURL()"


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    two = write_two_engines(tmp_path_factory.mktemp("two") / "two.trace.jsonl")
    server = Server(create_app([tiny_pressure, two]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def page_of_r4(browser: Browser, url: str) -> Iterator[Page]:
    """One page for several tests: loading it is what costs."""
    with open_page(browser) as page:
        page.goto(url + R4.format(step=9))
        at_step(page, 9)
        still(page)
        yield page


@pytest.fixture
def life(page_of_r4: Page) -> Page:
    """Life of r4 at step 9."""
    page_of_r4.evaluate("hash => location.hash = hash", R4.format(step=1))
    at_step(page_of_r4, 1)
    page_of_r4.evaluate("hash => location.hash = hash", R4.format(step=9))
    at_step(page_of_r4, 9)
    page_of_r4.evaluate("document.activeElement.blur()")
    return page_of_r4


def tokens(page: Page, kind: str) -> list[str]:
    return [text.strip() for text in page.locator(f".tok.{kind} b").all_inner_texts()]


def lit(page: Page) -> list[str]:
    return page.locator(".station.lit b").all_inner_texts()


def test_r4_is_told_as_the_board_says(life: Page) -> None:
    assert "finished: length · 8 tokens · preempted once" in life.inner_text(".life-head")
    labels = [" ".join(text.split()) for text in life.locator(".row-label").all_inner_texts()]
    assert labels == [
        "13–16 block 15",
        "9–12 block 6 → 5",
        "5–8 block 15 → 10",
        "1–4 block 14 → 14",
    ]
    bands = [" ".join(text.split()) for text in life.locator(".band").all_inner_texts()]
    assert bands == ["wait 1", "prefill 1", "decode 2", "preempted 4", "resume 1", "decode 4"]
    assert "13 steps · TTFT 2 · TPOT 1.57" in life.inner_text(".sums")
    assert "1 × no_budget, 1 × preempted_this_step, 3 × no_free_blocks" in life.inner_text(".sums")
    assert "made without a server" in life.inner_text(".way")
    assert "× 8 steps that ran" in life.inner_text(".loop")
    # At the cursor: nothing is computed, three were said, and the next are to come.
    assert lit(life) == ["wait"] and tokens(life, "computed") == []
    assert tokens(life, "output:not(.unsaid)") == ["five", ",", "six"]
    assert life.locator(".text .name").all_inner_texts() == ["14", "15", "6", "–"]
    pictures = {life.evaluate(PIXELS)}
    for step in (10, 11, 12):
        life.keyboard.press("ArrowRight")
        at_step(life, step)
        pictures.add(life.evaluate(PIXELS))
    assert len(pictures) == 4
    assert "r4, step 12: 7 tokens ran, 4 reused (resume)" in life.inner_text("#say")
    assert lit(life) == ["schedule", "blocks", "batch", "forward", "sample"]
    assert tokens(life, "reused") == ["One", ",", "two", ","] and len(tokens(life, "ran")) == 7
    assert life.locator(".text .name").all_inner_texts() == ["14", "10", "5", "–"]


def test_a_click_on_stair_band_or_token_moves_the_one_cursor(life: Page) -> None:
    box = life.locator("vz-stair").bounding_box()
    assert box is not None
    life.mouse.move(box["x"] + box["width"] * 4.5 / 13, box["y"] + 60)
    life.wait_for_function(
        "() => document.querySelector('.detail').textContent.includes('preempted for r3')"
    )
    life.mouse.click(box["x"] + box["width"] * 1.5 / 13, box["y"] + 60)
    at_step(life, 5)
    life.click(".band.resume")
    at_step(life, 12)
    life.click("[data-token='10']")
    at_step(life, 7)  # " six" was said in step 7
    detail = life.inner_text(".detail")
    assert "sampled in step 7, again" not in detail and "sampled in step 7" in detail
    assert "again" not in detail and "computed in step 12 (block 5)" in detail


def test_keys_move_over_tokens_open_stations_and_close_them(life: Page) -> None:
    life.focus("[data-cells]")
    life.keyboard.press("Enter")
    assert "Cursor on tokens. token 9 “ five”" in life.inner_text("#say")
    life.keyboard.press("ArrowRight")
    assert "token 10 “,”, slot 1 · sampled in step 6" in life.inner_text("#say")
    life.keyboard.press("Enter")
    at_step(life, 6)
    life.keyboard.press("Escape")
    life.keyboard.press("ArrowRight")
    at_step(life, 7)
    life.click(".station >> text=wait")
    card = life.inner_text(".station-card")
    assert "sched.skip" in card and "no_free_blocks" in card
    assert "vllm/v1/core/sched/scheduler.py" in card and "minivllm/" in card
    life.click(".station-card a >> text=11 >> nth=0")
    at_step(life, 11)
    life.keyboard.press("Escape")
    assert life.locator(".station-card").count() == 0
    life.click(".life-head >> text=Why?")
    assert "no_free_blocks" in life.inner_text(".why")
    life.keyboard.press("Escape")
    assert life.locator(".why").count() == 0 and life.locator(".life-head").count() == 1
    life.keyboard.press("?")
    life.click("text=Show the Life as tables")
    told = life.inner_text(".dialog")
    assert "needs 3 blocks, 1 is free" in told and "r4: 13 steps" in told
    assert life.locator(".dialog caption").all_inner_texts() == [
        "The way",
        "The stair",
        "The text",
        "Where it went",
    ]
    life.keyboard.press("Escape")
    assert life.locator(".dialog").count() == 0


def test_views_have_names_keys_and_a_place_in_the_address(life: Page) -> None:
    names = life.locator(".views a").all_inner_texts()
    assert names == [name for name in ("Board", "Life", "KV pool", "Compare") if name in names]
    assert life.inner_text(".views [aria-current]") == "Life"
    life.keyboard.press("b")
    life.wait_for_selector("main.board vz-pool")
    life.wait_for_function("() => !location.hash.includes('view=')")
    assert life.inner_text(".why h2").startswith("r4"), "the selection is one for all views"
    assert life.evaluate("document.activeElement.tagName") in ("BODY", "MAIN")
    life.click(".why a >> text=Life")
    life.wait_for_function("() => location.hash.endsWith('/step/9/req/r4?view=life')")
    life.keyboard.press("ArrowRight")
    at_step(life, 10)
    life.wait_for_function("() => location.hash.includes('/step/10/')")
    life.go_back()
    life.wait_for_selector("main.board")
    assert life.evaluate("__viz.board.step") == 9
    life.go_forward()
    life.wait_for_selector("main.life")
    at_step(life, 10)
    life.evaluate("location.hash = '#/run/tiny-pressure/step/3?view=nowhere'")
    life.wait_for_selector("text=There is no view “nowhere”. There are: Board, Life")
    assert life.locator("main.board").count() == 1


def test_without_a_choice_all_requests_are_listed(life: Page) -> None:
    life.keyboard.press("Escape")
    slowest = " ".join(life.inner_text(".lives header").split())
    assert "The slowest: r4 13 steps (5 waiting and preempted once), r1 11 steps" in slowest
    assert life.locator(".life-row").count() == 5
    assert life.locator(".life-row vz-ministair").count() == 5
    life.click(".life-row[data-req=r5]")
    life.wait_for_function("() => location.hash.includes('/req/r5?view=life')")
    assert life.inner_text(".life-head .chip") == "r5"
    assert life.inner_text("#say").startswith("r5: 9 steps")
    assert life.locator(".row-label").nth(1).inner_text().split() == ["17–20", "block", "6"]


def test_a_link_to_a_request_leads_to_its_life_over_all_hops(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/two?request=cmpl-d&view=life")
        page.wait_for_selector(".life-head")
        assert page.locator(".station.untold").count() == 0
        assert "Engine 1 had it first, and died" in page.inner_text(".way")
        assert "72 B" in page.inner_text(".stations") and "6 chunks" in page.inner_text(".stations")
        assert page.locator(".tok.chunk").count() == 6  # each token left on its own
        assert page.locator(".units button[disabled]").inner_text() == "ms"  # no model ran
        page.click(".station >> text=route")
        assert "route.pick" in page.inner_text(".station-card")


def test_what_an_engine_has_said_comes_back_over_a_station_of_its_own(
    browser: Browser, url: str
) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/two?request=cmpl-d&view=life")
        page.wait_for_selector(".life-head")
        back = page.locator(".station:has(b:text-is('IPC back'))")
        # Six messages of 500 bytes, 100 ns each, as `trace life` says, too.
        assert back.inner_text().split("\n") == ["IPC back", "600 ns", "3000 B, 6×"]
        back.click()
        card = page.inner_text(".station-card")
        assert card.count("ipc.recv") == 6 and card.count("of_step") == 6
        page.click(".station:has(b:text-is('IPC'))")
        assert "of_step" not in page.inner_text(".station-card")
        assert page.evaluate(
            "[...document.querySelectorAll('.station small')]"
            ".every((note) => note.scrollWidth <= note.parentElement.clientWidth + 1)"
        )


def test_a_live_unfinished_life_grows(
    browser: Browser, make_engine: MakeEngine, serve: Callable[[BoardApp], Server]
) -> None:
    engine = make_engine(paused=True)
    app = create_app()
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live?view=life")
        page.wait_for_selector("text=No request has come yet.")
        engine.submit("Tell me of 你好 and 🙂 at once, please")
        page.wait_for_selector(".life-row")
        page.click(".life-row")
        page.wait_for_selector("text=no step was taken since")
        for step in (1, 2, 3):
            engine.gate.step()
            at_step(page, step)
        assert "unfinished · 3 tokens so far" in page.inner_text(".life-head")
        assert "3 steps so far" in page.inner_text(".sums")
        assert tokens(page, "output") == ["I", "say", "what"]


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_life_fits_its_screen(size: tuple[int, int], browser: Browser, url: str) -> None:
    with open_page(browser, size=size) as page:
        page.goto(url + R4.format(step=12))
        at_step(page, 12)
        width = "document.documentElement.scrollWidth"
        for theme in ("dark", "light"):  # for the eye; the folder is ignored
            shown = page.get_attribute("html", "data-theme")
            assert shown == theme
            page.screenshot(path=PICTURES / f"life-{size[0]}-{theme}.png", full_page=size[0] < 700)
            page.keyboard.press("m")
        page.keyboard.press("m")  # past the projector's
        page.wait_for_selector("html[data-theme=dark]")
        assert page.evaluate(width) <= size[0]
        if size[0] == 1440:  # the whole life without scrolling
            fits = "e => e.scrollHeight <= e.clientHeight"
            assert page.eval_on_selector("main.life", fits)
            return
        assert page.eval_on_selector("main.life", "e => e.scrollWidth <= e.clientWidth")
        if size[0] == 390:
            # The stair alone scrolls sideways, with the cursor in sight under fixed labels.
            assert page.eval_on_selector(".stair-scroll", "e => e.scrollWidth > e.clientWidth")
            assert page.eval_on_selector(".stair-scroll", "e => e.scrollLeft > 0")
            small = """() => [...document.querySelectorAll('main button')].filter((e) => {
                const { width, height } = e.getBoundingClientRect();
                return !e.disabled && !e.matches('.chip') && (width < 40 || height < 44);
            }).map((e) => e.className)"""
            assert page.evaluate(small) == []
