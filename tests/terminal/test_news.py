"""What happens on the way to an engine is told once, and no answer is lost to it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from minivllm.terminal.attached import attach_to
from minivllm.terminal.runs import open_run
from minivllm.terminal.screen import LOOK_S, Screen
from minivllm.terminal.session import Session
from tests.terminal.screens import Terminal
from tests.terminal.test_attach import Engine, served


class App:
    def invalidate(self) -> None:
        pass


def looked(screen: Screen) -> str:
    """The message line, some looks at the engine later."""

    screen.lines = asyncio.Queue()  # of this loop

    async def wait() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(screen._next_line(App()), 3 * LOOK_S)  # type: ignore[arg-type]

    asyncio.run(wait())
    return screen.message.plain


def test_each_news_is_told_once() -> None:
    session = Session(open_run("tiny-pressure", {}))
    with contextlib.closing(session):
        screen, source = Screen(session), session.run.source  # type: ignore[attr-defined]
        source.news = "engine0 was started anew: this is its life 2"
        assert looked(screen) == source.news
        screen.execute("why r9")
        answer = screen.message.plain
        assert "no such request" in answer and looked(screen) == answer
        source.news = "engine0 was started anew: this is its life 3"
        assert looked(screen) == source.news
        screen.execute("next 3")
        screen.execute("back")
        screen.execute("continue")
        assert screen.question is not None
        source.news = "connected again"
        assert "go on there, or fork?" in looked(screen), "a question's words stay"
        screen.execute("")
        assert looked(screen) == "connected again"


def test_on_the_screen_answers_stay_after_an_engine_was_started_anew(tmp_path: Path) -> None:
    engine, other = Engine(), Engine(run_id="scripted-2")
    try:
        with contextlib.ExitStack() as stack:
            with served(engine) as server:
                port = server.port
                terminal = stack.enter_context(Terminal(tmp_path, "step", "--attach", server.url))
                terminal.wait_for("ATTACHED")
                terminal.type("submit hello 9")
                terminal.wait_for("r1 is taken in")
                terminal.type("n 3")
                terminal.wait_for("step 3")
            terminal.wait_for("is lost; it is being made anew")
            with served(other, port=port):
                terminal.wait_for("engine0 was started anew: this is its life 1")
                terminal.type("why r9")
                terminal.wait_for("no such request at step 0")
                for _ in range(4):
                    terminal.read()
                assert "no such request at step 0" in terminal.lines[-2]
                terminal.type("quit")
                assert terminal.status() == 0
    finally:
        engine.client.shutdown()
        other.client.shutdown()


def test_who_reads_an_engines_past_keeps_it_when_the_engine_is_started_anew() -> None:
    engine, other = Engine(), Engine(run_id="scripted-2")
    try:
        with served(engine) as server:
            port = server.port
            session = Session(attach_to(server.url, None))
            session.execute("submit hello 9")
            session.execute("next 5")
            session.execute("goto 3")
        with served(other, port=port):
            screen = Screen(session)
            while "started anew" not in looked(screen):
                pass
            assert screen.message.plain.endswith("; live shows it")
            assert session.step == 3 and session.view.state.running == ["r1"]
            session.execute("next 2")
            assert session.step == 5 and session.view.state.running == ["r1"]
            assert other.gate.mode == "pause", "the new one is held"
            session.execute("live")
            assert session.view.state.requests == {} and session.run.label == "ATTACHED"
            session.execute("submit hello 2")
            session.execute("next")
            assert session.step == 1
            session.close()
            assert other.gate.mode == "run"
    finally:
        engine.client.shutdown()
        other.client.shutdown()
