"""Nothing of the frame is ever cut off: each view, theme, size and scale, with the scrollbars that
users have (Playwright hides them)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.setup.progress import StatusBoard
from tests.viz.browser import FLAGS, at_step, open_page
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

SIZES = [(1440, 900), (1280, 720), (1024, 768), (390, 844)]

OUTSIDE = """() => {
  const out = [];
  const page = document.scrollingElement;
  if (page.scrollWidth > page.clientWidth) out.push(`the page: ${page.scrollWidth} wide`);
  const { narrow } = __viz.board;
  if (!narrow && page.scrollHeight > innerHeight) out.push(`the page: ${page.scrollHeight} high`);
  for (const name of [".bar", ".sentence", ".transport"]) {
    const region = document.querySelector(name);
    const box = region.getBoundingClientRect();
    for (const element of region.querySelectorAll("*")) {
      if (!element.checkVisibility() || element.closest(".hidden, h1")) continue;
      const { left, right, top, bottom, width } = element.getBoundingClientRect();
      const beside = left < -1 || right > page.clientWidth + 1;
      if (!width || (!beside && top >= box.top - 1 && bottom <= box.bottom + 1)) continue;
      out.push(`${name} ${element.tagName} ${element.className} ${element.textContent.trim()}`);
    }
    for (const element of [region, ...region.querySelectorAll(".pill, .words")]) {
      const { className, scrollWidth, clientWidth } = element;
      if (scrollWidth > clientWidth + 1) out.push(`${name} ${className} is cut`);
    }
  }
  if (document.querySelector("vz-scrub").clientWidth < 90) out.push("the scrubber is a stub");
  return out;
}"""

SEEN = """() => {
  const out = [];
  const pool = document.querySelector("vz-pool");
  const scale = Number(getComputedStyle(document.documentElement).getPropertyValue("--scale"));
  const chip = document.querySelector(".waiting .chip");
  const { narrow } = __viz.board;
  const foot = document.querySelector(".footline").getBoundingClientRect();
  const end = narrow ? document.querySelector(".transport").getBoundingClientRect().top : foot.top;
  const own = pool.getBoundingClientRect();
  const block = pool.anchor(15, scale);
  const seen = (element, x, y, what) => {
    if (narrow) {
      element.scrollIntoView({ block: "end" }); // above the transport, if the page can be
      scrollBy(0, innerHeight - end);
      const { bottom } = element.getBoundingClientRect();
      if (bottom > end + 1) out.push(`${what} is under the transport`);
      return;
    }
    const hit = document.elementFromPoint(x, y);
    if (!(element === hit || element.contains(hit))) out.push(`${what} is under ${hit?.className}`);
  };
  const { height, size } = pool.layout;
  if (height * scale > pool.clientHeight + 1 || size < 20) out.push("the pool is cut");
  if (!narrow && own.bottom > end + 1) out.push(`the pool ends at ${own.bottom} of ${end}`);
  seen(pool, block.x, block.y, "block 15");
  const at = chip.getBoundingClientRect();
  seen(chip, at.left + at.width / 2, at.bottom - 3, "r4");
  const row = document.querySelector(".rows li:last-child")?.getBoundingClientRect();
  if (!narrow && row && row.bottom > end) out.push("a running row is below the fold");
  scrollTo(0, 0);
  return out;
}"""

LEAD = """async ([theme, font, view]) => {
  const { board } = __viz;
  const now = () => Number(board.recall("theme") ?? 0);
  for (let i = 0; i < 3 && now() !== theme; i += 1) board.nextTheme();
  for (let i = 0; i < 9; i += 1) board.scaleFont(font < board.fontScale ? -1 : 1);
  for (let i = 0; i < 9 && board.fontScale > font; i += 1) board.scaleFont(-1);
  board.frame.show(view);
  board.resized();
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


@pytest.fixture(scope="module")
def barred(browser: Browser, chromium: str) -> Iterator[Browser]:
    """Chromium with its scrollbars."""
    shown = browser.browser_type.launch(
        executable_path=chromium, args=FLAGS, ignore_default_args=["--hide-scrollbars"]
    )
    yield shown
    shown.close()


@pytest.fixture(scope="module")
def url(tiny_pressure: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure]), port=0).start()
    yield server.url
    server.stop()


def lead(page: Page, theme: int, font: float, view: str = "board") -> None:
    page.evaluate(LEAD, [theme, font, view])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_of_the_frame_is_cut_off(barred: Browser, url: str, size: tuple[int, int]) -> None:
    found = []
    with open_page(barred, size=size, reduced_motion="reduce") as page:
        page.goto(f"{url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        views = page.evaluate("__viz.board.frame.views.map(({ id }) => id)")
        for theme in range(3):
            for font in (0.8, 1, 1.15, 1.5, 2) if theme != 1 else (1,):
                lead(page, theme, font)
                found += [f"{theme} {font} {what}" for what in page.evaluate(SEEN)]
                found += [f"{theme} {font} {what}" for what in page.evaluate(OUTSIDE)]
            for view in views if theme != 1 else []:
                for font in (1, 2):
                    lead(page, theme, font, view)
                    found += [f"{theme} {font} {view} {what}" for what in page.evaluate(OUTSIDE)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_sentence_fits_its_place(barred: Browser, url: str, size: tuple[int, int]) -> None:
    found = []
    with open_page(barred, size=size, reduced_motion="reduce") as page:
        page.goto(f"{url}#/run/tiny-pressure/step/0")
        at_step(page, 0)
        for theme, font in ((0, 1), (2, 2)):
            lead(page, theme, font)
            for step in range(18):
                page.evaluate("step => __viz.board.travel.seek(step)", step)
                at_step(page, step)
                found += [f"{theme} {font} {step} {what}" for what in page.evaluate(OUTSIDE)]
    assert not found, "\n".join(found)


BAR_ENDS = """() => [...document.querySelectorAll(".bar > *")]
  .filter((element) => element.checkVisibility() && element.offsetWidth)
  .map((element) => Math.round(element.getBoundingClientRect().right))"""


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_engine_s_pill_and_a_second_run_find_room_in_the_bar(
    barred: Browser, tiny_pressure: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Words go before keys, keys before pills."""
    other = tmp_path / "beside-it.trace.jsonl"
    other.write_bytes(tiny_pressure.read_bytes())
    server = Server(create_app([tiny_pressure, other], status=StatusBoard()), port=0).start()
    try:
        with open_page(barred, size=size, reduced_motion="reduce") as page:
            page.goto(f"{server.url}#/run/tiny-pressure/step/8?with=beside-it")
            at_step(page, 8)
            page.wait_for_selector(".badge")
            page.wait_for_function("__viz.board.engine.status")
            for state in ("installing", "ready", "failed"):
                page.evaluate(
                    """state => {
                      const { engine } = __viz.board;
                      const text = {failed: "failed: no C compiler here", ready: "ready"}[state];
                      engine.status = { state, text: text ?? "installing, 41 MB of 120 MB",
                                        remedy: "apt install build-essential" };
                      __viz.draw();
                    }""",
                    state,
                )
                assert page.evaluate(OUTSIDE) == [], state
                assert max(page.evaluate(BAR_ENDS)) <= size[0]
                assert "RECORDED" in page.inner_text(".bar .pill >> nth=0")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("size", "theme"),
    [((1440, 900), 0), ((1024, 768), 0), ((390, 844), 0), ((1280, 720), 2), ((1024, 768), 2)],
)
def test_a_long_id_leaves_the_crosses_of_card_and_drawer_within_reach(
    barred: Browser, tiny_pressure: Path, tmp_path: Path, size: tuple[int, int], theme: int
) -> None:
    trace = tmp_path / "served.trace.jsonl"
    long = "cmpl-f613e7fddf8446f3b1f2a0d1c5e98a7b-"
    trace.write_text(tiny_pressure.read_text().replace("tiny-pressure-", long))
    server = Server(create_app([trace]), port=0).start()
    try:
        with open_page(barred, size=size, reduced_motion="reduce") as page:
            page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
            page.goto(f"{server.url}#/run/served/step/8/req/r4")
            at_step(page, 8)
            assert long in page.inner_text(".why header")
            reach(page, ".why")
            for link in page.locator(".why nav a").all():
                link.click(trial=True, timeout=2000)
            for drawer in page.evaluate("__viz.board.frame.drawers.map(({ id }) => id)"):
                page.evaluate("id => __viz.board.frame.toggle(id)", drawer)
                reach(page, ".drawer")
                if size[0] > 700:
                    reach(page, ".why")
                page.evaluate("__viz.board.frame.closeDrawer()")
    finally:
        server.stop()


def reach(page: Page, panel: str) -> None:
    """Its ✕ lies open and whole, and it does not scroll sideways."""
    page.wait_for_selector(panel)
    wide, room, hit = page.evaluate(
        """panel => {
          const element = document.querySelector(panel);
          const cross = element.querySelector("header [aria-label^=close]");
          const { left, right, top, bottom } = cross.getBoundingClientRect();
          const open = [[left + 3, top + 3], [right - 3, bottom - 3]]
            .every(([x, y]) => document.elementFromPoint(x, y)?.closest("button") === cross);
          return [element.scrollWidth, element.clientWidth, open];
        }""",
        panel,
    )
    assert hit, f"{panel}: its ✕ cannot be reached"
    assert wide <= room, f"{panel} scrolls sideways"


def test_a_notice_covers_the_line_at_the_foot_and_moves_nothing(barred: Browser, url: str) -> None:
    where = """JSON.stringify([...document.querySelectorAll(".stage, .transport, vz-pool")]
        .map((element) => element.getBoundingClientRect()))"""
    with open_page(barred, reduced_motion="reduce") as page:
        page.goto(f"{url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        page.wait_for_timeout(100)
        before = page.evaluate(where)
        page.evaluate("__viz.board.fail('The run cannot be followed further.', 'word '.repeat(90))")
        page.wait_for_selector(".problem")
        assert page.evaluate(where) == before
        page.evaluate("__viz.board.classroom.is.led = true; __viz.draw()")
        assert page.evaluate(where) == before
