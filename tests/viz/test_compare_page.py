"""Timeline and Compare in a browser: two runs, one cursor; the table; the Board flipped; a fork."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from minivllm.cli.workbench import ScenarioBench
from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, start
from tests.viz.browser import at_step, headline, open_page
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser
BOARD_ROWS = (
    "steps",
    "tokens run",
    "tokens reused",
    "preemptions",
    "TTFT mean, steps",
    "tokens out / step",
)
COMPARED = Path(__file__).parents[1] / "data" / "compare.json"


def record(path: Path, scenario: Scenario | str, **knobs: Any) -> Path:
    given = load_scenario(scenario) if isinstance(scenario, str) else scenario
    run = start(given, trace_path=str(path), **knobs).run()
    run.recorder.close()
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("two")

    def file(name: str) -> Path:
        return here / f"{name}.trace.jsonl"

    engine = {"num_kv_blocks": 128, "block_size": 4, "max_num_seqs": 80, "max_model_len": 64}
    prompts = [[10 * i + 1, 10 * i + 2, 10 * i + 3] for i in range(70)]
    many = [
        ScenarioRequest(arrives=1, prompt_token_ids=ids, output_tokens=4 + i % 3)
        for i, ids in enumerate(prompts)
    ]
    return {
        "tiny-pressure": record(file("tiny-pressure"), "tiny-pressure"),
        "no-caching": record(file("no-caching"), "tiny-pressure", enable_prefix_caching=False),
        "same": record(file("same"), "tiny-pressure"),
        "many": record(file("many"), Scenario(name="many", engine=engine, request=many)),
    }


@pytest.fixture(scope="module")
def server(traces: dict[str, Path]) -> Iterator[Server]:
    server = Server(create_app(list(traces.values()), workbench=ScenarioBench()), port=0).start()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with open_page(browser) as page:
        yield page


def two(page: Page, server: Server, place: str) -> None:
    page.goto(f"{server.url}#/run/{place}")
    page.wait_for_function("() => window.__viz?.board.pair.on && !__viz.board.wanted")


def test_both_words_of_a_parting_stand_beside_each_other_below_the_head(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}#/run/tiny-pressure/step/8?view=compare")
    page.wait_for_selector(".make .knob")
    page.evaluate("document.querySelector('.view.compare').scrollTop = 400")
    page.evaluate("__viz.board.pair.load('no-caching')")
    page.wait_for_selector(".parting .others em")
    assert page.evaluate("document.querySelector('.view.compare').scrollTop") == 0
    assert page.evaluate("document.activeElement.className") == "verdict"
    for words in page.locator(".parting .others p > span").all():
        assert words.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), words.inner_text()
        assert words.evaluate("e => getComputedStyle(e).textAlign") in ("start", "left")
    assert page.evaluate(
        "() => { const b = document.querySelector('.bar'); return b.scrollWidth <= b.clientWidth; }"
    )


def table(page: Page) -> list[list[str]]:
    lines: list[list[str]] = page.evaluate(
        "() => [...document.querySelectorAll('.difference tbody > tr:not(.account, .group)')]"
        ".map(row => [...row.children].map(cell => cell.innerText.replace(/^[▸▾]\\s*/, '').trim()))"
    )
    return lines


def test_compare_prints_what_the_command_line_does(page: Page, server: Server) -> None:
    two(page, server, "tiny-pressure/step/2?view=compare&with=no-caching")
    pair = next(
        pair
        for pair in json.loads(COMPARED.read_text(encoding="utf-8"))
        if (pair["a"], pair["b"]) == ("tiny-pressure", "no-caching")
    )
    cells = {
        row["label"]: [row[key] for key in ("label", "a", "b", "difference", "because")]
        for row in pair["rows"]
    }
    assert table(page) == [cells[label] for label in BOARD_ROWS]
    page.get_by_role("button", name="all 27 rows").click()
    assert table(page) == list(cells.values())
    expect(page.locator(".verdict")).to_have_text("First other decision: step 2")
    told = page.locator(".told").all_inner_texts()
    assert "8 of its 11 prompt tokens are already in blocks 1 and 2; 3 run." in told[0]
    assert "r2 is admitted: 7 of its 11 prompt tokens run; the budget is full." in told[1]
    expect(page.locator(".parting")).to_contain_text(
        "enable_prefix_caching is on in A and off in B"
    )
    expect(page.locator(".parting")).to_contain_text("kv.cache 3 | 0")

    # An account: which requests, which limits, which steps; a step leads there.
    page.locator(".difference th button", has_text="TTFT mean").click()
    account = page.locator(".account").inner_text()
    assert re.search(r"r4\s+\+4\s+2 → 6 steps", account) and "waits: no_budget" in account
    assert "r1, r3, r5: the same" in account
    page.get_by_role("button", name="step 6 of B").first.click()
    at_step(page, 6)
    assert "r3 is preempted" in page.locator(".told").nth(1).inner_text()


def test_one_cursor_over_both_by_step_and_by_token_and_in_the_address(
    page: Page, server: Server
) -> None:
    two(page, server, "tiny-pressure/step/7?view=compare&with=no-caching")
    steps = "() => [0, 1].map(side => window.__viz.board.pair.stepOf(side))"
    page.keyboard.press("ArrowRight")
    at_step(page, 8)
    assert page.evaluate(steps) == [8, 8]
    box = page.locator("vz-cells").first.bounding_box()
    assert box is not None
    cell = (box["width"] - 44) / 20
    page.mouse.click(box["x"] + 44 + 4.5 * cell, box["y"] + 4 + 18 + 3.4 * 30)  # r4, step 5
    at_step(page, 5)
    assert page.evaluate("() => window.__viz.board.focus.chosen") == {"req": "r4"}
    page.get_by_role("button", name="token", exact=True).click()
    assert page.evaluate(steps) == [5, 9], "r4's first token"
    page.wait_for_function("() => location.hash.includes('by=token')")
    assert "with=no-caching" in page.url and "/req/r4" in page.url
    page.reload()
    page.wait_for_function("() => window.__viz?.board.pair.on && !__viz.board.wanted")
    assert page.evaluate(steps) == [5, 9]


def test_b_flips_the_board_in_place_and_b_has_a_s_colours(page: Page, server: Server) -> None:
    two(page, server, "tiny-pressure/step/8?with=no-caching")
    at_step(page, 8)
    assert headline(page).startswith("r4 is preempted")
    hue = "() => document.querySelector('.running .chip[data-req=r3]').className"
    before = page.evaluate(hue)
    page.keyboard.press("b")
    page.wait_for_function("() => window.__viz.board.pair.flipped")
    at_step(page, 8)
    assert headline(page) == "r3 runs 11 of the 12 tokens that it lacks."
    assert page.evaluate(hue) == before
    page.wait_for_function("() => location.hash.includes('side=b')")
    page.keyboard.press("ArrowRight")
    at_step(page, 9)
    page.get_by_role("button", name="run B is shown").click()
    at_step(page, 9)
    assert headline(page).startswith("r4 waits: it needs 3 blocks")
    assert "/run/tiny-pressure/" in page.url
    page.keyboard.press("c")
    assert page.locator(".side").count() == 2, "the pair stays from view to view"


def test_equal_runs_and_other_workloads_say_so(page: Page, server: Server) -> None:
    two(page, server, "tiny-pressure/step/3?view=compare&with=same")
    expect(page.locator(".verdict")).to_have_text("The same in all 17 steps.")
    assert page.locator(".parting").count() == 0
    assert {row[3] for row in table(page)} == {"0"}
    page.get_by_role("button", name="another", exact=True).click()
    page.locator(".pick button", has_text="many").click()
    page.wait_for_function("() => window.__viz.board.pair.on")
    expect(page.locator(".verdict")).to_contain_text("Only the numbers can be compared")
    assert not page.locator(".account, .difference th button").count(), "no account without a match"
    page.locator("body").press("?")
    page.get_by_role("button", name="Show the Compare as tables").click()
    twin = page.locator(".tables").inner_text()
    assert "B−A" in twin and "ppdddddddd✓" in twin


def test_a_fork_from_the_page_stands_beside_its_original(page: Page, server: Server) -> None:
    page.goto(f"{server.url}#/run/tiny-pressure/step/5?view=compare")
    at_step(page, 5)
    page.wait_for_selector("form.fork .knob")
    page.get_by_label("from step 5 on, where the cursor stands").check()
    pool = page.locator("label.knob:has(code:text-is('--num-kv-blocks')) input")
    assert pool.is_disabled(), "a pool is made once"
    field = page.locator("label.knob:has(code:text-is('--max-num-seqs')) input")
    field.fill("2")
    field.press("Tab")
    page.get_by_role("button", name="Fork at step 5").click()
    page.wait_for_function("() => window.__viz.board.pair.on")
    expect(page.locator(".verdict")).to_have_text("First other decision: step 5")
    expect(page.locator(".parting")).to_contain_text(
        "max_num_seqs is 8 in A and 2 in B from step 5"
    )
    assert "max_num_seqs=2 from step 5 on" in page.locator(".side h2").nth(1).inner_text()


def test_a_file_of_ones_own_becomes_b_and_is_not_sent(
    page: Page, server: Server, traces: dict[str, Path]
) -> None:
    page.goto(f"{server.url}#/run/tiny-pressure/step/5?view=compare")
    at_step(page, 5)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.locator("#file").set_input_files(str(traces["no-caching"]))
    page.wait_for_function("() => window.__viz.board.pair.on")
    assert page.evaluate("() => window.__viz.board.pair.b.run.id") == "no-caching-2"
    assert "POST" not in sent


def test_the_live_run_so_far_can_be_forked(
    page: Page, make_engine: MakeEngine, serve: Callable[[BoardApp], Server]
) -> None:
    app, engine = create_app(workbench=ScenarioBench()), make_engine(paused=True)
    app.attach_engine(engine)
    for prompt in ("one two three", "four five six", "seven eight"):
        engine.submit(prompt)
    engine.gate.step(5)
    page.goto(f"{serve(app).url}#/run/live?view=compare")
    page.wait_for_function("() => window.__viz?.board.lastStep === 5")
    page.wait_for_selector("form.fork .knob")
    field = page.locator("label.knob:has(code:text-is('--max-num-seqs')) input")
    field.fill("1")
    field.press("Tab")
    page.get_by_role("button", name="Fork from the start").click()
    page.wait_for_function("() => window.__viz.board.pair.on")
    expect(page.locator(".verdict")).to_have_text("First other decision: step 1")
    page.keyboard.press("b")
    page.wait_for_function("() => window.__viz.board.pair.flipped")
    engine.gate.step(2)
    page.wait_for_function("() => window.__viz.board.pair.a.store.lastStep === 7")
    assert page.evaluate("() => window.__viz.board.lastStep") == 5, "B stays as it is"


def test_the_timeline_selects_zooms_and_shows_what_find_found(page: Page, server: Server) -> None:
    page.goto(f"{server.url}#/run/tiny-pressure/step/8?view=timeline")
    at_step(page, 8)
    box = page.locator("vz-cells").bounding_box()
    assert box is not None
    lane = page.evaluate("() => document.querySelector('vz-cells').data.lane")
    top = 18 + 16 + 54 + lane / 2

    def place(step: float, row: int) -> tuple[float, float]:
        assert box is not None
        return box["x"] + 28 + (step - 0.5) * (box["width"] - 28) / 17, box["y"] + top + row * lane

    page.mouse.move(*place(10, 1))
    words = page.locator(".detail").inner_text()
    assert words.startswith("r5, step 10: waits · behind r4, for whom too few KV blocks are free")
    assert words.endswith("(steps 9 to 11)")
    page.mouse.click(*place(12, 3))
    at_step(page, 12)
    assert page.evaluate("() => window.__viz.board.focus.chosen") == {"req": "r4"}
    page.keyboard.press("ArrowUp")
    assert page.evaluate("() => window.__viz.board.focus.chosen") == {"req": "r3"}
    assert "r3, step 12: decode" in page.locator("#say").inner_text()
    page.mouse.move(*place(6, 0))
    page.mouse.down()
    page.mouse.move(*place(11, 0), steps=3)
    page.mouse.up()
    view = "() => document.querySelector('vz-cells').data.view"
    assert page.evaluate(view) == {"from": 6, "to": 12}
    page.keyboard.press("0")
    assert page.evaluate(view) == {"from": 1, "to": 18}
    page.get_by_role("button", name="KV pool").click()
    assert page.evaluate("() => document.querySelector('vz-cells').data.charts") == ["budget"]
    page.get_by_role("button", name="by step").click()
    assert page.evaluate("() => document.querySelector('vz-cells').data.byTime")
    page.keyboard.press("b")
    page.keyboard.press("/")
    page.get_by_role("button", name="evictions").click()
    page.get_by_role("button", name="show them in the timeline").click()
    hits = page.evaluate("() => [...document.querySelector('vz-cells').data.hits]")
    assert hits == [6, 10, 12, 14]


def test_more_than_the_board_shows_leads_to_the_timeline(page: Page, server: Server) -> None:
    page.goto(f"{server.url}#/run/many/step/2")
    at_step(page, 2)
    more = page.locator(".rows .more button")
    expect(more).to_contain_text("more")
    more.click()
    page.wait_for_selector(".view.timeline vz-cells")
    assert "view=timeline" in page.evaluate("() => window.__viz.board.place()")
    assert page.evaluate("() => document.querySelector('vz-cells').data.lanes") == 70


@pytest.mark.parametrize("size", [(390, 844), (1024, 768)])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    with open_page(browser, size=size) as page:
        for place in ("compare&with=no-caching", "timeline"):
            two(page, server, f"tiny-pressure/step/8?with=same&view={place}")
            page.wait_for_selector("vz-cells")
            wider = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0, place
        if size[0] < 700:
            two(page, server, "tiny-pressure/step/8?view=compare&with=no-caching")
            page.wait_for_selector(".difference table")
            tops = page.evaluate(
                "() => [...document.querySelectorAll('.side, .difference')]"
                ".map(part => part.getBoundingClientRect().top)"
            )
            assert tops == sorted(tops) and len(set(tops)) == 3, "A, B, table: one below another"
