"""Attached to a running server: its engine is held, stepped, and left as it was found."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import minivllm.debug
from minivllm.errors import AttachError, ConfigError, EngineDeadError
from minivllm.terminal.attached import attach_to
from minivllm.terminal.channel import ServerAddress
from minivllm.terminal.session import Session
from minivllm.terminal.steered import SteeredRun
from tests.conftest import ROOT
from tests.terminal.screens import Terminal
from tests.viz.scripted import ScriptedEngine
from viz.access import Access
from viz.server import Server, create_app

PATIENCE_S = 30.0


class Engine(ScriptedEngine):
    """What a server's engine offers to a debugger, without a model."""

    def gate_of(self, engine: int):  # type: ignore[no-untyped-def]
        if engine:
            raise ConfigError("engine", engine, "0: there is one")
        return self.gate

    def abort(self, request_id: str) -> None:
        self.client.abort_requests([request_id])


@contextlib.contextmanager
def served(engine: Engine, access: Access | None = None, port: int = 0) -> Iterator[Server]:
    app = create_app(access=access)
    server = Server(app, port=port).start()
    app.attach_engine(engine)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.client.shutdown()


@pytest.fixture
def server(engine: Engine) -> Iterator[Server]:
    with served(engine) as server:
        yield server


@contextlib.contextmanager
def attached(url: str, api_key: str | None = None) -> Iterator[Session]:
    session = Session(attach_to(url, api_key))
    try:
        yield session
    finally:
        session.close()


def until(happened, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def test_it_is_held_stepped_and_left_open_again(engine: Engine, server: Server) -> None:
    with attached(server.url) as session:
        assert engine.gate.mode == "pause" and session.run.label == "ATTACHED"
        assert session.execute('submit "one two three" 4').data == {"req": "r1"}
        assert session.view.state.waiting == ["r1"]
        session.execute("next")
        assert session.step == 1 and engine.client.core.scheduler.current_step == 1
        session.execute("phase")
        assert session.view.event is not None and session.view.event.phase == "schedule"
        assert session.execute("until finish r1").reached
        assert session.view.event is not None and session.view.event.kind == "req.finish"
        assert engine.gate.held is not None and engine.gate.held.at == "event"
        session.execute("next")
        assert session.view.state.requests["r1"].finish_reason == "length"
    assert engine.gate.mode == "run"


def test_the_state_is_the_engines_own(engine: Engine, server: Server) -> None:
    with attached(server.url) as session:
        for n in range(3):
            session.execute(f"submit prompt number {n} 6")
        session.execute("next 3")
        core = engine.client.core
        state = session.view.state
        assert state.running == [r.req_id for r in core.scheduler.running]
        assert state.free == [block.block_id for block in core.kv.pool.free_queue]
        session.execute("set max_num_seqs 1")
        session.execute("abort r2")
        session.execute("next")
        assert session.view.state.requests["r2"].finish_reason == "abort"
        assert core.config.scheduler.max_num_seqs == 1


def test_a_gate_that_was_closed_stays_closed(engine: Engine, server: Server) -> None:
    engine.gate.pause()
    with attached(server.url) as session:
        session.execute("submit hello 2")
        session.execute("next")
    assert engine.gate.mode == "pause"


def test_who_may_still_be_sent_is_waited_for_and_missed(engine: Engine, server: Server) -> None:
    with attached(server.url) as session:
        session.execute("submit hello 2")
        reply = session.execute("until finish r2")
        assert "not reached: finish r2 (no r2 has come)" in reply.lines[0].plain
        session.execute("submit hello 2")
        assert session.execute("until finish r2").reached


def test_what_ran_before_can_be_looked_at(engine: Engine, server: Server) -> None:
    engine.submit("what was before", 5)
    until(lambda: b'"run.idle"' in engine.log.lines("engine0", 1, 2**60)[-1], "idle again")
    with attached(server.url) as session:
        assert session.history.last == 5
        session.execute("goto 2")
        assert session.view.state.running == ["r1"]
        with pytest.raises(Exception, match="step 5 is the last: nothing is left to run"):
            session.execute("goto 5")
            session.execute("next")


def test_of_a_long_past_the_state_is_taken_and_not_the_steps(
    engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit("what was before", 5)
    until(lambda: b'"run.idle"' in engine.log.lines("engine0", 1, 2**60)[-1], "idle again")
    monkeypatch.setattr("minivllm.terminal.attached.WHOLE", 10)
    with attached(server.url) as session:
        assert session.history.first == 5 and session.view.state.finished == ["r1"]
        session.execute("submit and now 2")
        session.execute("next")
        assert "scheduler.py" in session.execute("where").lines[0].plain


def test_interrupted_it_stands_at_the_end_of_a_step(engine: Engine, server: Server) -> None:
    with attached(server.url) as session:
        session.execute("submit tell me a long story 200")
        engine.gate.rate = 20.0
        threading.Timer(0.5, session.interrupt).start()
        session.execute("continue")
        assert engine.gate.mode == "pause" and session.view.whole
        assert session.view.state.running == ["r1"]


def test_a_lost_connection_heals(engine: Engine) -> None:
    with served(engine) as server:
        port = server.port
        session = Session(attach_to(server.url, None))
        session.execute("submit tell me more 30")
        session.execute("next 2")
    run = session.steered
    assert run is not None
    until(lambda: "is lost" in run.news, "the loss is noticed")
    with pytest.raises(AttachError, match="lost"):
        session.execute("next")
    assert session.execute("requests").lines  # what is known can still be asked
    assert session.execute("back").moved and session.execute("next").moved
    with served(engine, port=port):
        until(lambda: run.news == "connected again", "connected again")
        session.execute("next 2")
        assert session.step == 4 and session.view.state.running == ["r1"]
        session.close()
        assert engine.gate.mode == "run"


@pytest.mark.parametrize(
    ("access", "key", "says"),
    [
        (Access("join", code_for_all=True), None, "none was given: --api-key KEY"),
        (Access("join", code_for_all=True), "wrong", "the key or code is not one of its own"),
    ],
)
def test_without_the_right_key_nobody_gets_in(
    engine: Engine, access: Access, key: str | None, says: str
) -> None:
    with served(engine, access) as server, pytest.raises(AttachError, match=says):
        attach_to(server.url, key)
    assert engine.gate.mode == "run"


def test_a_viewer_may_look_and_not_steer(engine: Engine) -> None:
    access = Access("join", code_for_all=True, driver_code="drive")
    with served(engine, access) as server:
        with pytest.raises(AttachError, match=r"lets you look at .*, not steer"):
            attach_to(f"{server.url}?code=join", None)
        assert engine.gate.mode == "run"
        with attached(f"{server.url}?driver=drive"):
            assert engine.gate.mode == "pause"


def test_a_key_opens(engine: Engine) -> None:
    access = Access("join", code_for_all=True, has_key=lambda header: header == "Bearer secret")
    with served(engine, access) as server, attached(server.url, "secret other"):
        assert engine.gate.mode == "pause"


def test_what_is_no_such_server_is_told_in_one_line(engine: Engine) -> None:
    with pytest.raises(AttachError, match=r"no answer from http://127\.0\.0\.1:9449"):
        attach_to("http://127.0.0.1:9449", None)
    for bad in ("", "ftp://x", "http://", "http://x:99999"):
        with pytest.raises(ConfigError, match="an address such as"):
            ServerAddress(bad)
    app = create_app()  # recordings only
    server = Server(app, port=0).start()
    try:
        with pytest.raises(AttachError, match="has no live engine to step"):
            attach_to(server.url, None)
        app.attach_engine(engine)
        with pytest.raises(AttachError, match="has no engine3; it has: engine0"):
            attach_to(server.url, None, engine=3)
        with pytest.raises(ConfigError, match="--life: got 4; allowed: a life of engine0: 1"):
            attach_to(server.url, None, life=4)
    finally:
        server.stop()


def test_an_engine_that_dies_is_told_and_its_past_stays(engine: Engine, server: Server) -> None:
    session = Session(attach_to(server.url, None))
    session.execute("submit hello 4")
    session.execute("next")
    engine.client.shutdown()
    until(lambda: (session.refresh(), session.history.ended)[1], "its end is told")
    with pytest.raises(EngineDeadError, match="what it has told can still be looked at"):
        session.execute("next")
    session.execute("goto 1")
    assert session.view.state.running == ["r1"]
    with contextlib.suppress(AttachError):
        session.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_it_ends_the_gate_is_opened_again(
    engine: Engine, server: Server, how: signal.Signals
) -> None:
    engine.submit("something to do", 10_000)
    engine.gate.rate = 5.0
    code = [sys.executable, "-m", "minivllm", "step", "--attach", server.url, "-c", "continue"]
    process = subprocess.Popen(code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: engine.gate.mode == "pause", "attached")
    until(lambda: engine.gate.mode == "run", "it goes on")
    process.send_signal(how)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (128 + how, -how)
    until(lambda: engine.gate.mode == "run", "open again")


def test_in_a_terminal_it_steps_and_ctrl_c_leaves_the_gate_open(
    engine: Engine, server: Server, tmp_path: Path
) -> None:
    with Terminal(tmp_path, "step", "--attach", server.url) as terminal:
        terminal.wait_for("ATTACHED")
        terminal.type("submit 你好 世界 🙂 3")
        terminal.wait_for("r1 is taken in")
        terminal.press("enter")
        terminal.wait_for("r1 is admitted")
        engine.submit("by somebody else", 3)  # shown without a key
        terminal.wait_for("WAITING 1")
        terminal.press("ctrl-c")
        assert terminal.status() == 130
    until(lambda: engine.gate.mode == "run", "open again")


def test_the_gate_says_how_it_stands_and_where(engine: Engine) -> None:
    from viz.commands import BadCommand, perform

    engine.gate.pause()
    engine.submit("hello", 2)
    until(lambda: engine.gate.held is not None, "held")
    told = perform(engine, {"op": "gate", "engine": 0})
    assert told["mode"] == "pause" and told["held"]["at"] == "step"
    assert told["held"]["seq"] == engine.log.head_seq("engine0")
    for bad in ({"op": "gate", "engine": "x"}, {"op": "abort", "value": 3}):
        with pytest.raises(BadCommand):
            perform(engine, bad)
    with pytest.raises(ConfigError):
        perform(engine, {"op": "step", "value": 1, "engine": 7})


def test_code_of_a_servers_engine_that_holds_it_shows_its_line(
    engine: Engine, server: Server
) -> None:
    passed = engine.client.core.at_phase

    def at_phase(phase: str) -> None:
        passed(phase)
        minivllm.debug.set_trace()

    engine.client.core.at_phase = at_phase
    with attached(server.url) as session:
        session.execute("submit hello 2")
        assert "held by test_attach.py:" in session.execute("next").lines[0].plain.replace(
            "tests/terminal/", ""
        )
        assert "minivllm.debug.set_trace()" in session.execute("where").data["text"]
        assert session.execute("locals phase").data == {"phase": "'execute'"}
        session.execute("clear code")
        session.execute("next")


def test_an_engine_that_is_started_anew_begins_a_new_history(engine: Engine) -> None:
    """Another server at the same address: another run."""
    with served(engine) as server:
        port = server.port
        session = Session(attach_to(server.url, None))
        session.execute("submit hello 9")
        session.execute("next 3")
    other = Engine(run_id="scripted-2")
    try:
        with served(other, port=port):
            run = session.steered
            assert isinstance(run, SteeredRun)
            until(lambda: (session.refresh(), run.history.header.run_id == "scripted-2")[1], "anew")
            assert other.gate.mode == "pause"
            assert session.view.state.requests == {}
            session.execute("submit hello 2")
            session.execute("next")
            assert session.step == 1
            session.close()
            assert other.gate.mode == "run"
    finally:
        other.client.shutdown()


def test_the_last_of_two_debuggers_leaves_the_gate_as_the_first_found_it(
    engine: Engine, server: Server
) -> None:
    first, second = (Session(attach_to(server.url, None)) for _ in range(2))
    first.close()
    assert engine.gate.mode == "pause", "the second one still holds"
    second.close()
    assert engine.gate.mode == "run"


def test_one_that_is_gone_without_a_word_holds_nobody_for_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viz.holds.Holds.__init__.__defaults__", (0.2,))
    with served(engine) as server:
        killed = Session(attach_to(server.url, None))
        assert engine.gate.mode == "pause"
        killed.run.source._channel.close()  # type: ignore[attr-defined]
        until(lambda: engine.gate.mode == "run", "the gate is open again")


def test_one_that_comes_back_in_time_goes_on_holding(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viz.holds.Holds.__init__.__defaults__", (1.0,))
    with served(engine) as server, attached(server.url) as session:
        session.run.source._channel._socket.close()  # type: ignore[attr-defined]
        time.sleep(2.5)  # longer than the time it has: only its return can have kept the gate
        assert engine.gate.mode == "pause"
    assert engine.gate.mode == "run"


@pytest.mark.parametrize("value", [None, "me", {"who": "", "found": None}, {"who": "a"}, 7])
def test_a_hold_that_is_none_is_refused(server: Server, value: object) -> None:
    with attached(server.url) as session:
        with pytest.raises(AttachError, match="allowed: who"):
            session.run.source._channel.command("hold", value)  # type: ignore[attr-defined]
