"""Runs to look at: tiny-pressure as a trace file, and a scripted engine behind a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import flask_socketio.test_client
import pytest
from flask.testing import EnvironBuilder
from playwright.sync_api import Browser, sync_playwright

from minivllm.scenario import load_scenario, start
from tests.viz.browser import FLAGS
from tests.viz.scripted import ScriptedEngine
from viz.server import BoardApp, Server, create_app

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MakeEngine = Callable[..., ScriptedEngine]


@pytest.fixture(autouse=True)
def socket_clients_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every real server tells the peer's address; the socket's test client does not."""

    class LocalBuilder(EnvironBuilder):
        def get_environ(self) -> WSGIEnvironment:
            return {**super().get_environ(), "REMOTE_ADDR": "127.0.0.1"}

    monkeypatch.setattr(flask_socketio.test_client, "EnvironBuilder", LocalBuilder)


@pytest.fixture(scope="session")
def tiny_pressure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenario with its given tokens, recorded on the real scheduler and pool."""
    path = tmp_path_factory.mktemp("traces") / "tiny-pressure.trace.jsonl"
    run = start(load_scenario("tiny-pressure"), trace_path=str(path)).run()
    run.recorder.close()
    return path


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    engines: list[ScriptedEngine] = []

    def make(*args: object, **kwargs: object) -> ScriptedEngine:
        engines.append(ScriptedEngine(*args, **kwargs))  # type: ignore[arg-type]
        return engines[-1]

    yield make
    for engine in engines:
        engine.gate.resume()
        engine.close()


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Iterator[Callable[[BoardApp], Server]]:
    servers: list[Server] = []

    def start_server(app: BoardApp) -> Server:
        servers.append(Server(app, port=0).start())
        return servers[-1]

    yield start_server
    for server in servers:
        server.stop()


@pytest.fixture
def app(tiny_pressure: Path) -> BoardApp:
    return create_app([tiny_pressure])
