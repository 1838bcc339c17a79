"""A page in headless Chromium that fails its test on any foreign request or console error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Route

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WAIT_MS = 15_000

EXPECTED_NOISE = re.compile(
    r"WebSocket connection to 'ws://127\.0\.0\.1:\d+/.*' failed"
    r"|WebSocket is already in CLOSING or CLOSED state"
)
"""Chromium's own lines when a server is stopped under its page."""


@contextmanager
def open_page(browser: Browser, **context: Any) -> Iterator[Page]:
    """A page that may talk to loopback only and must not complain."""
    complaints: list[str] = []
    width, height = context.pop("size", (1440, 900))
    tour = context.pop("tour", False)
    noise = re.compile(context.pop("noise", "$^"))  # what a test makes the browser complain of
    surroundings = browser.new_context(viewport={"width": width, "height": height}, **context)
    if not tour:
        surroundings.add_init_script("localStorage.setItem('minivllm.tour', 'seen')")
    page = surroundings.new_page()
    page.set_default_timeout(WAIT_MS)

    def only_loopback(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
            route.continue_()
        else:
            complaints.append(f"request to {route.request.url}")
            route.abort()

    def note(kind: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            text = getattr(message, "text", str(message))
            if kind == "page error" or message.type in ("error", "warning"):
                if not EXPECTED_NOISE.search(text) and not noise.search(text):
                    where = getattr(message, "location", None) or {}
                    complaints.append(f"{kind}: {text} {where.get('url', '')}".rstrip())

        return take

    surroundings.route("**/*", only_loopback)
    page.on("console", note("console"))
    page.on("pageerror", note("page error"))
    try:
        yield page
    finally:
        surroundings.close()
    assert not complaints, "\n".join(complaints)


def at_step(page: Page, step: int) -> None:
    """Wait until the page shows a step, at rest."""
    page.wait_for_function(
        "step => window.__viz?.board.store?.config && !__viz.board.wanted"
        " && __viz.board.step === step && !__viz.board.player.motion"
        " && document.querySelector('.number b').textContent === String(step)",
        arg=step,
    )


def state(page: Page) -> Any:
    """The fold's state at the step that is shown."""
    return page.evaluate("__viz.state()")


def headline(page: Page) -> str:
    return page.inner_text(".headline")


def still(page: Page) -> None:
    """No motion: what a key does is there at once."""
    page.evaluate("__viz.board.player.reducedMotion = true")
