"""The gate of each of several engines, from the page: of all, or of the one that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from minivllm.errors import EngineUnavailableError
from tests.viz.axe import load_axe, violations
from tests.viz.browser import at_step, open_page, still
from tests.viz.two_scripted import TwoScripted
from viz.commands import BadCommand, perform
from viz.server import BoardApp, Server, create_app

WAIT_S = 15.0


@pytest.fixture
def engines() -> Iterator[TwoScripted]:
    two = TwoScripted(paused=True)
    for number in (0, 1):
        two.ask(f"q{number}", number)
    yield two
    two.close()


def stand(engines: TwoScripted) -> list[int]:
    """Wait until both stand still; which step each has come to."""
    for gate in engines.gates:
        assert gate.wait_held(WAIT_S) is not None
    return engines.steps()


def test_a_verb_is_for_all_engines_or_for_the_one_it_names(engines: TwoScripted) -> None:
    assert stand(engines) == [0, 0]
    perform(engines, {"op": "step", "value": 2})  # type: ignore[arg-type]
    assert stand(engines) == [2, 2]
    perform(engines, {"op": "step", "value": 3, "engine": 1})  # type: ignore[arg-type]
    assert stand(engines) == [2, 5]
    perform(engines, {"op": "until", "value": "step 4", "engine": 0})  # type: ignore[arg-type]
    assert engines.gates[0].wait_held(WAIT_S) is not None
    assert engines.gates[0].held is not None and engines.gates[0].held.at == "event"
    assert engines.gates[0].held.event is not None and engines.gates[0].held.event.step == 4
    perform(engines, {"op": "rate", "value": 20, "engine": 1})  # type: ignore[arg-type]
    assert [gate.rate for gate in engines.gates] == [0, 20]


def test_an_engine_that_there_is_not_is_refused(engines: TwoScripted) -> None:
    with pytest.raises(EngineUnavailableError):
        perform(engines, {"op": "pause", "engine": 2})  # type: ignore[arg-type]
    for number in (-1, "1", True, 0.0):
        with pytest.raises(BadCommand, match="allowed: an engine's number"):
            perform(engines, {"op": "pause", "engine": number})  # type: ignore[arg-type]


def test_the_page_is_told_how_each_gate_stands(engines: TwoScripted) -> None:
    app = create_app()
    app.attach_engine(engines)  # type: ignore[arg-type]
    client = app.socketio.test_client(app)
    app.hub.work(block=False)
    client.get_received()
    engines.gates[1].resume()  # of all one still stands: the whole is still paused
    app.hub.work(block=False)
    told = [one["args"][0] for one in client.get_received() if one["name"] == "gate"]
    paused, runs = {"mode": "pause", "rate": 0.0}, {"mode": "run", "rate": 0.0}
    assert told == [paused | {"engines": {"0": paused, "1": runs}}]


@pytest.fixture
def page(
    browser: Browser, serve: Callable[[BoardApp], Server], engines: TwoScripted
) -> Iterator[Page]:
    app = create_app()
    server = serve(app)
    app.attach_engine(engines)  # type: ignore[arg-type]
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_function("() => __viz.board.engine.several && __viz.board.travel.steers")
        still(page)
        yield page


def buttons(page: Page) -> list[str]:
    return page.locator(".engines .tool").all_inner_texts()


@pytest.mark.browser
def test_one_engine_is_stepped_from_the_page_while_the_other_stands(
    page: Page, engines: TwoScripted
) -> None:
    assert buttons(page) == ["engine 0 paused", "engine 1 paused", "only engine 0"]
    page.keyboard.press("ArrowRight")
    at_step(page, 1)
    assert stand(engines) == [1, 1]
    page.click(".engines >> text=engine 1")
    at_step(page, 1)
    page.click("[data-steer=alone]")
    assert page.inner_text("#say") == "Pause, step, pace and stops are for engine 1 alone now."
    page.click("main")
    page.keyboard.press("ArrowRight")
    at_step(page, 2)
    assert stand(engines) == [1, 2]
    page.keyboard.press("Space")
    page.wait_for_function("() => __viz.board.engine.gate.mode === 'run'")
    page.wait_for_selector(".engines >> text=engine 1 runs")
    assert buttons(page) == ["engine 0 paused", "engine 1 runs", "only engine 1"]
    assert page.get_attribute("[data-steer=alone]", "aria-pressed") == "true"
    assert engines.gates[0].mode == "pause"
    page.keyboard.press("e")  # it is the engine that is shown
    page.wait_for_selector("text=only engine 0")
    assert page.inner_text(".pill.live").endswith("LIVE · paused")
    page.click("[data-steer=alone]")
    page.click("main")
    page.keyboard.press("Space")  # this one is paused: all go on
    page.wait_for_selector(".engines >> text=engine 0 runs")


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (390, 844)])
def test_the_choice_fits_and_has_no_axe_findings(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.click("[data-steer=alone]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [box.bounding_box() for box in page.locator(".bar > *, .engines .tool").all()]
    assert all(box["x"] + box["width"] <= size[0] for box in boxes if box and box["width"])
    load_axe(page)
    assert violations(page, f"gates {size}") == []
