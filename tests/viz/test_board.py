"""The Board in a real browser, on the recorded tiny-pressure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.viz.browser import at_step, headline, open_page, state, still
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

TABLE = json.loads((Path(__file__).parents[1] / "data" / "tiny-pressure.json").read_text())


@pytest.fixture(scope="module")
def url(tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure]), port=0).start()
    yield server.url
    server.stop()


@pytest.fixture
def board(browser: Browser, url: str) -> Iterator[Page]:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/0")
        at_step(page, 0)
        still(page)
        yield page


def test_every_step_shows_its_headline(board: Page) -> None:
    for step, expected in enumerate(headlines(), start=1):
        board.keyboard.press("ArrowRight")
        at_step(board, step)
        assert headline(board) == expected


def headlines() -> list[str]:
    """From the data file that holds BOARD's table."""
    return [step["headline"] for step in TABLE["steps"]]


def test_stepping_back_and_forth_lands_on_identical_states(board: Page) -> None:
    forward = [state(board)]
    for step in range(1, 18):
        board.keyboard.press("ArrowRight")
        at_step(board, step)
        forward.append(state(board))
    for step in range(16, -1, -1):
        board.keyboard.press("ArrowLeft")
        at_step(board, step)
        assert state(board) == forward[step], f"step {step} on the way back"
    board.keyboard.press("End")
    at_step(board, 17)
    assert state(board) == forward[17]
    board.keyboard.press("Home")
    at_step(board, 0)
    assert state(board) == forward[0]


def test_the_picture_is_the_same_on_the_way_back(board: Page) -> None:
    """Not the state alone: the pixels of pool, rows and budget."""
    # A canvas that has just come is drawn when the next frame has told its size.
    pixels = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>
        done([...document.querySelectorAll("main canvas")].map(c => c.toDataURL()).join()))))"""
    seen = {}
    for step in range(1, 18):
        board.keyboard.press("ArrowRight")
        at_step(board, step)
        seen[step] = board.evaluate(pixels)
    assert len(set(seen.values())) == 17
    for step in range(16, 0, -1):
        board.keyboard.press("ArrowLeft")
        at_step(board, step)
        assert board.evaluate(pixels) == seen[step], f"step {step}"


def test_step_8_is_drawn_as_the_board_says(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        text = page.inner_text("main")
        assert "preempted for r3 in this step" in text and "0 of 11" in text
        assert "10 unused: r4 was preempted in this step" in text
        assert "13of 15 in use" in text.replace("\n", "").replace(" of", "of")
        assert page.locator(".running .chip").all_inner_texts() == ["r1", "r3"]
        assert page.locator(".free .queued").all_inner_texts() == ["15◆", "14◆"]
        assert page.inner_text(".done .queue").split() == ["r2", "4", "tokens"]
        chip = "getComputedStyle(document.querySelector('.running .h0')).backgroundColor"
        assert page.evaluate(chip) == "rgb(111, 204, 255)"


@pytest.mark.parametrize("size", [(1440, 900), (1280, 800), (1024, 768), (820, 1180)])
def test_the_legend_the_pool_and_the_free_queue_are_whole_without_scrolling(
    size: tuple[int, int], browser: Browser, url: str
) -> None:
    inside = """([inner, outer]) => {
        const box = document.querySelector(outer).getBoundingClientRect();
        return [...document.querySelectorAll(inner)].every((element) => {
            const { left, right, top, bottom } = element.getBoundingClientRect();
            return left >= box.left && right <= box.right
                && top >= box.top - 1 && bottom <= box.bottom + 1;
        });
    }"""
    with open_page(browser, size=size) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/13")
        at_step(page, 13)
        assert page.locator(".legend span:has(b), .legend span:has(vz-token)").count() == 13
        assert page.evaluate(inside, [".legend span", ".detail"])
        assert page.evaluate(inside, ["vz-pool, .free, .queued", "main"])
        assert page.locator(".queued").count() == 12
        page.evaluate("__viz.board.travel.seek(6)")
        at_step(page, 6)
        assert page.evaluate(inside, [".rows li", ".rows"])  # three of them run


def test_the_why_card_tells_reason_numbers_name_and_source(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/9")
        at_step(page, 9)
        page.click(".waiting .chip >> text=r4")
        card = page.inner_text(".why")
        assert "Waits, first in line." in card
        assert "Its 11 tokens need 3 blocks; 2 are free. Both hold its own tokens 1–8" in card
        assert "no_free_blocks" in card and "minivllm/core/scheduler.py:" in card
        page.wait_for_url("**#/run/tiny-pressure/step/9/req/r4")
        page.click(".why a >> text=step 8")
        at_step(page, 8)
        card = page.inner_text(".why")
        assert "r3 needed 1 block, 0 are free; it came last of r1, r3 and r4" in card
        page.keyboard.press("Escape")
        assert page.locator(".why").count() == 0
        page.wait_for_url("**/step/8")


def test_a_link_opens_the_very_place(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/6/block/6")
        at_step(page, 6)
        assert "evicted for r4 (6)" in page.inner_text(".why")
        page.evaluate("location.hash = '#/run/tiny-pressure/step/14/req/r5'")
        at_step(page, 14)
        assert page.inner_text(".why h2").startswith("r5")


def test_events_of_a_step_can_be_walked(board: Page) -> None:
    board.evaluate("__viz.board.travel.seek(7)")
    at_step(board, 7)
    before = state(board)
    board.keyboard.press("Shift+ArrowRight")
    assert "event 1 of" in board.inner_text(".also") and board.inner_text(".number b") == "8"
    count = board.evaluate("__viz.board.store.eventsOf(8).length")
    for _ in range(count - 1):
        board.keyboard.press("Shift+ArrowRight")
    assert board.evaluate("__viz.board.player.event") is None
    at_step(board, 8)
    for _ in range(count):
        board.keyboard.press("Shift+ArrowLeft")
    at_step(board, 7)
    assert state(board) == before


def test_keys_find_help_goto_speed_theme_and_read_out(board: Page) -> None:
    board.keyboard.press("/")
    board.fill(".find", "no_free_blocks")
    assert board.locator(".hits b").all_inner_texts() == ["9", "10", "11", "12", "13"]
    board.click(".hits a >> nth=1")
    at_step(board, 10)
    board.keyboard.press("?")
    assert "Marks of a step" in board.inner_text(".dialog")
    board.keyboard.press("ArrowRight")  # a dialog is open: the Board stands still
    board.keyboard.press("Escape")
    at_step(board, 10)
    board.keyboard.press("g")
    board.keyboard.type("12")
    board.keyboard.press("Enter")
    at_step(board, 12)
    board.keyboard.press("]")
    assert "1 step/s" in board.inner_text(".speed")
    board.keyboard.press("[")
    assert "½ step/s" in board.inner_text(".speed")
    board.keyboard.press("m")
    assert board.get_attribute("html", "data-theme") == "light"
    board.keyboard.press("d")
    said = board.inner_text("#say")
    assert "Running: r3 with" in said and "Waiting: r5" in said and "Pool: 11 of 15" in said


def test_arrows_step_always_and_move_over_blocks_after_enter(board: Page) -> None:
    board.evaluate("__viz.board.travel.seek(6)")
    board.focus("vz-pool")
    board.keyboard.press("ArrowLeft")
    at_step(board, 5)
    board.keyboard.press("ArrowRight")
    at_step(board, 6)
    board.keyboard.press("Enter")
    board.keyboard.press("ArrowDown")
    assert board.inner_text("#say").startswith("block 6: in use by r4")
    assert "what" not in board.inner_text(".detail") and "cells" in board.inner_text(".detail")
    board.keyboard.press("Enter")
    assert board.inner_text(".why h2").startswith("Block 6")
    board.keyboard.press("Escape")
    board.keyboard.press("ArrowRight")
    at_step(board, 7)


def test_space_plays_and_a_key_ends_the_motion_at_once(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/3")
        at_step(page, 3)
        page.evaluate("__viz.clock.byHand()")
        page.keyboard.press("Space")
        page.evaluate("__viz.clock.turn(4100)")
        assert page.evaluate("__viz.board.step") == 6
        page.keyboard.press("ArrowRight")
        assert page.evaluate("[__viz.board.step, __viz.board.player.beat]")[0] == 7
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("[__viz.board.step, __viz.board.player.motion]") == [7, None]
        page.evaluate("__viz.clock.turn(60000)")
        at_step(page, 7)


def test_the_mouse_lights_a_request_everywhere_and_tells_a_block_in_words(board: Page) -> None:
    board.evaluate("__viz.board.travel.seek(6)")
    at_step(board, 6)
    board.hover(".running .chip >> text=r1")
    assert "dimmed" in (board.get_attribute(".running .chip >> text=r3 >> xpath=..", "class") or "")
    assert board.evaluate("document.querySelector('#links path').getAttribute('d').length") > 50
    board.hover("vz-pool", position={"x": 36, "y": 116})
    detail = board.inner_text(".detail")
    assert "block 6: in use by r4" in detail and "evicted and taken in this step" in detail
    assert "before: “" in detail and "left by r2" in detail


def test_the_scrubber_seeks(board: Page) -> None:
    box = board.locator("vz-scrub").bounding_box()
    assert box is not None
    board.mouse.click(box["x"] + 28 * 7.5, box["y"] + 40)
    at_step(board, 8)


def test_everything_is_in_the_tables_too(board: Page) -> None:
    board.evaluate("__viz.board.travel.seek(9)")
    board.keyboard.press("?")
    board.click("text=Show the Board as tables")
    text = board.inner_text(".dialog")
    assert "needs 3 blocks, 2 are free" in text and "behind r4 (fcfs)" in text
    assert "block 15: free, still cached" in text and "Free queue, next first: 15 14" in text


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
@pytest.mark.parametrize("theme", [0, 1, 2])
def test_no_size_or_theme_scrolls_sideways(
    browser: Browser, url: str, size: tuple[int, int], theme: int
) -> None:
    with open_page(browser, size=size) as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        page.goto(f"{url}#/run/tiny-pressure/step/5/req/r4")
        at_step(page, 5)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        for region in (".bar", ".sentence", ".pool", ".transport", ".why"):
            ends = page.evaluate(
                """region => [...document.querySelector(region).querySelectorAll('*')]
                  .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().right)""",
                region,
            )
            assert max(ends) <= size[0] + 1, f"{region} is cut off"


def test_a_greyscale_picture_still_tells_the_block_states(browser: Browser, url: str) -> None:
    """Step 14 has in use, shared, free and cached, and one that was just taken."""
    with open_page(browser) as page:
        page.goto(f"{url}#/run/tiny-pressure/step/14")
        at_step(page, 14)
        grey = page.evaluate(
            """ids => {
              const pool = document.querySelector('vz-pool');
              const copy = document.createElement('canvas');
              [copy.width, copy.height] = [pool.canvas.width, pool.canvas.height];
              const ctx = copy.getContext('2d', {willReadFrequently: true});
              ctx.drawImage(pool.canvas, 0, 0);
              const {columns, pitch, size} = pool.layout;
              return ids.map(id => {
                const x = ((id - 1) % columns) * pitch, y = Math.floor((id - 1) / columns) * pitch;
                const d = ctx.getImageData(x, y, size, size).data;
                const out = [];
                for (let i = 0; i < d.length; i += 4)
                  out.push(Math.round(.2126*d[i] + .7152*d[i+1] + .0722*d[i+2]));
                return out;
              });
            }""",
            [1, 5, 7, 15],
        )
        for i, one in enumerate(grey):
            for other in grey[i + 1 :]:
                differing = sum(abs(a - b) > 24 for a, b in zip(one, other, strict=True))
                assert differing > 250, "two block states look alike without colour"


def test_the_first_minute(
    browser: Browser, tiny_pressure: Path, tmp_path: Path, serve: Callable[[BoardApp], Server]
) -> None:
    """The tour's sixty seconds, by a clock turned by hand; the engine is still being installed."""
    from minivllm.setup.progress import StatusBoard

    server = serve(create_app([with_tour(tiny_pressure, tmp_path)], status=StatusBoard()))
    with open_page(browser, tour=True) as page:
        page.goto(server.url)
        page.wait_for_selector(".tour .primary")
        page.evaluate("__viz.clock.byHand()")
        assert "Five requests will share 15 blocks of 4 tokens." in headline(page)
        assert page.evaluate("document.activeElement.textContent").strip().startswith("▶ Play")
        page.wait_for_selector("text=engine: installing")

        def turn(seconds: float) -> None:
            page.evaluate("s => __viz.clock.turn(s * 1000)", seconds)

        turn(5)  # a second of rest, then steps 1 and 2 by themselves
        at_step(page, 2)
        assert headline(page).startswith("r2 is admitted: 8 of its 11 prompt tokens")
        for stop in (4, 6):
            page.keyboard.press("Space")
            turn(3)
            at_step(page, stop)
        page.keyboard.press("ArrowLeft")
        at_step(page, 5)
        page.keyboard.press("ArrowRight")
        turn(1)
        at_step(page, 6)
        page.keyboard.press("Space")
        turn(2)
        assert headline(page) == "The pool is full and r3 needs a block. Who gives way?"
        page.click("[data-choice=r1]")
        turn(2)
        at_step(page, 8)
        assert page.inner_text(".also") == "It is r4: it came last."
        for stop in (10, 12, 14, 17):
            page.keyboard.press("Space")
            turn(4)
            at_step(page, stop)
        assert "Run 8 prompts live · engine: installing" in page.inner_text(".end-card")
        assert page.evaluate("document.activeElement.textContent") == "Follow r4’s life"
        page.keyboard.press("Enter")
        at_step(page, 4)
        assert page.inner_text(".life-head .chip") == "r4"
        # The address follows a little later: a browser takes only so many changes of it.
        page.wait_for_function("() => location.hash.includes('/step/4/req/r4?view=life')")
        page.reload()
        at_step(page, 4)
        assert page.inner_text(".life-head .chip") == "r4"
        page.goto("about:blank")
        page.goto(server.url)
        at_step(page, 0)
        assert page.locator(".tour").count() == 0, "a tour that was seen does not begin again"
        page.keyboard.press("?")
        page.click("text=Take the tour")
        assert page.locator(".tour").count() == 1
        page.keyboard.press("Escape")
        assert page.locator(".tour").count() == 0


def with_tour(trace: Path, folder: Path) -> Path:
    """The recording with the shipped tour beside it."""
    import minivllm

    tour = Path(minivllm.__file__).parent / "gallery" / "tiny-pressure.tour.json"
    copy = folder / trace.name
    copy.write_bytes(trace.read_bytes())
    (folder / tour.name).write_bytes(tour.read_bytes())
    return copy


def test_with_reduced_motion_nothing_starts_alone(
    browser: Browser, tiny_pressure: Path, tmp_path: Path, serve: Callable[[BoardApp], Server]
) -> None:
    server = serve(create_app([with_tour(tiny_pressure, tmp_path)]))
    with open_page(browser, tour=True, reduced_motion="reduce") as page:
        page.goto(server.url)
        page.wait_for_selector(".tour .primary")
        page.evaluate("__viz.clock.byHand()")
        page.evaluate("__viz.clock.turn(60000)")
        at_step(page, 0)


def test_a_broken_trace_says_what_and_why(
    browser: Browser, tiny_pressure: Path, tmp_path: Path, serve: Callable[[BoardApp], Server]
) -> None:
    cut = tmp_path / "cut.trace.jsonl"
    cut.write_bytes(tiny_pressure.read_bytes()[:-20])
    server = serve(create_app([tiny_pressure, cut]))
    with pytest.raises(AssertionError, match="422"), open_page(browser) as page:
        page.goto(f"{server.url}#/run/cut")
        page.wait_for_selector(".problem")
        assert "cut in the middle of a line" in page.inner_text(".problem")
        assert page.locator(".problem button").inner_text() == "Try again"
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/nobody")
        page.wait_for_selector(".problem")
        problem = page.inner_text(".problem")
        assert "There is no run “nobody”. There are: tiny-pressure, cut." in problem
