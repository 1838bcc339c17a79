"""The lesson rail: a lesson is read, walked, changed and checked on its own run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from minivllm.learn.lessons import Lesson, Lessons, find_lessons
from minivllm.learn.progress import Check, LessonProgress, Progress, write_progress
from tests.viz.axe import load_axe, violations
from tests.viz.browser import at_step, open_page
from viz.access import Access
from viz.server import BoardApp, Server, create_app

Serve = Callable[[BoardApp], Server]
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}
WALKED = [lesson for lesson in find_lessons().all() if lesson.tour() is not None]
FIRST = "00-life-of-a-request"


def lesson_app(*traces: Path, **more: Any) -> BoardApp:
    lessons = find_lessons()
    return create_app(traces, workbench=ScenarioBench(lessons), lessons=lessons, **more)


def test_nothing_but_the_lessons_can_be_asked_for() -> None:
    client = lesson_app().test_client()
    slugs = [row["slug"] for row in client.get("/api/lessons", environ_base=LOCAL).json["lessons"]]
    assert slugs == [lesson.slug for lesson in find_lessons().all()]
    for name in ("..", "..%2f..%2fetc", "%2e%2e/minivllm", "00-life", f"{FIRST}%2f.."):
        assert client.get(f"/api/lessons/{name}", environ_base=LOCAL).status_code == 404
    guarded = lesson_app(access=Access("code", code_for_all=True)).test_client()
    for path in ("/api/lessons", f"/api/lessons/{FIRST}"):
        assert guarded.get(path, environ_base=LOCAL).status_code == 403


def test_a_lesson_runs_anew_by_its_name() -> None:
    app = lesson_app()
    run = app.catalogue.get(app.simulate({"scenario": FIRST, "knobs": {"num_kv_blocks": 21}}))
    assert run is not None and run.label == "life-of-a-request · num_kv_blocks=21"


def test_a_broken_walk_and_a_broken_progress_file_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lessons" / "01-one"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# One")
    (folder / "tour.json").write_text("{")
    monkeypatch.setenv("MINIVLLM_PROGRESS", str(tmp_path / "lessons"))  # a directory
    client = create_app(lessons=Lessons(tmp_path / "lessons")).test_client()
    listed = client.get("/api/lessons", environ_base=LOCAL).json
    assert listed["lessons"][0]["title"] == "One" and "progress" in listed["trouble"]
    broken = client.get("/api/lessons/01-one", environ_base=LOCAL)
    assert broken.status_code == 422 and "tour.json" in broken.json["error"]


# --- in a browser --------------------------------------------------------------------------------


def begin(page: Page, url: str, slug: str = FIRST) -> None:
    page.goto(f"{url}?lesson={slug}")
    page.wait_for_selector(".rail .tabs")
    at_step(page, 0)
    page.evaluate("__viz.board.player.reducedMotion = true")
    page.click(".rail >> text=Walk through it")


def rests(page: Page, stop: int) -> None:
    page.wait_for_function(
        "stop => __viz.board.tour.at === stop"
        " && ['stopped', 'asking'].includes(__viz.board.tour.state)",
        arg=stop,
    )


@pytest.mark.browser
@pytest.mark.parametrize("lesson", WALKED, ids=lambda lesson: lesson.slug)
def test_a_walk_can_be_played_and_what_it_points_at_is_there(
    lesson: Lesson, browser: Browser, serve: Serve
) -> None:
    tour = lesson.tour()
    assert tour is not None
    right = 0
    with open_page(browser, tour=True) as page:
        begin(page, serve(lesson_app()).url, lesson.slug)
        assert page.locator(".end-card").count() == 0
        for number, stop in enumerate(tour["stops"]):
            rests(page, number)
            at_step(page, stop["step"])
            assert stop["say"] in page.inner_text(".rail .say")
            assert page.evaluate("__viz.board.frame.id") == stop.get(
                "view", page.evaluate("__viz.board.frame.id")
            )
            if "point" in stop:
                assert page.locator(stop["point"]).count() == 1
                assert page.locator(".pointed").is_visible()
            if ask := stop.get("ask"):
                assert page.inner_text(".headline") == ask["words"]
                if "choices" in ask:
                    right += 1
                    page.click(f"[data-choice={page.evaluate(ANSWER, ask['of'])}]")
                else:
                    page.keyboard.type("99")  # the field has the focus
                    page.keyboard.press("Enter")
            else:
                page.keyboard.press("Space")
        page.wait_for_selector(".rail [aria-selected=true] >> text=Change")
        page.click(".rail [data-tab=check]")
        questions = sum("ask" in stop for stop in tour["stops"])
        assert f"{right} of {questions} predicted" in page.inner_text(".rail")
        page.reload()
        page.wait_for_selector(".rail .tabs")
        page.click(".rail [data-tab=check]")
        assert f"{right} of {questions} predicted" in page.inner_text(".rail")


ANSWER = """of => {
    const e = __viz.board.wholeStore.eventsOf(of.step).find((e) => e.kind === of.kind);
    return of.read === 'req' ? e.req : e.data[of.read]; }"""


@pytest.mark.browser
def test_the_rail_from_the_first_page_to_the_comparison(
    browser: Browser, tiny_pressure: Path, serve: Serve
) -> None:
    with open_page(browser) as page:
        page.goto(f"{serve(lesson_app(tiny_pressure)).url}#/run/tiny-pressure/step/3")
        at_step(page, 3)
        assert page.locator(".picker").count() == 0, "a lesson's run is not among the others"
        page.keyboard.press("n")
        page.click(".rail >> text=The life of one request")
        page.wait_for_url("**lesson=00-life-of-a-request")
        at_step(page, 3)
        page.click(".rail [data-tab=hints]")
        page.click(".rail-body button >> nth=0")
        assert "token by token" in page.inner_text(".rail")
        assert "Only full blocks" not in page.inner_text(".rail")
        page.focus(".rail [data-tab=hints]")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(".rail [aria-selected=true] >> text=Change")
        at_step(page, 3)
        page.fill(".rail-knob input >> nth=0", "21")
        page.click(".rail form .primary")
        page.wait_for_function("() => __viz.board.run.id === 'life-of-a-request'")
        page.wait_for_function("() => __viz.board.lastStep === 13")  # nobody is preempted
        page.keyboard.press("End")
        at_step(page, 13)
        page.click("text=Compare with the lesson’s run")
        page.wait_for_function("() => __viz.board.pair.on && __viz.board.frame.id === 'compare'")
        assert page.evaluate("__viz.board.run.id") == f"lesson-{FIRST}"
        page.fill(".rail-knob input >> nth=0", "-5")
        page.click(".rail form .primary")
        page.wait_for_selector(".rail .notice >> text=num_kv_blocks")
        page.focus(".rail [data-tab=change]")
        page.keyboard.press("Escape")
        assert page.locator(".rail").count() == 0
        page.wait_for_function("() => !location.hash.includes('lesson=')")


@pytest.mark.browser
def test_the_last_check_of_an_exercise_is_shown(
    browser: Browser, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lessons" / "06-block-pool"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# 6 · The pool\n\n<img src=x onerror=window.pwned=1>\n")
    (folder / "exercise.py").write_text("")
    monkeypatch.setenv("MINIVLLM_PROGRESS", str(tmp_path / "progress.json"))
    app = create_app(lessons=Lessons(tmp_path / "lessons"))
    with open_page(browser) as page:
        page.goto(f"{serve(app).url}?lesson=06-block-pool")
        page.wait_for_selector(".rail >> text=<img src=x onerror=window.pwned=1>")
        page.click(".rail [data-tab=walk]")
        assert "This lesson has no walk." in page.inner_text(".rail")
        page.click(".rail [data-tab=check]")
        assert "Nothing has been checked yet." in page.inner_text(".rail")
        assert "minivllm learn check 6" in page.inner_text(".rail")
        check = Check(at="2026-11-26T00:10:00Z", passed=False, message="you evicted 3", step=7)
        progress = Progress(lessons={"06-block-pool": LessonProgress(check=check)})
        write_progress(tmp_path / "progress.json", progress)
        page.reload()
        page.wait_for_selector(".rail .tabs")
        page.click(".rail [data-tab=check]")
        assert "✗ not yet you evicted 3 (step 7)" in page.inner_text(".rail")
        assert page.evaluate("window.pwned ?? null") is None


@pytest.mark.browser
def test_where_there_is_no_lesson_the_rail_says_so(
    browser: Browser, tiny_pressure: Path, serve: Serve
) -> None:
    with open_page(browser) as page:
        page.goto(f"{serve(create_app([tiny_pressure])).url}#/run/tiny-pressure/step/3")
        at_step(page, 3)
        page.click(".rail-tab")
        page.wait_for_selector(".rail >> text=There are no lessons here.")


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1024, 768), (390, 844)])
def test_the_rail_leaves_room_and_nothing_is_cut_off(
    browser: Browser, serve: Serve, size: tuple[int, int]
) -> None:
    with open_page(browser, size=size) as page:
        page.goto(f"{serve(lesson_app()).url}?lesson={FIRST}#/run/lesson-{FIRST}/step/8/req/r4")
        at_step(page, 8)
        page.wait_for_selector(".rail .tabs")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        ends = page.evaluate(
            """() => [...document.querySelectorAll('.rail *')].filter((e) => e.checkVisibility()
                && !e.closest('pre')).map((e) => e.getBoundingClientRect().right)"""
        )
        assert max(ends) <= page.evaluate(
            "document.querySelector('.rail').getBoundingClientRect().right"
        )
        page.click(".rail [data-tab=walk]")
        page.click(".rail >> text=Begin")
        page.wait_for_selector(".rail >> text=stop 1 of")


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "size"), [(0, (1440, 900)), (2, (1440, 900)), (1, (390, 844))])
def test_axe_finds_nothing_in_the_rail(
    browser: Browser, serve: Serve, theme: int, size: tuple[int, int]
) -> None:
    with open_page(browser, size=size) as page:
        page.add_init_script(f"localStorage.setItem('minivllm.theme', '{theme}')")
        begin(page, serve(lesson_app()).url)
        rests(page, 0)
        page.keyboard.press("Space")
        rests(page, 1)
        load_axe(page)
        found = violations(page, "asked")
        for tab in ("read", "change", "hints", "check"):
            page.click(f".rail [data-tab={tab}]")
            found += violations(page, tab)
        page.click(".rail [aria-label='all lessons']")
        found += violations(page, "list")
    assert not found, "\n".join(found)


def test_progress_of_a_lesson_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVLLM_PROGRESS", str(tmp_path / "p.json"))
    write_progress(tmp_path / "p.json", Progress(lessons={FIRST: LessonProgress(state="passed")}))
    answer = lesson_app().test_client().get("/api/lessons", environ_base=LOCAL)
    assert json.loads(answer.data)["lessons"][0]["progress"] == {"state": "passed"}


CHOOSE = """async () => {
  __viz.board.focus.chosen = { req: 'r1' };
  __viz.draw();
}"""
HIDDEN = """() => {
  return {
    known: __viz.board.lastStep,
    marks: document.querySelector('vz-scrub').data.steps,
    when: document.querySelector('.why .when').textContent,
    beyond: __viz.board.store.eventsOf(__viz.board.step + 1).length,
  };
}"""


@pytest.mark.browser
@pytest.mark.parametrize("skipped", [False, True], ids=["answered", "skipped"])
def test_an_open_question_of_a_walk_hides_what_comes(
    browser: Browser, serve: Serve, skipped: bool
) -> None:
    with open_page(browser, tour=True) as page:
        begin(page, serve(lesson_app()).url)
        rests(page, 0)
        page.evaluate(CHOOSE)
        assert "next step 2" in page.inner_text(".why .when")
        while page.evaluate("__viz.board.tour.state") != "asking":
            assert page.evaluate("__viz.board.lastStep") == 17
            page.click("[data-tour=next]")
            page.wait_for_function("() => __viz.board.tour.state !== 'playing'")
        step = page.evaluate("__viz.board.step")
        page.evaluate(CHOOSE)
        hidden = page.evaluate(HIDDEN)
        assert (hidden["known"], hidden["marks"], hidden["beyond"]) == (step, step, 0)
        assert "next not known yet" in hidden["when"]
        page.keyboard.press("Escape")  # out of the field
        page.keyboard.press("End")
        page.evaluate("location.hash = `#/run/${__viz.board.run.id}/step/12`")
        page.wait_for_timeout(100)
        assert page.evaluate("__viz.board.step") == step
        if skipped:
            page.click("[data-tour=next]")
        else:
            page.fill(".choices input", "3")
            page.click(".choices >> text=Predict")
        page.wait_for_function("() => __viz.board.lastStep === 17")
        page.wait_for_function("step => __viz.board.step > step", arg=step)


@pytest.mark.browser
def test_leaving_a_walk_at_a_question_shows_the_whole_run_again(
    browser: Browser, serve: Serve
) -> None:
    with open_page(browser, tour=True) as page:
        begin(page, serve(lesson_app()).url)
        rests(page, 0)
        while page.evaluate("__viz.board.tour.state") != "asking":
            page.click("[data-tour=next]")
            page.wait_for_function("() => __viz.board.tour.state !== 'playing'")
        step = page.evaluate("__viz.board.step")
        page.evaluate("__viz.board.travel.on()")  # past the question
        at_step(page, step + 1)
        assert page.evaluate("__viz.board.lastStep") == 17
        page.evaluate("__viz.board.tour.back(); __viz.board.tour.back()")
        page.evaluate("__viz.board.tour.next()")
        page.wait_for_function("() => __viz.board.tour.state === 'asking'")
        assert page.evaluate("__viz.board.lastStep") == step
        page.evaluate("__viz.board.tour.finish()")
        assert page.evaluate("__viz.board.lastStep") == 17
