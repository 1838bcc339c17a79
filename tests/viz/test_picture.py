"""Pictures of the views: drawings that any program opens, whole, and told apart without colour."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from minivllm.scenario import load_scenario, start
from tests.viz.browser import at_step, open_page, still
from viz.screenshot import take
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = {
    "tspan",
    *("svg", "title", "defs", "g", "pattern", "clipPath", "linearGradient", "stop"),
    *("rect", "path", "text", "circle", "line"),
}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "memory-pressure.trace.jsonl"
    run = start(load_scenario("memory-pressure"), trace_path=str(path)).run()
    run.recorder.close()
    return path


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, long_run: Path) -> Iterator[str]:
    server = Server(create_app([tiny_pressure, long_run], workbench=ScenarioBench()), port=0)
    yield server.start().url
    server.stop()


def go(page: Page, url: str, place: str, step: int) -> None:
    page.goto(f"{url}#/run/{place}")
    at_step(page, step)
    still(page)


def picture(page: Page, paper: bool = True) -> ElementTree.Element:
    return ElementTree.fromstring(page.evaluate("paper => __viz.picture(paper).text", paper))


def words(drawn: ElementTree.Element) -> str:
    return " ".join("".join(t.itertext()) for t in drawn.iter(f"{SVG}text"))


def says(drawn: ElementTree.Element, text: str) -> bool:
    """However it is cut into pieces."""
    return re.sub(r"\s", "", text) in re.sub(r"\s", "", words(drawn))


WORDS = {
    "board": ["RUNNING", "10 unused: r4 was preempted in this step", "free 2, next to be taken →"],
    "life": ["THE STAIR", "why not", "for r3", "One", "preempted"],
    "pool": ["FREE QUEUE", "Once upon a", "next"],
    "timeline": ["5 requests over 17 steps, at most 4 at once", "r5", "17"],
    "compare": ["A is tiny-pressure. What shall stand beside it?", "--num-kv-blocks"],
    "board&drawer=source": ["Scheduler._", "def ", "minivllm/core/scheduler.py"],
    "board&drawer=tensors": ["input_ids", "positions", "slot_mapping"],
}


def test_a_view_is_drawn_whole_and_the_page_stays_as_it_was(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        for view, expected in WORDS.items():
            go(page, url, f"tiny-pressure/step/8/req/r4?view={view}", 8)
            page.wait_for_function(
                "() => !document.querySelector('.stage').textContent.includes('Fetching')"
            )
            if view == "compare":
                page.wait_for_selector("text=--num-kv-blocks")  # the form comes from the server
            before = page.evaluate(STANDING)
            for paper in (True, False):
                drawn = picture(page, paper)
                assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= DRAWN, view
                for said in [*expected, "r4 is preempted: r3 needs 1 block"]:
                    assert says(drawn, said), said
                assert words(drawn).endswith(f"#/run/tiny-pressure/step/8/req/r4{place_of(view)}")
                ground = drawn.find(f"{SVG}rect")
                assert ground is not None
                assert ground.get("fill") == ("#ffffff" if paper else "#101317")
            assert page.evaluate(STANDING) == before, view


STANDING = """() => [document.documentElement.outerHTML.slice(0, 600), __viz.board.place(), scrollY,
  ...[...document.querySelectorAll('canvas, .stage *')].slice(0, 400).map((e) => {
    const {x, y, width, height} = e.getBoundingClientRect();
    return [e.tagName, x, y, width, height, e.scrollTop].join(' ');
  })]"""


def place_of(view: str) -> str:
    name, _, drawer = view.partition("&")
    parts = ([f"view={name}"] if name != "board" else []) + ([drawer] if drawer else [])
    return f"?{'&'.join(parts)}" if parts else ""


def test_what_is_scrolled_out_of_sight_is_in_it(browser: Browser, url: str) -> None:
    with open_page(browser, size=(1024, 768)) as page:
        go(page, url, "memory-pressure/step/60/req/r5?view=life", 60)
        page.click("text=every step")
        steps = page.evaluate("__viz.board.lastStep")
        drawn = picture(page)
        last = max(int(word) for word in words(drawn).split() if word.isdecimal())
        assert last >= page.evaluate("__viz.state(__viz.board.lastStep).requests.r5.finished_step")
        assert float(drawn.get("width") or 0) > 28 * 50 and steps == 89
        go(page, url, "memory-pressure/step/60?view=pool", 60)
        drawn = picture(page)
        free = page.evaluate("__viz.state().free")
        assert float(drawn.get("height") or 0) > 768
        shown = words(drawn)
        assert all(re.search(rf"\b{block}\b", shown) for block in free)


def test_a_line_of_text_is_one_element_and_no_control_of_the_page_is_in_it(
    browser: Browser, url: str
) -> None:
    """Programs differ in how wide a text is: what follows it must not be written over it."""
    with open_page(browser) as page:
        go(page, url, "tiny-pressure/step/8/req/r4", 8)
        drawn = picture(page)
        shown = words(drawn)
        assert "Lessons" not in shown and shown.count("✕") == 1, "in the legend"
        lines = [text for text in drawn.iter(f"{SVG}text") if len(text) > 1]
        assert lines and all(not span.get("x") for line in lines for span in line)


GREY = """async ({svg, places, size}) => {
  const image = new Image();
  image.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(svg);
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return places.map(([x, y]) => {
    const d = context.getImageData(x, y, size, size).data;
    return Array.from({length: size * size}, (_, i) =>
      Math.round(0.2126 * d[4 * i] + 0.7152 * d[4 * i + 1] + 0.0722 * d[4 * i + 2]));
  });
}"""


def patches(page: Page, size: int, places: Any) -> list[list[int]]:
    """Grey squares out of the picture: ``places(drawing)`` tells their upper left corners."""
    svg = page.evaluate("__viz.picture().text")
    found = places(ElementTree.fromstring(svg))
    grey: list[list[int]] = page.evaluate(GREY, {"svg": svg, "places": found, "size": size})
    return grey


def alike(one: list[int], other: list[int]) -> int:
    return sum(abs(a - b) > 24 for a, b in zip(one, other, strict=True))


def blocks_at(ids: list[int]) -> Any:
    """Where the Board's blocks of 72 px stand: by their numbers, which are written at (6, 16)."""

    def find(drawn: ElementTree.Element) -> list[list[float]]:
        found = {}
        for text in drawn.iter(f"{SVG}text"):
            if text.get("font-size") == "11" and (text.text or "").isdecimal():
                e, f = (float(n) for n in (text.get("transform") or "")[7:-1].split()[-2:])
                found[int(text.text or 0)] = [
                    round(float(text.get("x") or 0) + e - 6),
                    round(float(text.get("y") or 0) + f - 16),
                ]
        return [found[i] for i in ids]

    return find


def test_greyscale_tells_block_states_and_token_kinds_apart(browser: Browser, url: str) -> None:
    """In use and shared and blank at step 2; in use, cached, and just taken at step 14."""
    with open_page(browser) as page:
        go(page, url, "tiny-pressure/step/2", 2)
        states = patches(page, 72, blocks_at([1, 3, 12]))
        go(page, url, "tiny-pressure/step/14", 14)
        states += patches(page, 72, blocks_at([1, 7, 15]))
        for i, one in enumerate(states):
            for other in states[i + 1 :]:
                assert alike(one, other) > 250, "two block states look alike without colour"
        legend = page.evaluate(
            """() => { document.documentElement.classList.add('picture');
              const at = [...document.querySelectorAll('.legend vz-token')].map((token) => {
                const {x, y} = token.getBoundingClientRect();
                const app = document.getElementById('app').getBoundingClientRect();
                return [Math.round(x - app.x + 16), Math.round(y - app.y + 16)]; });
              document.documentElement.classList.remove('picture'); return at; }"""
        )
        kinds = patches(page, 14, lambda _: legend)
        assert len(kinds) == 5
        for i, one in enumerate(kinds):
            for other in kinds[i + 1 :]:
                assert alike(one, other) >= 8, "two kinds of token look alike without colour"


def test_it_is_saved_and_printed_from_the_panel(browser: Browser, url: str, tmp_path: Path) -> None:
    with open_page(browser, accept_downloads=True) as page:
        go(page, url, "tiny-pressure/step/8?view=pool", 8)
        page.keyboard.press("i")
        with page.expect_download() as svg:
            page.get_by_role("button", name="Save as SVG").click()
        assert svg.value.suggested_filename == "tiny-pressure-step-8-pool.svg"
        svg.value.save_as(tmp_path / "a.svg")
        drawn = ElementTree.parse(tmp_path / "a.svg").getroot()
        assert "PICTURE AND WORKSHEET" not in words(drawn).upper(), "the panel is not in it"
        with page.expect_download() as png:
            page.get_by_role("button", name="Save as PNG").click()
        assert png.value.suggested_filename == "tiny-pressure-step-8-pool.png"
        png.value.save_as(tmp_path / "a.png")
        header = (tmp_path / "a.png").read_bytes()[:24]
        width = int.from_bytes(header[16:20], "big")
        assert header.startswith(b"\x89PNG") and width == 2 * int(drawn.get("width") or 0)
        page.keyboard.press("Escape")
        pages = pages_of(page.pdf(prefer_css_page_size=True))
        assert len(pages) == 1 and pages[0][0] > pages[0][1], "one page of A4, across"
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.wait_for_function("() => !document.querySelector('#paper').childElementCount")


def pages_of(pdf: bytes) -> list[tuple[float, float]]:
    """Width and height of each page."""
    boxes = re.findall(rb"/Type\s*/Page\b.*?/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf, re.DOTALL)
    return [(float(w), float(h)) for w, h in boxes]


def test_a_prompt_that_is_markup_is_text_in_it(browser: Browser, tmp_path: Path) -> None:
    scenario = load_scenario("tiny-pressure")
    odd = ["</text><script>", "", " 你好", "", "\x1b🙂", "", "&lt; مرحبا", ""]
    scenario.request[3].prompt_texts = odd
    path = tmp_path / "odd.trace.jsonl"
    run = start(scenario, trace_path=str(path)).run()
    run.recorder.close()
    server = Server(create_app([path]), port=0).start()
    with open_page(browser) as page:
        go(page, server.url, "odd/step/6/req/r4?view=life", 6)
        drawn = picture(page)
        assert {element.tag.removeprefix(SVG) for element in drawn.iter()} <= DRAWN
        for said in ("</text><script>", "&lt;", "你好", "🙂", "مرحبا"):
            assert says(drawn, said), said
        assert (
            page.evaluate(
                "async () => { const { pngOf } = await import('#view/picture/save.js');"
                " return (await pngOf(__viz.picture())).size; }"
            )
            > 10_000
        )
    server.stop()


def test_the_command_line_makes_one_too(tmp_path: Path) -> None:
    out = tmp_path / "life.svg"
    command = [sys.executable, "-m", "viz.screenshot", "--view", "life", "--step", "12", "-o"]
    subprocess.run([*command, str(out)], check=True, timeout=60)
    assert says(ElementTree.parse(out).getroot(), "THE STAIR")
    with pytest.raises(SystemExit, match="allowed: a name with"):
        take(out=Path("life.gif"))
