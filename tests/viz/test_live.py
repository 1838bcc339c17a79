"""The Board on a live engine: prompts typed in the page, the gate, the past while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from minivllm.models.source import ModelSource
from minivllm.setup.progress import EngineStatus, StatusBoard
from tests.viz.browser import at_step, open_page
from tests.viz.conftest import MakeEngine
from tests.viz.scripted import SAYS
from tests.viz.test_board import with_tour
from viz.protocol import SNAPSHOT_BEHIND
from viz.server import BoardApp, Server, create_app

pytestmark = pytest.mark.browser

Serve = Callable[[BoardApp], Server]

XSS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=1>',
    "${window.pwned=1} {{constructor.constructor('window.pwned=1')()}}",
    "javascript:window.pwned=1",
]


def idle_after(page: Page, finished: int) -> None:
    """Wait until so many requests are done and the page has seen it."""
    page.wait_for_function(
        "n => window.__viz?.board.store?.head.finished.length >= n && __viz.board.idle",
        arg=finished,
    )


def send(page: Page, prompt: str) -> None:
    page.fill("[name=prompt]", prompt)
    page.press("[name=prompt]", "Enter")


def test_a_prompt_typed_in_the_page_gives_text_and_blocks(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine(paused=True)
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("text=Nothing runs. Type a prompt or send a workload.")
        send(page, "One two three four five six")
        page.wait_for_selector(".waiting .chip >> text=r1")  # held by the gate, but there
        assert page.inner_text(".pill.live").endswith("LIVE · paused")
        page.click("main")
        page.keyboard.press("ArrowRight")  # the driver, at the head of a held engine: one step
        at_step(page, 1)
        faces = "__viz.scene().pool.faces.filter(f => f.owners.length).map(f => [f.id, f.marks])"
        assert page.evaluate(faces) == [[1, "+"], [2, "+"]]
        assert page.inner_text(".running .tail").endswith(f"six {SAYS[0]}")
        page.keyboard.press("Space")
        idle_after(page, 1)
        page.wait_for_function(
            f"() => __viz.board.step === {len(SAYS)} && !__viz.board.player.motion"
        )
        assert page.inner_text(".done .count") == f"{len(SAYS)} tokens"
        page.keyboard.press("ArrowLeft")
        at_step(page, len(SAYS) - 1)
        assert " ".join(SAYS[:-1]) in page.inner_text(".running .tail")


def test_prompts_and_output_are_text_never_markup(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        for prompt in XSS:
            page.wait_for_selector("[name=prompt]:enabled")
            send(page, prompt)
        idle_after(page, len(XSS))
        for number, prompt in enumerate(XSS, start=1):
            arrived = page.evaluate("req => __viz.board.store.index.get(req)[0]", arg=f"r{number}")
            page.evaluate("step => __viz.board.travel.seek(step)", arg=arrived)
            page.evaluate("req => __viz.board.focus.choose({req})", arg=f"r{number}")
            page.keyboard.press("d")
            assert prompt in page.inner_text("main")
            page.hover(f".chip >> text=r{number}")
        assert "<b>not markup</b>" in page.evaluate(
            "__viz.board.store.head.requests.r1.texts.join('')"
        )
        assert page.evaluate("window.pwned ?? null") is None
        assert page.locator("main img, main script, .tail b").count() == 0


def test_the_past_can_be_read_while_the_engine_goes_on(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        page.click("text=Run 8 prompts")
        idle_after(page, 8)
        page.click("main")
        page.keyboard.press("Home")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        at_step(page, 3)
        state = page.evaluate("__viz.state()")
        mode = engine.gate.mode
        engine.submit("somebody else asks")
        idle_after(page, 9)
        at_step(page, 3)
        assert page.evaluate("__viz.state()") == state and engine.gate.mode == mode == "run"
        assert "ahead" in page.inner_text("button.pill.live")
        page.keyboard.press("End")
        last = page.evaluate("__viz.board.lastStep")
        at_step(page, last)
        assert page.evaluate("__viz.board.player.following") is True


def test_speed_and_pause_at_the_head_are_the_engines(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    engine.gate.rate = 2.0
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector(".pill.live >> text=idle")
        page.keyboard.press("]")
        page.wait_for_function("() => __viz.board.engine.gate.rate === 5")
        assert engine.gate.rate == 5.0
        page.keyboard.press("Space")
        page.wait_for_selector(".pill.live >> text=paused")
        assert engine.gate.mode == "pause"


def test_a_page_that_comes_late_begins_at_a_snapshot_and_fetches_the_past(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    while engine.log.head_seq("engine0") <= 2 * SNAPSHOT_BEHIND:
        engine.run_workload("any")
        done = 0
        while done < 8:
            outputs = engine.client.get_output(timeout=20)
            done += sum(o.finish_reason is not None for o in outputs.outputs) if outputs else 0
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_function(
            "() => window.__viz?.board.lastStep > 0 && __viz.board.firstStep === 0"
        )
        last = page.evaluate("__viz.board.lastStep")
        at_step(page, last)
        page.keyboard.press("Home")
        at_step(page, 0)
        page.evaluate("__viz.board.travel.seek(5)")
        assert page.inner_text(".number b") == "5" and page.locator(".running .chip").count() == 8


def test_a_lost_connection_is_said_and_what_was_missed_comes_after_it(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        send(page, "a few words")
        idle_after(page, 1)
        page.evaluate("__viz.board.engine.channel.socket.disconnect()")
        page.wait_for_selector(".problem.red")
        assert "The connection to the server is lost." in page.inner_text(".problem")
        assert f"from step {len(SAYS)}" in page.inner_text(".problem")
        assert page.locator(".done .chip").count() == 1
        engine.submit("nobody sees this yet")
        while engine.client.get_output(timeout=20) is not None:
            if not engine.client.core.has_requests():
                break
        assert page.evaluate("__viz.board.lastStep") == len(SAYS)
        page.evaluate("__viz.board.engine.channel.socket.connect()")
        idle_after(page, 2)
        assert page.locator(".problem").count() == 0
        assert page.evaluate("__viz.board.store.violated") == []


def test_an_engine_that_ends_is_said_and_its_run_can_still_be_read(
    browser: Browser, serve: Serve, make_engine: MakeEngine
) -> None:
    app, engine = create_app(), make_engine()
    server = serve(app)
    app.attach_engine(engine)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        send(page, "a few words")
        idle_after(page, 1)
        engine.close()
        page.wait_for_selector(".problem")
        assert f"The engine has ended after {len(SAYS)} steps." in page.inner_text(".problem")
        page.keyboard.press("Escape")
        page.evaluate("__viz.board.travel.seek(3)")
        at_step(page, 3)
        app.attach_engine(make_engine("scripted-2"))
        page.wait_for_selector("text=Another engine stands behind this run now.")
        page.wait_for_function("() => __viz.board.lastStep === 0")


def test_ready_does_not_move_the_reader(
    browser: Browser, serve: Serve, make_engine: MakeEngine, tiny_pressure: Path
) -> None:
    board = StatusBoard()
    app = create_app([tiny_pressure], status=board)
    server = serve(app)
    with open_page(browser) as page:
        page.goto(f"{server.url}#/run/tiny-pressure/step/6")
        at_step(page, 6)
        board.set(EngineStatus.model(41_000_000, 94_000_000))
        page.wait_for_selector(".pill >> text=engine: model 41 of 94 MB")
        app.attach_engine(make_engine())
        board.set(EngineStatus.ready())
        page.wait_for_selector("button.pill.ready")
        at_step(page, 6)
        assert "#/run/tiny-pressure/step/6" in page.url
        page.click("button.pill.ready")
        page.wait_for_selector(".pill.live")


def test_an_untouched_page_reaches_the_live_run_by_itself(
    browser: Browser, serve: Serve, make_engine: MakeEngine, tiny_pressure: Path, tmp_path: Path
) -> None:
    board = StatusBoard(EngineStatus.ready())
    app = create_app([with_tour(tiny_pressure, tmp_path)], status=board)
    server = serve(app)
    app.attach_engine(make_engine())
    with open_page(browser, tour=True) as page:
        page.goto(server.url)
        page.wait_for_selector(".tour .primary")
        page.wait_for_function("() => __viz.board.engine.canSend.ready")
        page.evaluate("__viz.clock.byHand()")
        page.evaluate("for (let i = 0; i < 100; i++) __viz.clock.turn(1000)")
        page.wait_for_selector(".pill.live")
        idle_after(page, 8)


def test_polling_alone_is_enough(browser: Browser, serve: Serve, make_engine: MakeEngine) -> None:
    app = create_app()
    server = serve(app)
    app.attach_engine(make_engine())
    with open_page(browser) as page:
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(f"{server.url}?transport=polling#/run/live")
        page.wait_for_selector("[name=prompt]:enabled")
        send(page, "without a socket")
        idle_after(page, 1)
        assert not sockets


@pytest.mark.model
def test_the_real_model_answers_in_the_page(
    browser: Browser, serve: Serve, smollm2: ModelSource
) -> None:
    """Whole way: page, socket, AsyncLLM, scheduler, model, trace, page."""
    from minivllm.config import make_config
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.serving.live import DashboardEngine
    from minivllm.trace.gate import Gate

    gate = Gate()
    config = make_config(
        model=str(smollm2.path), num_kv_blocks=65, block_size=8, max_model_len=256, live=True
    )
    llm = AsyncLLM(config, gate=gate)
    app = create_app()
    server = serve(app)
    app.attach_engine(DashboardEngine(llm))
    try:
        with open_page(browser) as page:
            page.set_default_timeout(120_000)
            page.goto(f"{server.url}#/run/live")
            page.wait_for_selector("[name=prompt]:enabled")
            send(page, "What is the capital of France?")
            page.wait_for_selector(".running .tail")
            idle_after(page, 1)
            texts = page.evaluate("__viz.board.store.head.requests.r1.texts.join('')")
            assert "Paris" in texts
            page.click("main")
            page.keyboard.press("ArrowLeft")
            assert page.evaluate("__viz.scene().pool.used") > 1
            assert "Paris" in page.inner_text(".running .tail")
    finally:
        llm.close()
