"""The knobs on the page: a scenario run anew with other ones, or those of the live engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from minivllm.config import BATCHINGS, KV_MANAGERS, POLICIES, STEP_KNOBS
from minivllm.errors import ConfigError
from minivllm.trace.file import decode_event
from tests.viz.browser import at_step, headline, open_page
from tests.viz.conftest import MakeEngine
from viz.commands import CommandThread
from viz.pages import describe_run
from viz.server import BoardApp, Server, create_app

BENCH = ScenarioBench()


def config_of(app: BoardApp, run_id: str) -> Any:
    run = app.catalogue.get(run_id)
    assert run is not None
    events = [decode_event(line) for line in run.lines("engine0", 1, 50)]
    return next(event.data for event in events if event.kind == "run.config")


def test_every_policy_can_be_chosen() -> None:
    choices = {knob["name"]: knob["choices"] for knob in BENCH.knobs()}
    assert choices["policy"] == list(POLICIES) and choices["batching"] == list(BATCHINGS)
    assert choices["kv_manager_cls"] == list(KV_MANAGERS)
    kinds = {knob["name"]: knob["kind"] for knob in BENCH.knobs()}
    for name in ("enable_chunked_prefill", "enable_prefix_caching"):
        assert kinds[name] == "bool"
    assert {"long_prefill_token_threshold", "watermark", "speculative_ngram"} <= set(kinds)
    assert {knob["name"] for knob in BENCH.knobs() if knob["live"]} == set(STEP_KNOBS)


def test_a_scenario_runs_anew_and_is_offered_as_a_run() -> None:
    app = create_app(workbench=BENCH)
    first = app.simulate({"scenario": "tiny-pressure", "knobs": {"batching": "static"}})
    second = app.simulate({"scenario": "tiny-pressure", "knobs": {}})
    assert (first, second) == ("tiny-pressure", "tiny-pressure-2")
    assert config_of(app, first).batching == "static"
    assert config_of(app, second).batching == "continuous"


def test_a_simulated_run_is_called_by_the_knobs_that_were_changed() -> None:
    app = create_app(workbench=BENCH)
    usual = {"num_kv_blocks": 16, "batching": "continuous"}  # as the scenario has them
    for changed in (
        {},
        {"batching": "static"},
        {"num_kv_blocks": 24, "enable_prefix_caching": False},
    ):
        app.simulate({"scenario": "tiny-pressure", "knobs": {**usual, **changed}})
    listed = [describe_run(run) for run in app.catalogue.all()]
    assert [run["label"] for run in listed] == [
        "",
        "tiny-pressure-2 · batching=static",
        "tiny-pressure-3 · num_kv_blocks=24 and enable_prefix_caching=off",
    ]
    assert {run["header"]["name"] for run in listed} == {"tiny-pressure"}


def test_only_the_newest_simulated_runs_are_kept_and_no_id_is_used_again() -> None:
    app = create_app(workbench=BENCH)
    ids = [app.simulate({"scenario": "tiny-pressure", "knobs": {}}) for _ in range(20)]
    assert len(set(ids)) == 20
    assert [run.id for run in app.catalogue.all()] == ids[-16:]


@pytest.mark.parametrize(
    ("scenario", "knobs"),
    [
        ("../../etc/passwd", {}),
        ("tiny-pressure", {"scheduler_cls": "os.path.join"}),
        ("tiny-pressure", {"kv_manager_cls": "evil.py:Class", "enable_prefix_caching": False}),
        ("tiny-pressure", {"path": "somewhere.jsonl"}),
        ("tiny-pressure", {"policy": "lifo"}),
        ("tiny-pressure", {"block_size": 0}),
        ("tiny-pressure", {"num_kv_blocks": 1_000_000}),
        ("tiny-pressure", {"kv_manager_cls": "contiguous"}),
    ],
)
def test_the_page_can_ask_for_nothing_else(scenario: str, knobs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BENCH.simulate(scenario, knobs)


@pytest.mark.parametrize("wish", [None, [], "x", {}, {"scenario": 1, "knobs": {}}, {"knobs": {}}])
def test_a_wish_that_is_none_is_refused_in_words(wish: object) -> None:
    answers: list[dict[str, Any]] = []
    app = create_app(workbench=BENCH)
    commands = CommandThread(
        lambda: None, {"simulate": app.simulate}, lambda _sid, told: answers.append(told)
    )
    commands.handle("sid", {"id": 1, "op": "simulate", "value": wish})
    assert not answers[0]["ok"] and answers[0]["error"].startswith("simulate: got")


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser, tiny_pressure: Path) -> Iterator[Page]:
    server = Server(create_app([tiny_pressure], workbench=BENCH), port=0).start()
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        yield page
    server.stop()


def choose(page: Page, flag: str, value: str) -> None:
    row = page.locator(f"label.knob:has(code:text-is('{flag}'))")
    field = row.locator("select, input")
    if field.evaluate("e => e.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
        field.press("Tab")


@pytest.mark.browser
def test_static_batching_from_the_page(page: Page) -> None:
    page.keyboard.press("x")
    page.wait_for_selector("form.knobs")
    choose(page, "--batching", "static")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("() => window.__viz.board.run?.id === 'tiny-pressure-2'")
    at_step(page, 0)
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    at_step(page, 2)
    assert headline(page).startswith("r2 waits: batching is static")
    assert page.evaluate("window.__viz.board.store.config.num_kv_blocks") == 16, "as it was"


@pytest.mark.browser
def test_a_refusal_is_told_beside_the_button_and_nothing_is_lost(page: Page) -> None:
    page.keyboard.press("x")
    page.wait_for_selector("form.knobs")
    choose(page, "--kv-manager-cls", "contiguous")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function(
        "() => document.querySelector('.knobs .notice').textContent.includes('off')"
    )
    assert "enable_prefix_caching" in page.inner_text(".knobs .notice")
    choose(page, "--enable-prefix-caching", "off")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("() => window.__viz.board.run?.id !== 'tiny-pressure'")


@pytest.mark.browser
def test_the_live_engine_takes_a_knob_from_its_next_step_on(
    browser: Browser, make_engine: MakeEngine, serve: Callable[[BoardApp], Server]
) -> None:
    app, engine = create_app(workbench=BENCH), make_engine(paused=True)
    app.attach_engine(engine)
    server = serve(app)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_function("() => window.__viz.board.store?.config")
        page.keyboard.press("x")
        page.wait_for_selector("form.knobs")
        block_size = page.locator("label.knob:has(code:text-is('--block-size')) input")
        assert block_size.is_disabled(), "a pool is made once"
        choose(page, "--max-num-seqs", "3")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_function("() => window.__viz.board.store.head.config.max_num_seqs === 3")
