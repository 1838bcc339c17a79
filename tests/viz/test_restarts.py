"""A server that goes, and comes again as another one: what its pages say, and how they heal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.viz.browser import at_step, open_page, still
from tests.viz.conftest import MakeEngine
from tests.viz.scripted import SAYS
from viz.access import COOKIE, Access
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Begin = Callable[..., Server]
DOWN = "ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|403|503"
GALLERY = Path(__file__).parents[2] / "minivllm" / "gallery" / "tiny-pressure.trace.jsonl"


@pytest.fixture
def begin() -> Iterator[Begin]:
    servers: list[Server] = []

    def begin(app: BoardApp, port: int = 0) -> Server:
        servers.append(Server(app, port=port).start())
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


def linked(page: Page, up: bool = True) -> None:
    page.wait_for_function("up => __viz.board.engine.linked === up", arg=up)


def strip(page: Page, words: str) -> None:
    page.wait_for_selector(f".class-strip >> text={words}")


def test_a_page_follows_the_engine_of_the_server_that_comes_after_and_sends_nothing_late(
    browser: Browser, begin: Begin, make_engine: MakeEngine, tiny_pressure: Path
) -> None:
    app, engine = create_app([tiny_pressure]), make_engine()
    app.attach_engine(engine)
    server = begin(app)
    with open_page(browser, noise=DOWN) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        engine.submit("a few words")
        page.wait_for_function("n => __viz.board.lastStep === n", arg=len(SAYS))
        # A command that is under way when the connection is cut is answered, in words.
        told = page.evaluate(
            """async () => {
              const { channel } = __viz.board.engine;
              const asked = channel.command('gate').catch(({ message }) => message);
              channel.socket.disconnect();
              return [await asked, await channel.command('step', 1).catch(({ message }) => message),
                channel.socket.sendBuffer.length];
            }"""
        )
        assert "whether it was done is not known" in told[0] and "nothing was sent" in told[1]
        assert told[2] == 0
        page.evaluate("__viz.board.engine.channel.socket.connect()")
        linked(page)

        server.stop()
        page.wait_for_selector(".problem.red >> text=The connection to the server is lost.")
        lost = f"LIVE · lost at step {len(SAYS)}"
        assert page.inner_text(".bar .pill") == lost
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        after = create_app([tiny_pressure])
        begin(after, server.port)  # its engine is not ready yet
        linked(page)
        page.wait_for_selector(".problem.red >> text=The engine of this run is no longer there.")
        assert page.inner_text(".bar .pill") == lost
        assert page.locator(".stage.stale").count() == 1
        other = make_engine("scripted-2")
        other.gate.pause()
        after.attach_engine(other)
        page.wait_for_selector("text=Another engine stands behind this run now.")
        assert page.locator(".stage.stale").count() == 0
        other.submit("new words")
        page.wait_for_selector(".waiting .chip >> text=r1")
        assert page.evaluate("__viz.board.lastStep") == 0  # no key of before has reached it
        assert page.inner_text(".bar .pill") == "LIVE · paused"


def test_a_class_knows_that_its_server_is_gone_and_goes_on_with_the_next(
    browser: Browser, begin: Begin
) -> None:
    rules = Access("KQ73XA", driver_code="drive", code_for_all=True)
    server = begin(create_app([GALLERY], access=rules))
    run = "#/run/tiny-pressure/step/7"
    cookie = {"name": COOKIE, "value": rules.ticket, "url": server.url}
    with (
        open_page(browser, noise=DOWN) as teacher,
        open_page(browser, noise=DOWN) as student,
        open_page(browser, noise=DOWN) as stranger,
    ):
        teacher.goto(f"{server.url}?driver=drive&lead{run}")
        teacher.wait_for_function("() => __viz.board.classroom.is.leads")
        for page in (student, stranger):
            page.context.add_cookies([cookie])  # type: ignore[list-item]
            page.goto(server.url)
            at_step(page, 7)
        still(student)
        # Follow again, while the teacher stands still: by key and by button, at the first try.
        for again in ("f", "Follow again"):
            student.keyboard.press("ArrowLeft")
            strip(student, "You have let go")
            if again == "f":
                student.keyboard.press("f")
            else:
                student.click(f".class-strip button >> text={again}")
            at_step(student, 7)
            strip(student, "This page follows the teacher’s.")
        teacher.keyboard.press("q")
        student.wait_for_selector(".choices >> text=r3")

        server.stop()
        linked(student, up=False)
        strip(student, "There is no connection to the class")
        strip(teacher, "You lead, but there is no connection to the class")
        assert student.is_disabled("[data-choice=r4]")
        assert "nothing is counted" in student.inner_text(".choices")
        student.wait_for_selector(".problem.red >> text=The connection to the server is lost.")
        # The codes stay, as with --driver-code; only one browser's ticket is of another class.
        stranger.context.add_cookies([{**cookie, "value": "of another class"}])  # type: ignore[list-item]
        begin(create_app([GALLERY], access=rules), server.port)
        linked(teacher)
        teacher.wait_for_function("() => __viz.board.classroom.is.leads")
        linked(student)
        student.wait_for_selector("[data-choice=r4]:enabled")
        student.click("[data-choice=r4]")
        teacher.wait_for_selector(".votes >> text=1 of 1 have answered")
        stranger.wait_for_selector(".problem.red >> text=This page is no longer let in.")
        stranger.click("text=Type the new code")
        stranger.wait_for_selector("input[name=code]")

        teacher.close()
        strip(student, "The teacher’s page is away")
        assert student.evaluate("__viz.board.lastStep") == 7
        student.click(".class-strip button >> text=Show all")
        student.wait_for_function("() => __viz.board.lastStep === 17")
        assert student.locator(".choices").count() == 0


def test_the_page_that_leads_on_a_first_visit_stays_where_it_is(
    browser: Browser, begin: Begin
) -> None:
    server = begin(create_app([GALLERY]))
    with open_page(browser, tour=True) as teacher, open_page(browser, tour=True) as student:
        teacher.goto(f"{server.url}?lead")
        teacher.wait_for_function("() => __viz.board.classroom.is.leads && __viz.board.tour?.on")
        student.goto(server.url)
        student.wait_for_function("() => __viz.board.classroom.is.led && __viz.board.tour")
        for page in (teacher, student):
            assert page.evaluate("__viz.board.tour.on && __viz.board.tour.alone") is False
