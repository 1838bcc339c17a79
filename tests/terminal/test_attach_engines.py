"""Attached to one of several engines, or to a life of an engine that was started anew."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.errors import AttachError, ConfigError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.terminal.attached import attach_to
from minivllm.terminal.reply import VerbError
from minivllm.terminal.runs import PastRun
from minivllm.terminal.session import Session
from minivllm.terminal.steered import SteeredRun
from minivllm.trace.recorder import Recorder
from tests.terminal.test_attach import Engine, served, until
from tests.terminal.test_commands import Run, minivllm
from tests.viz.two_scripted import TwoScripted

__all__ = ["minivllm"]  # a fixture


class Two(TwoScripted):
    """What a server with two engines offers to a debugger. Its router takes turns."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = itertools.count()

    def submit(self, prompt: str, max_tokens: int = 8) -> str:
        turn = next(self._turns)
        self.ask(f"page-{turn}", turn % 2, max_tokens)
        return f"page-{turn}"

    def abort(self, request_id: str) -> None:
        for client in self.clients:
            client.abort_requests([request_id])

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        for client in self.clients:
            client.set_knobs(**knobs)


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    two.close()


def modes(two: Two) -> list[str]:
    return [gate.mode for gate in two.gates]


@contextlib.contextmanager
def attached(url: str, engine: int) -> Iterator[Session]:
    session = Session(attach_to(url, None, engine))
    try:
        yield session
    finally:
        session.close()


def hears(session: Session) -> None:
    """Wait until it is told of a request that somebody else has sent."""
    until(lambda: (session.refresh(), session.view.state.requests)[1], "a request is told")


def test_one_engine_is_held_and_stepped_and_the_other_runs_on(two: Two) -> None:
    with served(two) as server:  # type: ignore[arg-type]
        with attached(server.url, 1) as session:
            assert modes(two) == ["run", "pause"]
            two.ask("mine", 1), two.ask("other", 0)
            until(lambda: two.steps()[0] == 8, "the other runs to its end")
            hears(session)
            session.execute("next 3")
            assert session.step == 3 and two.steps() == [8, 3]
            assert session.view.state.running == ["r1"]
            assert session.execute("until finish r1").reached and two.steps()[0] == 8
        assert modes(two) == ["run", "run"]


def test_what_the_router_sends_elsewhere_is_told(two: Two) -> None:
    with served(two) as server, attached(server.url, 1) as session:  # type: ignore[arg-type]
        with pytest.raises(AttachError, match=r"sent it to engine0, .* r1: --engine 0 shows it"):
            session.execute("submit hello 3")
        assert session.execute("submit hello 3").data == {"req": "r1"}
        session.execute("next 3")
        assert session.view.state.finished == ["r1"]


def test_each_of_two_debuggers_has_its_engine(two: Two) -> None:
    with served(two) as server:  # type: ignore[arg-type]
        with attached(server.url, 0) as first, attached(server.url, 1) as second:
            two.ask("a", 0), two.ask("b", 1)
            hears(first), hears(second)
            first.execute("next 2"), second.execute("next")
            assert two.steps() == [2, 1] and modes(two) == ["pause", "pause"]
        assert modes(two) == ["run", "run"]


def test_an_export_of_one_says_so(two: Two, tmp_path: Any) -> None:
    with served(two) as server, attached(server.url, 1) as session:  # type: ignore[arg-type]
        two.ask("mine", 1)
        hears(session)
        session.execute("next 2")
        told = session.execute(f"export {tmp_path / 'one.jsonl'}").data["what"]
        assert told.endswith("events of engine1 of 2 engines, without the others")


def test_the_command_line_names_the_engine(two: Two, minivllm: Run) -> None:
    two.ask("mine", 1)
    until(lambda: two.steps()[1] == 8, "it has run")
    with served(two) as server:  # type: ignore[arg-type]
        attach = ["step", "--attach", server.url, "--engine"]
        assert "r1  finished" in minivllm(*attach, "1", "-c", "requests").stdout
        assert "no request has come by step 0" in minivllm(*attach, "0", "-c", "requests").stdout
        assert "has no engine2; it has: engine0, engine1" in minivllm(*attach, "2").stderr
        assert modes(two) == ["run", "run"]


# --- lives ---------------------------------------------------------------------------------------


@pytest.fixture
def reborn() -> Iterator[Engine]:
    """An engine that has run a request, has ended, and was started anew."""
    engine = Engine()
    engine.submit("of the first life", 3)
    until(lambda: engine.client.core.scheduler.current_step == 3, "it has run")
    config = engine.client.core.config
    engine.client.shutdown()
    recorder = Recorder(engine.log, token_text=lambda token, _: f" w{token}", epoch=2)
    core = EngineCore(config, ScriptedExecutor(config, counting_tokens), recorder)
    engine.client = InprocClient(core, engine.gate)
    recorder.flush()
    yield engine
    engine.client.shutdown()


def test_an_earlier_life_is_looked_at_and_its_engine_runs_on(reborn: Engine) -> None:
    with served(reborn) as server:
        session = Session(attach_to(server.url, None, life=1))
        assert isinstance(session.run, PastRun) and reborn.gate.mode == "run"
        session.execute("goto 3")
        assert session.view.state.requests["r1"].finish_reason == "length"
        with pytest.raises(VerbError, match="nothing runs behind a recording"):
            session.execute("submit hello")
        session.close()
        assert reborn.gate.mode == "run"


def test_the_newest_life_is_the_one_that_is_steered(reborn: Engine) -> None:
    with served(reborn) as server:
        for life in (None, 2):
            session = Session(attach_to(server.url, None, life=life))
            assert isinstance(session.run, SteeredRun) and reborn.gate.mode == "pause"
            assert session.view.state.requests == {}
            session.close()
        with pytest.raises(ConfigError, match="--life: got 3; allowed: a life of engine0: 1, 2"):
            attach_to(server.url, None, life=3)


def test_the_command_line_names_the_life(reborn: Engine, minivllm: Run) -> None:
    with served(reborn) as server:
        attach = ["step", "--attach", server.url, "--life"]
        assert "r1  finished" in minivllm(*attach, "1", "-c", "goto last; requests").stdout
        assert "no request has come by step 0" in minivllm(*attach, "2", "-c", "requests").stdout
