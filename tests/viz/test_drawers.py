"""The drawers in a real browser: the batch of a step (T) and the source that ran (S)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput, StepTensors
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, Engine
from tests.core.tensors import TensorExecutor, floats
from tests.viz.browser import at_step, open_page, still
from tests.viz.conftest import MakeEngine
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]


class HonestExecutor(ScriptedExecutor):
    """Hands back the one array that the scheduler's output tells by itself."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        output = super().execute_model(scheduler_output)
        first = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        first.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        ran = scheduler_output.num_scheduled_tokens
        lens = floats("seq_lens", [len(ran)], [first[req] + n for req, n in ran.items()], "I32")
        output.tensors = StepTensors(list(ran), [lens], [])
        return output


def record(path: Path, executor: type[ScriptedExecutor]) -> Path:
    trace = Recorder(TraceLog(HEADER, str(path)))
    e = Engine(executor=executor, trace=trace, level="tensors")
    e.add("a", 6, max_tokens=3)
    e.run()
    trace.flush()
    return path


def with_candidates(tiny_pressure: Path, path: Path) -> Path:
    """tiny-pressure as if recorded at level ``sampling``: step 8 tells how r1's token was drawn."""
    lines = []
    for line in tiny_pressure.read_text().splitlines():
        event = json.loads(line)
        if event.get("kind") == "sample" and event["step"] == 8:
            row = event["data"]["rows"][0]
            drawn = {"token_id": row["token_id"], "text": row["text"]}
            other = {"token_id": 1, "text": "<b>other</b>"}
            row["logprob"], row["rank"] = -1.2, 2
            row["before"] = [{**other, "logprob": -0.5}, {**drawn, "logprob": -1.2}]
            row["after"] = [{**drawn, "probability": 1.0}]
            row["processors"] = [
                {"name": "bad_words", "masked": True, "count": 1, "token_ids": [1], "texts": ["x"]}
            ]
            line = json.dumps(event)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def url(tiny_pressure: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("drawers")
    files = [
        tiny_pressure,
        record(folder / "honest.jsonl", HonestExecutor),
        record(folder / "altered.jsonl", TensorExecutor),
        with_candidates(tiny_pressure, folder / "sampled.trace.jsonl"),
    ]
    server = Server(create_app(files), port=0).start()
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
    page.goto(f"{url}#/run/{place}")
    at_step(page, step)


def cells(page: Page, row: str) -> list[str]:
    return row_of(page, row).locator("td").all_inner_texts()


def row_of(page: Page, row: str) -> Locator:
    return page.locator(".flat tr", has=page.get_by_role("rowheader", name=row, exact=True))


def test_the_batch_stands_token_by_token_with_its_slots(page: Page) -> None:
    page.keyboard.press("t")
    page.wait_for_url("**/step/12?drawer=tensors")
    assert cells(page, "text") == ["a", "three", ",", "four", ",", "five", ",", "six"]
    assert cells(page, "positions") == ["28", "4", "5", "6", "7", "8", "9", "10"]
    assert cells(page, "slot_mapping") == ["60", "40", "41", "42", "43", "20", "21", "22"]
    rows = page.locator(".by-request tbody tr").all_inner_texts()
    assert [" ".join(row.split()) for row in rows] == [
        "r3 decode 0 … 1 29 7 8 9 11 12 13 6 15",
        "r4 resume 1 … 8 11 14 10 5 0 0 0 0 0",
    ]
    row_of(page, "text").locator("td").nth(5).hover()  # "five", in block 5
    assert page.evaluate("__viz.board.focus.hover.block") == 5
    assert page.locator(".flat .looked").count() == 5 * 3
    page.keyboard.press("ArrowRight")
    at_step(page, 13)
    assert cells(page, "positions") == ["29", "11"]
    page.keyboard.press("Escape")
    assert page.locator(".drawer").count() == 0


def test_recorded_arrays_are_compared_with_what_the_events_say(page: Page, url: str) -> None:
    go(page, url, "honest/step/2?drawer=tensors", 2)
    page.wait_for_selector("text=✓ the same as the worker’s own arrays")
    go(page, url, "altered/step/1?drawer=tensors", 1)
    page.wait_for_selector("text=The worker’s own seq_lens differs at 0: 4, the events say 6.")
    go(page, url, "tiny-pressure/step/0?drawer=tensors", 0)
    assert "Before the first step there is no batch." in page.inner_text(".drawer")


def test_each_candidate_shows_its_share_and_what_became_of_it(page: Page, url: str) -> None:
    go(page, url, "sampled/step/8?drawer=tensors", 8)
    table = page.locator(".sampled")
    assert "bad_words ✕ 1" in table.inner_text()
    rows = [" ".join(row.split()) for row in table.locator("tbody tr").all_inner_texts()]
    assert rows[0] == "<b>other</b> 61 % ✕"
    assert rows[1].startswith("▸") and rows[1].endswith("30 % 100 %")
    assert page.locator(".drawer b b, .sampled b >> text=other").count() == 0


def test_the_line_that_decided_is_lit_and_leads_to_its_events(page: Page, url: str) -> None:
    go(page, url, "tiny-pressure/step/8?drawer=source", 8)
    assert "self.trace.emit(" in page.inner_text(".code .current")
    assert "Scheduler._allocate_or_preempt" in page.inner_text(".drawer .where")
    assert page.inner_text(".code .current .hits") == "1"
    page.click(".code .current button")
    assert "sched.victim r4" in page.inner_text(".told")
    page.click(".told .link")
    page.wait_for_url("**/step/8/event/**")
    page.keyboard.press("Shift+ArrowRight")  # the next event is another line
    lit = page.inner_text(".code .current .line-number")
    source = page.evaluate(
        """() => { const { board } = __viz; const { step, event } = board.player;
        return board.store.sources.get(board.store.eventsOf(step)[event - 1].src); }"""
    )
    assert lit == str(source["line"]) and source["function"] in page.inner_text(".drawer .where")
    page.keyboard.press("Escape")
    page.evaluate("__viz.board.focus.choose({ req: 'r4' })")
    page.click(".why .source")
    assert page.locator(".drawer.right").count() == 1
    page.keyboard.press("Escape")


def test_a_live_engine_is_held_at_a_line(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        page.fill("[name=prompt]", "One two three four five six")
        page.press("[name=prompt]", "Enter")
        page.wait_for_function("() => window.__viz?.board.store?.head.finished.length === 1")
        page.evaluate("__viz.board.travel.seek(1)")
        at_step(page, 1)
        page.click("main h2")
        page.keyboard.press("s")
        option = page.locator(".choose option", has_text="BlockPool.get_new_blocks")
        page.select_option(".choose select", option.get_attribute("value"))
        page.locator(".code button", has_text="KvAlloc").first.click()
        assert "kv.alloc r1" in page.inner_text(".told")
        page.click("text=Run until this line")
        page.keyboard.press("Escape")
        page.fill("[name=prompt]", "Seven eight nine ten eleven")
        page.press("[name=prompt]", "Enter")
        page.wait_for_function("() => __viz.board.engine.gate?.mode === 'pause'")
        held = engine.gate.held
        assert held is not None and held.event is not None and held.event.kind == "kv.alloc"
