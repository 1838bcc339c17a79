"""A class in a browser: one page leads two, one lets go; a question for all, and its tally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from minivllm.learn.lessons import find_lessons
from tests.viz.browser import at_step, headline, open_page, state, still
from tests.viz.conftest import MakeEngine
from tests.viz.scripted import SAYS
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]
GALLERY = Path(__file__).parents[2] / "minivllm" / "gallery" / "tiny-pressure.trace.jsonl"


@pytest.fixture
def pages(browser: Browser) -> Iterator[Callable[..., Page]]:
    """More pages, each as in a browser of its own."""
    with ExitStack() as stack:

        def another(url: str, ready: str = "window.__viz?.board.store?.config") -> Page:
            page = stack.enter_context(open_page(browser))
            page.goto(url)
            page.wait_for_function(f"() => {ready}")
            still(page)
            return page

        yield another


def leads(page: Page) -> None:
    page.wait_for_function("() => __viz.board.classroom.is.leads")


def strip(page: Page, words: str) -> None:
    page.wait_for_selector(f".class-strip >> text={words}")


def test_a_driver_leads_two_pages_and_one_lets_go_and_follows_again(
    tiny_pressure: Path, serve: Serve, pages: Callable[..., Page], make_engine: MakeEngine
) -> None:
    app = create_app([tiny_pressure])
    url = serve(app).url
    first = pages(f"{url}#/run/tiny-pressure/step/2")
    teacher = pages(f"{url}?lead#/run/tiny-pressure/step/5")
    leads(teacher)
    strip(first, "This page follows the teacher’s.")
    at_step(first, 5)
    teacher.evaluate("__viz.board.focus.choose({ req: 'r4' })")
    teacher.evaluate("__viz.board.frame.show('pool'); __viz.board.travel.seek(8)")
    late = pages(url)
    for student in (first, late):
        at_step(student, 8)
        student.wait_for_function("() => __viz.board.frame.id === 'pool'")
        assert student.evaluate("__viz.board.focus.chosen.req") == "r4"
        assert state(student) == state(teacher)
    strip(teacher, "You lead: 2 of 2 pages follow.")

    late.keyboard.press("ArrowLeft")
    strip(late, "You have let go of the teacher’s page.")
    strip(teacher, "You lead: 1 of 2 pages follows, 1 has let go.")
    teacher.keyboard.press("ArrowRight")
    at_step(first, 9)
    at_step(late, 7)
    late.keyboard.press("f")
    at_step(late, 9)
    strip(teacher, "You lead: 2 of 2 pages follow.")

    teacher.reload()  # the class goes on with whom it was
    leads(teacher)
    at_step(teacher, 9)
    still(teacher)
    teacher.evaluate("__viz.board.frame.show('board'); __viz.board.travel.seek(12)")
    at_step(first, 12)
    at_step(late, 12)

    engine = make_engine()
    app.attach_engine(engine)
    teacher.wait_for_function("() => __viz.board.runs.length === 2")
    teacher.evaluate("__viz.board.openRun('live')")
    first.wait_for_selector(".pill.live")
    engine.submit("all of the class look on")
    for page in (teacher, first, late):
        page.wait_for_function("steps => __viz.board.step === steps", arg=len(SAYS))
    assert first.evaluate("__viz.board.store.violated") == []
    teacher.evaluate("__viz.board.run = { ...__viz.board.run, id: 'my-own' }; __viz.draw()")
    strip(first, "The teacher shows “my-own”, which is not here.")
    teacher.close()
    strip(first, "The teacher’s page is away; yours stays where it is.")
    other = pages(f"{url}?lead#/run/tiny-pressure/step/3")
    leads(other)
    at_step(first, 3)


def test_a_question_hides_what_comes_from_all_and_its_tally_is_shown_at_the_end(
    serve: Serve, pages: Callable[..., Page]
) -> None:
    url = serve(create_app([GALLERY])).url
    teacher = pages(f"{url}?lead#/run/tiny-pressure/step/7")
    leads(teacher)
    students = [pages(url), pages(url)]
    for student in students:
        at_step(student, 7)
    students[1].keyboard.press("ArrowLeft")  # lets go, and is asked all the same
    strip(students[1], "You have let go")
    teacher.keyboard.press("q")
    for student, choice in zip(students, ("r4", "r1"), strict=True):
        student.wait_for_selector(".choices >> text=r3")
        assert "r3 needs 1 block and none is free" in headline(student)
        assert student.evaluate("__viz.board.lastStep") == 7
        student.click(f"[data-choice={choice}]")
    students[1].click("[data-choice=r4]")  # changed
    students[1].click("[data-choice=r1]")
    teacher.wait_for_selector(".votes >> text=2 of 2 have answered")
    teacher.wait_for_selector(".votes [data-choice=r4] >> text=/^r4 1$/")
    teacher.keyboard.press("Space")
    for page in (teacher, *students):
        page.wait_for_selector("[data-tally] >> text=It is: r4.")
        assert "r1 1" in page.inner_text("[data-tally]")
    assert "You were right." in students[0].inner_text("[data-tally]")
    assert "You said: r1." in students[1].inner_text("[data-tally]")
    at_step(students[0], 8)
    assert headline(students[0]).startswith("r4 is preempted")
    assert students[0].evaluate("__viz.board.lastStep") == 8  # the next is hidden still
    teacher.keyboard.press("Escape")
    students[0].wait_for_function("() => __viz.board.lastStep === 17")
    assert students[0].locator("[data-tally]").count() == 0


def test_what_the_leader_builds_reads_and_is_asked_by_a_tour_is_the_classes(
    serve: Serve, pages: Callable[..., Page]
) -> None:
    lessons = find_lessons()
    app = create_app([GALLERY], workbench=ScenarioBench(), lessons=lessons)
    url = serve(app).url
    teacher = pages(f"{url}?lead#/run/tiny-pressure/step/7")
    leads(teacher)
    student = pages(url)
    at_step(student, 7)

    teacher.evaluate("__viz.board.tour.start(false); __viz.board.travel.seek(7)")
    teacher.evaluate("__viz.board.tour.next()")
    teacher.wait_for_selector(".choices >> text=0 of 1 have answered")
    student.wait_for_selector("[data-choice=r4]")
    assert student.evaluate("__viz.board.lastStep") == 7
    student.click("[data-choice=r4]")
    teacher.wait_for_selector(".choices >> text=1 of 1 have answered")
    teacher.keyboard.press("Space")  # skips: and is told what it was
    student.wait_for_selector("[data-tally] >> text=It is: r4. You were right.")
    at_step(teacher, 8)
    assert teacher.evaluate("__viz.board.tour.told") == "It is r4: it came last."
    at_step(student, 8)
    teacher.keyboard.press("ArrowRight")
    at_step(student, 9)
    for page in (teacher, student):
        page.wait_for_selector("[data-tally]", state="detached")
    teacher.keyboard.press("Escape")

    slug = lessons.all()[0].slug
    teacher.evaluate("slug => __viz.board.lessons.open(slug)", slug)
    student.wait_for_function("slug => __viz.board.lessons.params.lesson === slug", arg=slug)
    teacher.evaluate("__viz.board.lessons.close()")
    student.wait_for_function("() => !__viz.board.lessons.shown")

    teacher.evaluate("__viz.board.own.run()")
    teacher.wait_for_function("() => __viz.board.run.id.startsWith('own-')")
    run = teacher.evaluate("__viz.board.run.id")
    student.wait_for_function("id => __viz.board.run.id === id", arg=run)
    teacher.evaluate("__viz.board.travel.seek(2)")
    at_step(student, 2)
    strip(student, "This page follows the teacher’s.")


def test_predict_asks_before_each_decision_and_grades_by_the_events(
    tiny_pressure: Path, serve: Serve, pages: Callable[..., Page]
) -> None:
    page = pages(f"{serve(create_app([tiny_pressure])).url}#/run/tiny-pressure/step/5/req/r4")
    at_step(page, 5)
    assert "next" in page.inner_text("aside.why")
    page.keyboard.press("q")
    page.wait_for_selector(".choices")
    assert headline(page).endswith("Which block is forgotten for it?")
    assert "not known yet" in page.inner_text("aside.why")
    assert page.inner_text(".position") == "of 5"
    page.evaluate("location.hash = '#/run/tiny-pressure/step/12'")  # an address that lies ahead
    page.wait_for_function("() => location.hash.includes('/step/5')")
    page.click("[data-choice='6']")
    at_step(page, 6)
    assert "Right: block 6." in page.inner_text(".also")
    page.keyboard.press("Space")
    page.wait_for_selector(".choices >> text=r1")
    at_step(page, 7)
    page.click("[data-choice=r3]")
    at_step(page, 8)
    assert "No: r4." in page.inner_text(".also")
    assert "1 of 2 right" in page.inner_text(".predict")
    page.keyboard.press("ArrowLeft")
    at_step(page, 7)
    assert page.locator(".choices").count() == 0  # asked and answered
    page.evaluate("while (__viz.board.predict.state !== 'over') __viz.board.predict.next()")
    page.wait_for_selector("text=No more questions in this run: 1 of 2 right.")
    page.keyboard.press("q")
    page.wait_for_function("() => !__viz.board.predict.on && __viz.board.lastStep === 17")


def test_a_clicker_goes_from_stop_to_stop_and_the_size_is_remembered(
    serve: Serve, pages: Callable[..., Page]
) -> None:
    page = pages(f"{serve(create_app([GALLERY])).url}#/run/tiny-pressure/step/3")
    page.wait_for_function("() => __viz.board.tour")
    for key, step in (("PageDown", 4), ("PageDown", 6), ("PageUp", 4), ("PageUp", 2)):
        page.keyboard.press(key)
        at_step(page, step)
    before = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    page.keyboard.press("+")
    page.keyboard.press("+")
    larger = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    assert larger == pytest.approx(before * 1.3)
    page.reload()
    page.wait_for_function("() => window.__viz?.board.store?.config")
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") == larger
