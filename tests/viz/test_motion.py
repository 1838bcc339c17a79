"""With reduced motion nothing moves; and no run, however fast, flashes over much of the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.viz.browser import at_step, open_page
from viz.server import Server, create_app
from viz.stress import write

pytestmark = pytest.mark.browser

CELL = 32  # px; WCAG 2.3.1 looks at a quarter of any 341 × 256 px
LUMINANCE = """async ([png, cell]) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const [w, h] = [Math.floor(image.width / cell), Math.floor(image.height / cell)];
  const canvas = new OffscreenCanvas(w, h);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, 0, 0, w * cell, h * cell, 0, 0, w, h);
  const { data } = context.getImageData(0, 0, w, h);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const out = [];
  for (let i = 0; i < data.length; i += 4)
    out.push([0.2126, 0.7152, 0.0722].reduce((sum, k, j) => sum + k * linear(data[i + j]), 0));
  return [w, h, out];
}"""


CROWD_STEPS = range(1, 35)
"""All that it has: at 50 steps a second they pass in less than one."""


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    crowd = write("crowd", tmp_path_factory.mktemp("crowd"))
    server = Server(create_app([tiny_pressure, crowd]), port=0).start()
    yield server.url
    server.stop()


def views(page: Page) -> list[str]:
    found: list[str] = page.evaluate("__viz.board.frame.views.map(({ id }) => id)")
    return found


def test_with_reduced_motion_nothing_is_ever_animated(browser: Browser, url: str) -> None:
    moving = "document.getAnimations().length + Number(__viz.board.player.motion !== null)"
    with open_page(browser, reduced_motion="reduce") as page:
        page.goto(f"{url}#/run/tiny-pressure/step/4")
        at_step(page, 4)
        for view in views(page):
            page.evaluate("view => __viz.board.frame.show(view)", view)
            page.evaluate("__viz.board.travel.seek(7)")
            for key in ("ArrowRight", "ArrowLeft", "ArrowRight", "s", "s", "t", "t", "?", "Escape"):
                page.keyboard.press(key)
                assert page.evaluate(moving) == 0, (view, key)
            page.evaluate("__viz.board.frame.why({req: 'r4'})")
            page.evaluate("new Promise(requestAnimationFrame)")
            assert page.evaluate(moving) == 0, view
        page.evaluate("__viz.board.frame.show('board')")
        page.evaluate("__viz.board.travel.seek(4)")
        page.keyboard.press("Space")  # it plays, step by step, without a beat
        page.wait_for_function("() => __viz.board.step === 5")
        assert page.evaluate(moving) == 0


@pytest.mark.parametrize("theme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize(
    ("run", "steps"),
    [("tiny-pressure", range(1, 18)), ("crowd", CROWD_STEPS)],
    ids=["tiny-pressure", "crowd"],
)
def test_at_full_speed_nothing_large_flashes(
    browser: Browser, url: str, run: str, steps: range, theme: int
) -> None:
    """All these steps may pass within a second: no cell pair that goes up and down by a tenth of
    the luminance more than three times may fill a quarter of a WCAG window."""
    with open_page(browser) as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        page.goto(f"{url}#/run/{run}/step/1")
        at_step(page, 1)
        page.wait_for_function("last => __viz.board.lastStep >= last", arg=steps[-1])
        frames = []
        for step in steps:
            page.evaluate("step => __viz.board.travel.seek(step)", step)
            at_step(page, step)
            frames.append(base64.b64encode(page.screenshot()).decode())
        reader = page.context.browser.new_page()  # type: ignore[union-attr]
        pictures = [reader.evaluate(LUMINANCE, [png, CELL]) for png in frames]
        reader.close()
    w, h, _ = pictures[0]
    flashing = [_flashes([picture[2][i] for picture in pictures]) > 3 for i in range(w * h)]
    wide, high = 341 // CELL, 256 // CELL
    worst = max(
        sum(flashing[(y + dy) * w + x + dx] for dy in range(high) for dx in range(wide))
        for y in range(h - high + 1)
        for x in range(w - wide + 1)
    )
    assert worst < wide * high / 4


def _flashes(levels: list[float]) -> int:
    """Pairs of opposing changes by 0.1 or more, the darker below 0.8."""
    turns, low, high, direction = 0, levels[0], levels[0], 0
    for level in levels[1:]:
        if direction <= 0:
            low = min(low, level)
            if level - low >= 0.1 and low < 0.8:
                turns, direction, high = turns + 1, 1, level
        if direction >= 0:
            high = max(high, level)
            if high - level >= 0.1 and level < 0.8:
                turns, direction, low = turns + 1, -1, level
    return turns // 2


def test_what_counts_as_a_flash() -> None:
    assert _flashes([0, 0.05, 0, 0.05, 0]) == 0
    assert _flashes([0, 0.5, 0, 0.5, 0]) == 2
    assert _flashes([0.9, 1.0, 0.9, 1.0]) == 0  # both are bright
    assert _flashes([0, 0.04, 0.08, 0.12, 0.5, 0.3, 0.0]) == 1
