"""The exported file in a real browser: opened from disk, with every network blocked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.learn.lessons import find_lessons
from minivllm.scenario import load_scenario, start
from tests.viz.browser import at_step, headline, open_page, still
from tests.viz.test_board import with_tour
from tests.viz.test_drawers import HonestExecutor, record
from viz.export import Export
from viz.runs import Catalogue
from viz.server import Server, create_app

pytestmark = pytest.mark.browser

VIEWS = ("board", "life", "pool", "timeline", "compare")
DRAWERS = ("tensors", "source")
NASTY = "</script><script>window.pwned = 1</script>"


def write(out: Path, *traces: Path, **wishes: Any) -> str:
    """The exported file's address."""
    catalogue = Catalogue()
    for trace in traces:
        catalogue.add_file(trace)
    out.write_bytes(b"".join(Export(catalogue.all(), **wishes).parts()))
    return out.as_uri()


@pytest.fixture(scope="module")
def traces(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("exported")
    toured = with_tour(tiny_pressure, folder)
    lines = toured.read_text().splitlines()
    nasty = [line.replace("tiny-pressure-1", NASTY) for line in lines]  # a client names its request
    toured.write_text("\n".join(nasty) + "\n")
    roomy = folder / "roomy.trace.jsonl"
    run = start(load_scenario("tiny-pressure"), trace_path=str(roomy), num_kv_blocks=24).run()
    run.recorder.close()
    return [toured, roomy, record(folder / "honest.jsonl", HonestExecutor)]


@pytest.fixture(scope="module")
def file(traces: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("page") / "run.html", *traces)


@contextmanager
def from_disk(browser: Browser, **context: Any) -> Iterator[Page]:
    """Nothing but the file itself, and what it makes of itself, may be asked for."""
    asked: list[str] = []
    with open_page(browser, offline=True, **context) as page:
        page.on("request", lambda request: asked.append(request.url))
        yield page
    foreign = [url for url in asked if not url.startswith(("file://", "blob:null/", "data:"))]
    assert not foreign


@pytest.fixture
def page(browser: Browser, file: str) -> Iterator[Page]:
    with from_disk(browser) as page:
        yield page


def show(page: Page, hash: str) -> None:
    page.evaluate("hash => { location.hash = hash }", hash)


SHAPE = """() => [...document.querySelectorAll('.stage *, .sentence *, .transport *, .detail *')]
    .filter((element) => !element.closest('.prompt, .pick, .fork'))
    .map((element) => [element.tagName, element.getAttribute('class'),
      element.childElementCount ? '' : element.textContent.trim()].join(' '))"""


def test_every_view_and_drawer_is_built_as_from_the_server(
    browser: Browser, traces: list[Path], file: str
) -> None:
    """Tag by tag, class by class, word by word, at each step; only what needs a server is other."""
    server = Server(create_app(traces), port=0).start()
    seen: dict[str, dict[str, Any]] = {"served": {}, "file": {}}
    try:
        for name, url in (("served", server.url), ("file", file)):
            opened = open_page(browser) if name == "served" else from_disk(browser)
            with opened as page:
                page.goto(f"{url}#/run/tiny-pressure/step/12/req/r4")
                at_step(page, 12)
                still(page)
                for step in range(18):
                    seen[name][f"state {step}"] = page.evaluate("step => __viz.state(step)", step)
                for place in [
                    *(f"step/12/req/r4?view={view}" for view in VIEWS),
                    "step/12?view=compare&with=roomy",
                    *(f"step/8/req/r3?drawer={drawer}" for drawer in DRAWERS),
                    "step/8/block/6",
                ]:
                    show(page, f"#/run/tiny-pressure/{place}")
                    at_step(page, 12 if "step/12" in place else 8)
                    if "with=" in place:
                        page.wait_for_selector(".compare .pair")
                    page.wait_for_timeout(50)  # canvases measure themselves once
                    seen[name][place] = page.evaluate(SHAPE)
                    assert len(seen[name][place]) > 80, place
                assert page.evaluate("window.pwned") is None
    finally:
        server.stop()
    for place, shape in seen["served"].items():
        assert seen["file"][place] == shape, place


def test_it_says_what_it_is_and_where_it_is_from(page: Page, file: str) -> None:
    page.goto(file)
    at_step(page, 0)
    pill = page.locator(".pill")
    assert pill.inner_text().startswith("RECORDED · no model")
    assert "tiny-pressure.trace.jsonl · 20" in pill.inner_text()
    assert "minivllm 0." in pill.inner_text()
    assert page.title() == "minivllm · tiny-pressure and roomy and honest"
    page.keyboard.press("?")
    assert "This page is one file, without a server" in page.inner_text(".help")
    assert page.locator("text=Export this run").count() == 0


def test_what_needs_a_server_says_so(page: Page, file: str) -> None:
    page.goto(f"{file}#/run/honest/step/2")
    at_step(page, 2)
    assert page.locator(".prompt textarea").count() == 0, "it takes no room"
    assert "a file has no engine" in page.inner_text(".prompt")
    page.keyboard.press("x")
    assert "minivllm view honest.jsonl" in page.inner_text(".dialog")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    assert "This page is one file, without a server." in page.inner_text(".compare")


def test_every_panel_opens_without_a_server_and_says_what_it_lacks(page: Page, file: str) -> None:
    """A console error, a request or a breach of the page's policy would fail it."""
    page.goto(f"{file}#/run/tiny-pressure/step/8/req/r4")
    at_step(page, 8)
    for panel in ("find", "tables", "breaks", "runs", "more", "help"):
        page.evaluate("panel => __viz.board.open(panel)", panel)
        assert page.locator(".dialog").count() == 1, panel
        page.keyboard.press("Escape")
    for key in ("v", "i", "n", "h", "a", "q"):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        page.keyboard.press("Escape")
    assert page.evaluate("window.pwned") is None


def test_tour_leads_through_it_to_its_end_card(browser: Browser, file: str) -> None:
    with from_disk(browser, tour=True, reduced_motion="reduce") as page:
        page.goto(file)
        page.wait_for_selector(".tour >> text=Play")
        for stop in (2, 4, 6, 7):
            page.keyboard.press("Space")
            page.wait_for_function("step => __viz.board.step === step", arg=stop)
            page.wait_for_function("() => __viz.board.tour.state !== 'playing'")
        page.click("[data-choice=r4]")
        at_step(page, 8)
        assert "Right: r4 came last" in page.inner_text(".also")
        page.keyboard.press("End")
        at_step(page, 17)
        page.click(".tour >> text=To the end")
        assert "a file has no engine" in page.inner_text(".end-card")
        page.click("text=Follow r4")
        at_step(page, 4)
        assert page.inner_text(".life-head .chip") == "r4"


def test_links_into_it_work_and_follow_the_reader(page: Page, file: str) -> None:
    page.goto(f"{file}#/run/tiny-pressure/step/8/req/r4?view=life")
    at_step(page, 8)
    assert "r4 is preempted" in headline(page)
    page.keyboard.press("ArrowRight")
    at_step(page, 9)
    page.wait_for_function("() => location.hash.includes('/step/9/req/r4?view=life')")
    page.reload()
    at_step(page, 9)
    show(page, f"#/run/tiny-pressure?request={NASTY}&view=life")  # a client's own id
    page.wait_for_function("() => __viz.board.focus.chosen?.req === 'r1'")
    show(page, "#/run/nobody/step/3")
    page.wait_for_selector(".problem")
    assert "There is no run “nobody”." in page.inner_text(".problem")


def test_two_runs_open_side_by_side_and_a_third_from_disk(
    browser: Browser, traces: list[Path], tmp_path: Path
) -> None:
    toured, roomy, _ = traces
    with from_disk(browser) as page:
        page.goto(write(tmp_path / "two.html", roomy, toured))
        page.wait_for_selector(".compare .pair")
        assert "First other decision: step 8" in page.inner_text(".compare")
        page.keyboard.press("b")
        page.wait_for_function("() => __viz.board.pair.flipped")
        own = tmp_path / "mine.trace.jsonl"
        run = start(load_scenario("tiny-pressure"), trace_path=str(own), max_num_seqs=1).run()
        run.recorder.close()
        page.set_input_files("#file", str(own))
        page.wait_for_function("() => __viz.board.pair.b.run.id === 'mine'")


def test_arrays_come_out_of_it(page: Page, file: str) -> None:
    page.goto(f"{file}#/run/honest/step/2?drawer=tensors")
    page.wait_for_selector(".tensors .same")
    load = """at => import('#net/history.js').then(
        ({ loadArray }) => loadArray(__viz.board.run, __viz.board.at, 2, 'seq_lens', at))"""
    told = {"name": "seq_lens", "dtype": "I32", "shape": [1], "values": [7]}
    assert page.evaluate(load, []) == told
    assert page.evaluate(load, [0]) == {**told, "shape": [], "values": 7}
    with pytest.raises(Exception, match="axis 0: got 5"):
        page.evaluate(load, [5])


def test_a_part_of_a_run_begins_where_it_was_cut(
    browser: Browser, tiny_pressure: Path, tmp_path: Path
) -> None:
    with from_disk(browser) as page:
        page.goto(
            write(tmp_path / "part.html", tiny_pressure, steps=(6, 12))
            + "#/run/tiny-pressure/step/8"
        )
        at_step(page, 8)
        assert "r4 is preempted" in headline(page)
        page.keyboard.press("Home")
        at_step(page, 5)
        assert "The trace begins here" in headline(page)
        page.keyboard.press("End")
        at_step(page, 12)


@pytest.mark.parametrize(("take", "says"), [("DecompressionStream", "It needs Chrome"), ("", "")])
def test_a_browser_that_cannot_unpack_it_is_told(
    browser: Browser, file: str, take: str, says: str
) -> None:
    with from_disk(browser) as page:
        if take:
            page.add_init_script(f"delete globalThis.{take}")
        page.goto(file)
        page.wait_for_function("() => document.querySelector('#app').innerText.length > 40")
        assert says in page.inner_text("#app")


def test_a_file_that_is_cut_or_altered_says_so(
    browser: Browser, tiny_pressure: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.html"
    write(whole, tiny_pressure)
    text = whole.read_text()
    at = text.index('id="page">') + 200
    trace = text.index('id="trace-0">') + 200
    half = text.index('id="page">') + 50_000
    for broken, says in (
        (text[:at] + "AAAA" + text[at + 4 :], "damaged"),
        (text[:trace] + "AAAA" + text[trace + 4 :], "tiny-pressure cannot be unpacked"),
        (text[:half], "the file is not whole"),
    ):
        file = tmp_path / "broken.html"
        file.write_text(broken)
        with from_disk(browser) as page:
            page.goto(file.as_uri())
            page.wait_for_function(
                "says => document.querySelector('#app').innerText.includes(says)", arg=says
            )


def test_page_offers_the_run_that_is_open_as_a_file(
    browser: Browser, traces: list[Path], serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(create_app(traces))
    with open_page(browser, accept_downloads=True) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/3")
        at_step(page, 3)
        page.keyboard.press("?")
        with page.expect_download() as download:
            page.click("text=Export this run as one file")
        assert download.value.suggested_filename == "tiny-pressure.html"
        download.value.save_as(tmp_path / "got.html")
    with from_disk(browser) as page:
        page.goto((tmp_path / "got.html").as_uri() + "#/run/tiny-pressure/step/3")
        at_step(page, 3)


def test_numbers_in_a_file_are_those_that_the_server_gives() -> None:
    """``core/numbers.js`` in node: signs, 64 bits, what is no number, parts of arrays."""
    import shutil
    import struct
    import subprocess

    node = shutil.which("node")
    assert node, "node runs the tests of the page's core"
    floats = struct.pack("<6f", 1.5, -2, float("nan"), 4, float("inf"), 6)
    longs = struct.pack("<2q", -1, 2**40)
    script = """
const { widen } = await import("#core/numbers.js");
const bytes = Uint8Array.from(JSON.parse(process.argv[1])).buffer;
const about = { dtype: "F32", shape: [2, 3], as: "f4", from: 0 };
const longs = { dtype: "I64", shape: [2], as: "i8", from: 24 };
const parts = [[], [-1], [0, 1]].map((at) => widen(bytes, about, "x", at).values);
console.log(JSON.stringify([...parts, widen(bytes, longs, "y").values]));
"""
    static = Path(__file__).parents[2] / "viz" / "static"
    run = subprocess.run(
        [node, "--input-type=module", "-e", script, json.dumps(list(floats + longs))],
        capture_output=True,
        text=True,
        cwd=static,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [
        [[1.5, -2, None], [4, None, 6]],
        [4, None, 6],
        -2,
        [-1, 2**40],
    ]


def test_a_cut_run_opens_at_its_beginning_in_the_colours_of_the_whole(
    browser: Browser, tiny_pressure: Path, tmp_path: Path
) -> None:
    hues = "() => ({ ...__viz.board.store.hues.of })"
    with from_disk(browser) as page:
        page.goto(write(tmp_path / "whole.html", tiny_pressure))
        at_step(page, 0)
        whole = page.evaluate(hues)
        page.goto(write(tmp_path / "part.html", tiny_pressure, steps=(6, 9)))
        at_step(page, 5)
        assert "The trace begins here" in headline(page)
        part = page.evaluate(hues)
        assert len(part) >= 4 and part == {req: whole[req] for req in part}


def test_lessons_worksheet_and_playground_without_a_server(
    browser: Browser, file: str, tmp_path: Path
) -> None:
    """What can be made beforehand is in the file; the rest says that there is no server."""
    with from_disk(browser, accept_downloads=True) as page:
        page.goto(f"{file}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        page.keyboard.press("n")
        page.click(".lessons li:first-child button")
        page.wait_for_selector(".rail [role=tabpanel] h3")
        page.click("[data-tab=walk]")
        assert "is not in this file" in page.inner_text(".rail")
        page.keyboard.press("Escape")
        page.evaluate("__viz.board.lessons.close()")
        page.evaluate("__viz.board.own.open()")
        page.wait_for_function("() => document.querySelector('.own .notice').textContent.length")
        assert "without a server or an engine" in page.inner_text(".own .notice")
        assert page.locator(".own .foot button").is_disabled()
        assert page.locator(".own legend").count() == 0
        page.keyboard.press("Escape")
        page.evaluate("__viz.board.printing.open()")
        with page.expect_download() as download:
            page.click("text=Save the worksheet")
        download.value.save_as(tmp_path / "sheet.html")
        sheet = (tmp_path / "sheet.html").read_text()
        assert sheet.count("<section") == 2 and "r4 preempted for r3" in sheet
        page.keyboard.press("Escape")
        page.evaluate("__viz.board.frame.show('play')")
        page.wait_for_selector(".chat")
        page.wait_for_timeout(300)  # it froze here
        assert "without a server or an engine" in page.inner_text(".chat")


def test_a_lesson_whose_run_is_in_the_file_can_be_walked(browser: Browser, tmp_path: Path) -> None:
    (lesson, *_) = [each for each in find_lessons().all() if each.recording is not None]
    assert lesson.recording is not None
    with from_disk(browser) as page:
        page.goto(write(tmp_path / "lesson.html", lesson.recording))
        at_step(page, 0)
        page.evaluate("slug => __viz.board.lessons.open(slug)", lesson.slug)
        page.click("text=Walk through it")
        page.wait_for_function("() => __viz.board.lessons.tour !== null")
