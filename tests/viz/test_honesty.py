"""The page says what it shows and what it lacks: live or recorded, behind, begun anew, broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.viz.browser import at_step, open_page
from tests.viz.conftest import MakeEngine
from tests.viz.scripted import SAYS
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]

PILL = """() => {
  const pill = document.querySelector('.bar .pill');
  const { left, right, top, bottom } = pill.getBoundingClientRect();
  const seen = pill.checkVisibility() && left >= 0 && right <= innerWidth && top >= 0
    && bottom <= innerHeight && document.elementFromPoint((left + right) / 2, (top + bottom) / 2)
      ?.closest('.pill') === pill;
  return seen ? pill.innerText : '';
}"""


def views(page: Page) -> list[str]:
    found: list[str] = page.evaluate("__viz.board.frame.views.map(({ id }) => id)")
    return found


def open_live(page: Page, url: str) -> None:
    page.goto(f"{url}#/run/live")
    page.wait_for_function(
        "() => __viz.board.isLive && __viz.board.store?.config && __viz.board.engine.driver"
    )


def finished(page: Page, count: int) -> None:
    page.wait_for_function(
        "n => __viz.board.store?.head.finished.length >= n && __viz.board.idle", arg=count
    )


@pytest.mark.parametrize(
    "size", [(1440, 900), (1024, 768), (390, 844)], ids=["1440", "1024", "390"]
)
def test_live_or_recorded_is_in_sight_in_every_view_and_size(
    browser: Browser,
    serve: Serve,
    make_engine: MakeEngine,
    tiny_pressure: Path,
    size: tuple[int, int],
) -> None:
    app, engine = create_app([tiny_pressure]), make_engine()
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser, size=size, reduced_motion="reduce") as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        for view in views(page):
            page.evaluate("view => __viz.board.frame.show(view)", view)
            page.wait_for_selector(f"main.view.{view}")
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            assert page.evaluate(PILL).startswith("RECORDED"), view
        open_live(page, server.url)
        engine.submit("a few words")
        finished(page, 1)
        for view in views(page):
            page.evaluate("view => __viz.board.frame.show(view)", view)
            page.wait_for_selector(f"main.view.{view}")
            assert page.evaluate(PILL).startswith("LIVE"), view
        page.evaluate("__viz.board.travel.seek(2)")
        page.wait_for_selector("button.pill.live")
        assert page.evaluate(PILL).startswith(f"LIVE · {len(SAYS) - 2} ahead")


def test_an_event_of_a_later_version_is_shown_and_changes_nothing(
    browser: Browser, serve: Serve, tiny_pressure: Path, tmp_path: Path
) -> None:
    header, *lines = tiny_pressure.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["step"] == 6) + 2
    later = json.loads(lines[at]) | {"kind": "cache.warm", "data": {"blocks": 3}}
    lines.insert(at, json.dumps(later))
    numbered = [json.dumps(json.loads(line) | {"seq": i}) for i, line in enumerate(lines, start=1)]
    path = tmp_path / "later.trace.jsonl"
    path.write_text("\n".join([header, *numbered]) + "\n")
    server = serve(create_app([path, tiny_pressure]))
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/6")
        at_step(page, 6)
        assert "does not know" not in page.inner_text(".also")
        usual = page.evaluate("({ ...__viz.state(), seq: 0 })")
        page.goto(f"{server.url}#/run/later/step/6")
        page.wait_for_function("() => __viz.board.run?.id === 'later' && __viz.board.step === 6")
        told = "1 event of a kind this page does not know: cache.warm"
        page.wait_for_function(
            "words => document.querySelector('.also').innerText.includes(words)", arg=told
        )
        assert page.evaluate("({ ...__viz.state(), seq: 0 })") == usual
        page.keyboard.press("ArrowLeft")
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        walked = page.inner_text(".also")
        page.keyboard.press("/")
        page.fill(".find", "cache.warm")
        assert page.locator(".hits b").all_inner_texts() == ["6"]
        assert "of" in walked


def test_a_page_that_lags_says_so_and_catches_up(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser) as page:
        open_live(page, server.url)
        held: list[Route] = []
        page.route("**/api/runs/live/events**", lambda route: held.append(route))
        # Its answers get lost: after four batches the server waits, and then says how far it is.
        page.evaluate(
            """() => {
              const { socket } = __viz.board.engine.channel;
              const { emit } = socket;
              window.speakAgain = () => { socket.emit = emit; };
              socket.emit = (name, ...rest) => name === 'ack' || emit.call(socket, name, ...rest);
            }"""
        )
        for i in range(8):
            engine.submit(f"number {i} of a few")
            page.wait_for_timeout(60)
        page.wait_for_function(
            "() => /LIVE · catching up, \\d+ events/.test(__viz.board.pill.text)"
        )
        assert "catching up" in page.inner_text(".bar .pill")
        page.evaluate("speakAgain()")
        page.unroute("**/api/runs/live/events**")  # those that wait are let go by it
        finished(page, 8)
        page.wait_for_function("() => __viz.board.engine.lag === 0")
        assert page.inner_text(".bar .pill") == "LIVE · idle"
        assert page.evaluate("__viz.board.store.violated") == []


def test_another_engine_behind_the_run_is_said(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser) as page:
        open_live(page, server.url)
        engine.submit("a few words")
        finished(page, 1)
        app.attach_engine(make_engine("scripted-2"))
        page.wait_for_selector("text=Another engine stands behind this run now.")
        page.wait_for_function("() => __viz.board.lastStep === 0")
        page.click(".problem button")
        assert page.locator(".problem").count() == 0
        assert page.evaluate(PILL).startswith("LIVE")


def test_a_breach_that_only_the_page_sees_is_red_and_heals_when_the_run_is_read_anew(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser) as page:
        open_live(page, server.url)
        engine.submit("a few words")
        finished(page, 1)
        page.evaluate("__viz.board.store.head.free.push(2)")  # something went wrong on the way
        engine.submit("a few more")
        page.wait_for_selector(".problem.red >> text=breaks an invariant")
        assert "block" in page.inner_text(".problem.red")
        page.click("text=Read the run anew")
        finished(page, 2)
        page.wait_for_selector(".problem", state="detached")
        assert page.evaluate("__viz.board.store.violated") == []


def test_an_address_typed_right_after_a_step_is_followed(
    browser: Browser, serve: Serve, tiny_pressure: Path
) -> None:
    """The page tells its place a little later: it must not write over what was typed meanwhile."""
    server = serve(create_app([tiny_pressure]))
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/4")
        at_step(page, 4)
        for step in (9, 12, 15):
            page.evaluate(
                """step => {
                  __viz.board.travel.seek(3);
                  __viz.draw();
                  location.hash = `#/run/tiny-pressure/step/${step}`;
                  __viz.draw();
                }""",
                step,
            )
            at_step(page, step)
            page.wait_for_timeout(250)
            assert page.evaluate("__viz.board.step") == step
            assert page.url.endswith(f"/step/{step}")


def test_a_trace_with_a_gap_is_dimmed_and_can_be_read_anew(
    browser: Browser, serve: Serve, tiny_pressure: Path
) -> None:
    server = serve(create_app([tiny_pressure]))
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/6")
        at_step(page, 6)
        page.evaluate("__viz.board.take([{ ...__viz.board.store.last, seq: 9999 }])")
        page.wait_for_selector(".problem >> text=This trace cannot be read further.")
        assert page.locator(".stage.stale").count() == 1
        page.click("text=Read the run anew")
        page.wait_for_selector(".problem", state="detached")
        assert page.locator(".stage.stale").count() == 0
