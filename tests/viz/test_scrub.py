"""A run of 50,000 events is scrubbed: anywhere, forth and back; the state is what the fold says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.trace.file import read_trace
from minivllm.trace.fold import apply, new_state, to_json
from tests.viz.browser import at_step, open_page, state, still
from viz.server import Server, create_app
from viz.stress import MANY_EVENTS, write

pytestmark = pytest.mark.browser

PLACES = (0.5, 0.999, 0.001, 0.75, 0.25, 0.26, 0.24, 0.9, 0.5)
"""Of the scrubber's width, in the order in which the pointer is dragged there."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("many-events", tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def url(trace: Path) -> Iterator[str]:
    server = Server(create_app([trace]), port=0).start()
    yield server.url
    server.stop()


def states_of(trace: Path, steps: set[int]) -> dict[int, Any]:
    """Step → the state after it, folded from the beginning."""
    found, now = {}, new_state()
    for event in read_trace(trace).events:
        apply(now, event)
        if event.kind == "step.end" and event.step in steps:
            found[event.step] = to_json(now)
    return found


def opened(page: Page, url: str) -> int:
    page.goto(f"{url}#/run/many-events/step/1")
    page.wait_for_function(
        "() => { const { lives, store } = window.__viz?.board ?? {};"
        " return lives?.length && store.seq === lives[0].head; }",
        timeout=60_000,
    )
    at_step(page, 1)
    still(page)
    last: int = page.evaluate("__viz.board.lastStep")
    assert page.evaluate("__viz.board.store.head.seq") >= MANY_EVENTS
    return last


def test_state_is_the_folds_wherever_the_pointer_is_dragged(
    browser: Browser, url: str, trace: Path
) -> None:
    with open_page(browser) as page:
        last = opened(page, url)
        box = page.locator("vz-scrub").bounding_box()
        assert box is not None
        y, seen = box["y"] + box["height"] / 2, []
        page.mouse.move(box["x"] + 2, y)
        page.mouse.down()
        for place in PLACES:
            page.mouse.move(box["x"] + place * box["width"], y)
            step = page.evaluate("__viz.board.step")
            assert abs(step - place * last) <= 0.03 * last
            at_step(page, step)
            assert page.locator("vz-scrub").get_attribute("aria-valuenow") == str(step)
            seen.append((step, state(page)))
        page.mouse.up()
        for key, by in (("ArrowLeft", -1), ("ArrowRight", 0), ("ArrowRight", 1)):
            page.keyboard.press(key)  # from where it was let go
            at_step(page, step + by)
            seen.append((step + by, state(page)))
        for key, end in (("End", last), ("Home", 0)):
            page.keyboard.press(key)
            at_step(page, end)
        page.mouse.move(box["x"] + 0.3 * box["width"], y)  # no button is held: nothing moves
        at_step(page, 0)
        assert page.evaluate("__viz.board.store.violated") == []
    true = states_of(trace, {step for step, _ in seen})
    assert len(true) >= len(PLACES)
    for step, shown in seen:
        assert shown == true[step], step
