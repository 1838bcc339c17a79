"""The Playground: a talk with the model over the real endpoint, with the engine in sight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.setup.progress import EngineStatus, StatusBoard
from tests.viz.browser import open_page
from tests.viz.chatting import SAID, SAYS, ChattingServer
from viz.access import Access
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

MakeChat = Callable[..., ChattingServer]
REFUSED = r"server responded with a status of \d+"


@pytest.fixture
def make_chat() -> Iterator[MakeChat]:
    made: list[ChattingServer] = []

    def make(**settings: Any) -> ChattingServer:
        made.append(ChattingServer(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def url(make_chat: MakeChat, serve: Callable[[BoardApp], Server]) -> str:
    return serve(make_chat().app).url


def ask(page: Page, text: str) -> None:
    page.fill(".composer textarea", text)
    page.press(".composer textarea", "Enter")


def ended(page: Page, turns: int, state: str = "done") -> None:
    page.wait_for_function(
        "([n, state]) => { const t = window.__viz?.board.chat.turns;"
        " return t?.length === n && t[n - 1].state === state; }",
        arg=[turns, state],
    )


def test_a_talk_of_several_turns_is_text_never_markup(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/live?view=play")
        ask(page, "<script>window.pwned = 1</script> 你好 🙂")
        ended(page, 1)
        assert page.inner_text("#say") == f"The answer has ended: {len(SAID)} tokens."
        assert page.inner_text(".turn .asked") == "<script>window.pwned = 1</script> 你好 🙂"
        assert page.inner_text(".turn .said") == SAYS
        assert page.evaluate("window.pwned ?? null") is None
        assert page.locator(".talk img, .talk script, .talk b:not(.facts b)").count() == 0
        facts = page.inner_text(".turn .facts")
        assert "first token after" in facts and "a token" in facts and f"{len(SAID)} out" in facts
        page.wait_for_selector(".facts .chip.h0 >> text=r1")
        ask(page, "And now?")
        ended(page, 2)
        page.wait_for_selector(".turn >> nth=1 >> text=from the cache")
        page.wait_for_selector(".facts .chip >> text=r2")
        prompt = "__viz.board.store.head.requests.r2.texts.join('')"
        assert f"assistant: {SAYS}" in page.evaluate(prompt)  # it was told what had been said
        page.keyboard.press("Escape")  # out of the text
        page.keyboard.press("b")  # elsewhere, and back
        page.wait_for_selector("main.board")
        page.keyboard.press("h")
        assert page.locator(".turn").count() == 2
        page.reload()
        page.wait_for_selector(".turn >> nth=1 >> text=And now?")
        page.click(".turn >> nth=0 >> text=its life")
        page.wait_for_selector(".life-head .chip >> text=r1")
        page.go_back()
        page.click("text=Forget it all")
        assert page.locator(".turn").count() == 0
        page.reload()
        page.wait_for_selector(".talk.empty")


def test_stop_ends_the_request_in_the_engine_too(
    browser: Browser, make_chat: MakeChat, serve: Callable[[BoardApp], Server]
) -> None:
    chat = make_chat(rate=20)
    with open_page(browser) as page:
        page.goto(f"{serve(chat.app).url}#/run/live?view=play")
        ask(page, "Go on and on")
        page.wait_for_function("() => __viz.board.chat.last?.state === 'streaming'")
        page.keyboard.press("Escape")  # leaves the text
        page.keyboard.press("Escape")
        ended(page, 1, "stopped")
        assert page.inner_text("#say") == "Stopped."
        page.wait_for_function("() => __viz.board.store.head.finished.includes('r1')")
        assert page.evaluate("__viz.board.store.head.requests.r1.finish_reason") == "abort"
        page.wait_for_selector(".turn >> text=You stopped it")


def test_each_token_tells_what_else_might_have_stood_there(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/live?view=play")
        page.fill("#param-top_logprobs", "3")
        page.fill("#param-n", "2")
        ask(page, "x")
        ended(page, 1)
        assert page.locator(".answer").count() == 2
        page.hover(".tk >> nth=4")
        rows = page.locator(".others li").all_inner_texts()
        assert [row.split() for row in rows] == [
            ["i", "80", "%", "✓"],
            ["z", "15", "%"],
            ["y", "5.0", "%"],
        ]
        page.focus(".tokens >> nth=0")
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "token 3: ␣" in page.inner_text(".looked")
        step = page.evaluate("__viz.board.step")
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowLeft")  # out of the tokens: a step again
        page.wait_for_function("step => __viz.board.step === step - 1", arg=step)
        page.click(".answer >> nth=1 >> input")
        assert page.evaluate("__viz.board.chat.last.chosen") == 1


def test_what_is_refused_is_told_with_its_cause_and_what_helps(
    browser: Browser, make_chat: MakeChat, serve: Callable[[BoardApp], Server]
) -> None:
    chat = make_chat(max_streams=1)
    server = serve(chat.app)
    with open_page(browser, noise=REFUSED) as page:
        page.goto(f"{server.url}#/run/live?view=play")
        page.fill("#param-temperature", "7")
        ask(page, "hi")
        assert "allowed: a number from 0 to 2" in page.inner_text(".composer .notice")
        assert page.locator(".turn").count() == 0
        page.fill("#param-temperature", "")
        ask(page, "hi")
        ended(page, 1)
        ask(page, "x" * 420)  # with what was said before, more than 512
        ended(page, 2, "failed")
        assert "The conversation is too long for this model." in page.inner_text(".failed")
        page.click("text=Forget the earliest turn and ask again")
        ended(page, 1)
        page.click("text=Forget it all")
        chat.llm.gate.pause()
        other = page.context.new_page()
        other.goto(f"{server.url}#/run/live?view=play")
        ask(other, "I hold the only place")
        other.wait_for_selector("text=The engine is paused")
        ask(page, "me too")
        ended(page, 1, "failed")
        failed = page.inner_text(".turn .failed")
        assert "cannot take this now" in failed and "It says: again in 1 second." in failed
        chat.llm.gate.resume()
        ended(other, 1)
        while chat.open_requests.count:  # its place is free a moment after its last byte
            time.sleep(0.01)
        page.click("text=Ask again")
        ended(page, 1)


def test_a_lost_connection_is_told_before_and_in_the_midst_of_an_answer(
    browser: Browser, make_chat: MakeChat, serve: Callable[[BoardApp], Server]
) -> None:
    server = serve(make_chat().app)
    chunk = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi th"}}]}\n\n'
    with open_page(browser, noise="ERR_FAILED|ERR_CONNECTION_REFUSED") as page:
        page.goto(f"{server.url}#/run/live?view=play")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=chunk))
        ask(page, "hi")
        ended(page, 1, "failed")
        assert "Hi th" in page.inner_text(".said") and "broke off" in page.inner_text(".failed")
        page.unroute("**/v1/chat/completions")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        page.click("text=Ask again")
        ended(page, 1, "failed")
        page.wait_for_selector(".failed >> text=The server cannot be reached.")
        server.stop()
        page.wait_for_selector(".problem.red >> text=The connection to the server is lost.")
        page.wait_for_selector(".obstacle >> text=There is no connection to the server.")


def test_an_engine_that_dies_is_told(
    browser: Browser, make_chat: MakeChat, serve: Callable[[BoardApp], Server]
) -> None:
    chat = make_chat(rate=20)
    with open_page(browser, noise=REFUSED) as page:
        page.goto(f"{serve(chat.app).url}#/run/live?view=play")
        ask(page, "hi")
        page.wait_for_function("() => __viz.board.chat.last?.state === 'streaming'")
        chat.llm.close()
        ended(page, 1, "failed")
        assert page.inner_text(".failed").strip()


def test_with_keys_set_the_page_asks_for_one_and_a_viewer_is_told_what_is_the_drivers(
    browser: Browser, make_chat: MakeChat, serve: Callable[[BoardApp], Server]
) -> None:
    access = Access("look", code_for_all=True, driver_code="drive")
    server = serve(make_chat(api_keys=["secret"], access=access).app)
    with open_page(browser, noise=REFUSED) as page:
        page.goto(f"{server.url}?code=look#/run/live?view=play")
        page.wait_for_selector("text=You look on: workloads, the knobs")
        assert page.is_disabled("[aria-label='send tiny-pressure']")
        ask(page, "hi")
        ended(page, 1, "failed")
        page.fill("[name=key]", "wrong")
        page.click("text=Use it")
        ended(page, 1, "failed")
        page.fill("[name=key]", "secret")
        page.press("[name=key]", "Enter")
        ended(page, 1)
        assert (
            page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])").count(
                "secret"
            )
            == 0
        )


def test_a_workload_is_sent_and_seen_beside_the_talk(browser: Browser, url: str) -> None:
    with open_page(browser) as page:
        page.goto(f"{url}#/run/live?view=play")
        page.wait_for_selector(".workloads >> text=Try it with --batching static")
        page.click("[aria-label='send tiny-pressure']")
        page.wait_for_function("() => __viz.board.store?.head.finished.length === 5")
        page.wait_for_selector(".composer >> text=tiny-pressure is under way.")
        assert "0 of 128" in page.inner_text(".now") and "at step" in page.inner_text(".now")
        page.click(".workloads >> text=change the knobs")
        page.wait_for_selector(".dialog >> text=Knobs of the live engine")


def test_without_an_engine_the_playground_says_so_and_what_to_do(
    browser: Browser, tiny_pressure: Path, serve: Callable[[BoardApp], Server]
) -> None:
    with open_page(browser) as page:
        page.goto(f"{serve(create_app([tiny_pressure])).url}#/run/tiny-pressure/step/3?view=play")
        page.wait_for_selector(".obstacle >> text=There is no engine here, only recorded runs.")
        assert "minivllm demo" in page.inner_text(".obstacle")
        assert page.is_disabled(".composer >> text=Send")
    status = StatusBoard(EngineStatus.failed("no space", "free some"))
    with open_page(browser) as page:
        page.goto(f"{serve(create_app([tiny_pressure], status=status)).url}")
        page.click("text=talk with it in the Playground")
        page.wait_for_selector(".obstacle >> text=The engine could not be started: no space")


@pytest.mark.parametrize(("size", "theme"), [((1440, 900), 2), ((1024, 768), 0), ((390, 844), 1)])
def test_no_size_or_theme_scrolls_sideways(
    browser: Browser, url: str, size: tuple[int, int], theme: int
) -> None:
    with open_page(browser, size=size) as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        page.goto(f"{url}#/run/live?view=play")
        ask(page, "w" * 300)
        ended(page, 1)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        ends = page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility())
                .map((e) => e.getBoundingClientRect().right)"""
        )
        assert max(ends) <= size[0] + 1
