"""Scenarios of one's own: by HTTP for all who may look, and the form on the page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from minivllm.cli.workbench import ScenarioBench
from minivllm.own_scenario import form_of_file
from minivllm.trace.file import decode_event
from tests.viz.browser import at_step, headline, open_page
from viz import own
from viz.access import Access
from viz.server import BoardApp, Server, create_app

ONE = {"request": [{"own": 5, "outputs": 2}], "engine": {"block_size": 4, "num_kv_blocks": 9}}
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4")
"""The browser's own line for a form that the server refuses."""


@pytest.fixture
def bench_app(tiny_pressure: Path) -> BoardApp:
    return create_app([tiny_pressure], workbench=ScenarioBench())


def post(app: BoardApp, form: Any, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    got = app.test_client().post("/api/own", json=form, **kwargs)
    return got.status_code, got.get_json()


def of_length(n: int) -> dict[str, Any]:
    return {**ONE, "request": [{"own": n, "outputs": 2}]}


def test_the_same_form_is_the_same_run_and_stands_in_no_list(bench_app: BoardApp) -> None:
    _, first = post(bench_app, ONE)
    _, again = post(bench_app, ONE)
    _, other = post(bench_app, of_length(6))
    assert first["id"] == again["id"] != other["id"] and not other["gone"]
    client = bench_app.test_client()
    assert [run["id"] for run in client.get("/api/runs").get_json()] == ["tiny-pressure"]
    about = client.get(f"/api/runs/{first['id']}").get_json()
    assert about["header"]["fidelity"] == "given" and about["label"].startswith("own scenario")
    run = bench_app.catalogue.get(first["id"])
    assert run is not None
    arrived = [decode_event(line) for line in run.lines("engine0", 1, 99)]
    texts = next(event.data.texts for event in arrived if event.kind == "req.arrive")
    assert texts == ["·"] * 5


def test_the_oldest_is_let_go_and_told(
    bench_app: BoardApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "OWN_KEPT", 2)
    first, second = (post(bench_app, of_length(n))[1]["id"] for n in (5, 6))
    post(bench_app, of_length(5))  # asked for again: not the oldest any more
    _, third = post(bench_app, of_length(7))
    assert third["gone"] == [second]
    client = bench_app.test_client()
    assert client.get(f"/api/runs/{first}").status_code == 200
    assert client.get(f"/api/runs/{second}").status_code == 404


def test_many_at_once_get_each_their_own(bench_app: BoardApp) -> None:
    answers: dict[int, Any] = {}

    def student(n: int) -> None:
        answers[n] = post(bench_app, of_length(n))

    threads = [threading.Thread(target=student, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers.values()} == {200}
    for n, (_, told) in answers.items():
        assert told["form"]["request"][0]["own"] == n
    assert len({told["id"] for _, told in answers.values()}) == 8


def test_too_many_are_asked_to_wait(bench_app: BoardApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "WAIT_S", 0.01)
    held, go = threading.Semaphore(0), threading.Event()

    def slow(given: Any) -> Any:
        held.release()
        go.wait(10)
        return ScenarioBench.own(ScenarioBench(), given)

    monkeypatch.setattr(bench_app.workbench, "own", slow)
    threads = [threading.Thread(target=post, args=(bench_app, of_length(n))) for n in (1, 2)]
    for thread in threads:
        thread.start()
        held.acquire(timeout=10)
    status, told = post(bench_app, of_length(3))
    go.set()
    for thread in threads:
        thread.join()
    assert status == 503 and "try again in a moment" in told["error"]


def test_a_refusal_names_the_fields(bench_app: BoardApp) -> None:
    status, told = post(bench_app, {"request": [{"own": -1}], "engine": {}})
    assert status == 400 and list(told["fields"]) == ["request.1.own"]
    for knobs in ({"scheduler_cls": "os.path"}, {"path": "x.jsonl"}, {"kv_manager_cls": "a:B"}):
        status, told = post(bench_app, {**ONE, "engine": knobs})
        assert status == 400 and list(told["fields"]) == list(knobs), "from a page, never"
    client = bench_app.test_client()
    assert client.post("/api/own", data="{}", content_type="text/plain").status_code == 415
    assert client.post("/api/own", data="{", content_type="application/json").status_code == 400
    huge = client.post("/api/own", data=b" " * 300_000, content_type="application/json")
    assert huge.status_code == 413
    read = {"content_type": "application/toml"}
    assert client.post("/api/own/file", data="x").status_code == 415
    wrong = client.post("/api/own/file", data='name = "a"\n[[request]]\nfoo = 1', **read)
    assert wrong.status_code == 400 and "line 2" in wrong.get_json()["error"]


def test_a_viewer_may_and_a_stranger_may_not(tiny_pressure: Path) -> None:
    """Nothing is steered by it."""
    access = Access(join_code="abc", code_for_all=True)
    app = create_app([tiny_pressure], access=access, workbench=ScenarioBench())
    assert post(app, ONE)[0] == 403
    client = app.test_client()
    client.set_cookie("minivllm_join", access.ticket)
    assert client.post("/api/own", json=ONE).status_code == 200
    shows = create_app([tiny_pressure])
    status, told = post(shows, ONE)
    assert status == 404 and "only shows runs" in told["error"]


# --- on the page -------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser, bench_app: BoardApp) -> Iterator[Page]:
    server = Server(bench_app, port=0).start()
    with open_page(browser, accept_downloads=True, noise=REFUSED) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/8")
        at_step(page, 8)
        page.keyboard.press("v")
        page.wait_for_selector(".own .knob")
        yield page
    server.stop()


def fill(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Tab")


@pytest.mark.browser
def test_a_form_is_filled_in_run_shared_and_worked_out(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    page.locator(".own select").first.select_option("tiny-pressure")
    fill(page, "row 2, outputs", "0")
    fill(page, "row 3, own prompt", "many")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".own .wrong small")
    told = page.locator(".own .wrong small").all_inner_texts()
    assert told == ["got 0; allowed: 1 to 256", "got 'many'; allowed: 0 to 1024"]
    assert page.inner_text(".own .notice") == "2 fields are not right"
    fill(page, "row 2, outputs", "4")
    fill(page, "row 3, own prompt", "22")
    assert page.locator(".own .wrong").count() == 0

    with page.expect_download() as saved:
        page.get_by_role("button", name="save as .toml").click()
    saved.value.save_as(tmp_path / "mine.toml")
    read = form_of_file((tmp_path / "mine.toml").read_text())
    assert [row.outputs for row in read.request] == [10, 4, 9, 8, 4]
    assert page.evaluate("__viz.board.own.rows") == [
        {name: getattr(row, name) for name in ("arrives", "prefix", "own", "outputs", "priority")}
        for row in read.request
    ]

    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("() => __viz.board.run?.id.startsWith('own-')")
    at_step(page, 0)
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    at_step(page, 8)
    assert headline(page).startswith("r4 is preempted: r3 needs 1 block")
    assert page.inner_text(".pill") == "RECORDED · NO MODEL · tokens are placeholders"
    assert page.locator(".rows .tail").first.inner_text() == "NO MODEL · tokens are placeholders"
    page.wait_for_function("() => location.hash.includes('/step/8?own=1.17.0.10_2.8.3.4')")

    # On another server, where nobody has run it: the same run, at the same step.
    place = page.evaluate("location.hash")
    other = Server(create_app(workbench=ScenarioBench()), port=0).start()
    with open_page(browser, noise=REFUSED) as elsewhere:
        elsewhere.goto(f"{other.url}{place}")
        at_step(elsewhere, 8)
        assert elsewhere.evaluate("__viz.board.run.id") == page.evaluate("__viz.board.run.id")
        assert headline(elsewhere) == headline(page)
        elsewhere.keyboard.press("v")
        elsewhere.wait_for_selector(".own-rows")
        assert elsewhere.get_by_label("row 5, arrives in step").input_value() == "9"
        elsewhere.goto(f"{other.url}#/run/own-00000000/step/2")
        elsewhere.wait_for_selector("text=This scenario of somebody’s own is not here.")
    other.stop()

    page.keyboard.press("i")
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Open the worksheet").click()
    opened.value.wait_for_load_state()
    assert "r4 preempted for r3 (need 1, have 0; gives 14 15 6)" in opened.value.inner_text("body")


@pytest.mark.browser
def test_rows_come_and_go_and_a_file_is_read(page: Page, tmp_path: Path) -> None:
    page.get_by_label("one more like row 2").click()
    page.get_by_label("remove row 1").click()
    fill(page, "row 2, arrives in step", "1")
    assert page.locator(".own-rows tbody th").all_inner_texts() == ["r2", "r1"]
    page.get_by_label("remove row 1").click()
    assert page.get_by_label("remove row 1").is_disabled(), "the last one stays"
    knob = page.locator("label.knob:has(code:text-is('--block-size')) input")
    knob.fill("0")
    knob.press("Tab")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(".own .knob.wrong")
    assert "block_size: got 0; allowed:" in page.inner_text(".own .knob.wrong > span")

    path = tmp_path / "exam.toml"
    path.write_text(
        'name = "exam"\n[engine]\nblock_size = 8\n[[request]]\narrives = 3\n'
        "prompt_tokens = 20\nshared_prefix = 16\noutput_tokens = 5\ncount = 2\n"
    )
    page.locator(".own input[type=file]").set_input_files(path)
    page.wait_for_function(
        "() => document.querySelector('.own .notice').textContent.includes('exam')"
    )
    assert page.evaluate(
        "__viz.board.own.rows.map((row) => [row.arrives, row.prefix, row.own])"
    ) == [
        [3, 16, 4],
        [3, 16, 4],
    ]
    path.write_text("[[request")
    page.locator(".own input[type=file]").set_input_files(path)
    page.wait_for_function(
        "() => document.querySelector('.own .notice').textContent.includes('TOML')"
    )
    assert page.locator(".own-rows tbody tr").count() == 2, "what was there stays"
