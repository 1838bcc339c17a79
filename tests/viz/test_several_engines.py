"""The channel and the pages with several engines, one of which is started anew in a live run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask_socketio import SocketIOTestClient

from minivllm.trace.events import EngineWhy
from minivllm.trace.gate import Gate
from tests.two_engines import TwoEngines
from viz.protocol import SNAPSHOT_BEHIND
from viz.server import BoardApp, create_app

Received = list[dict[str, Any]]


class Server:
    """What ``attach_engine`` takes, around a run that is played by hand."""

    def __init__(self, played: TwoEngines) -> None:
        self.log, self.gate = played.log, Gate()

    def gate_of(self, engine: int) -> Gate:
        return self.gate


@pytest.fixture
def played() -> TwoEngines:
    return TwoEngines()


@pytest.fixture
def app(played: TwoEngines) -> BoardApp:
    app = create_app()
    app.attach_engine(Server(played))  # type: ignore[arg-type]
    return app


def work(client: SocketIOTestClient, app: BoardApp) -> Received:
    app.hub.work(block=False)
    received: Received = client.get_received()
    return received


def named(received: Received, name: str) -> list[Any]:
    return [message["args"] for message in received if message["name"] == name]


def told(received: Received) -> dict[tuple[str, int], list[int]]:
    """(stream, life) → the sequence numbers that came in batches."""
    found: dict[tuple[str, int], list[int]] = {}
    for about, payload in named(received, "batch"):
        key = about["stream"], about["life"]
        found.setdefault(key, []).extend(event["seq"] for event in json.loads(payload))
    return found


def hello(client: SocketIOTestClient, app: BoardApp, **fields: Any) -> Received:
    client.emit("hello", {"run": "live", **fields})
    return work(client, app)


def test_second_life_of_an_engine_comes_as_its_own_numbers_and_after_the_first(
    app: BoardApp, played: TwoEngines
) -> None:
    client = app.socketio.test_client(app)
    received = hello(client, app)
    played.start(1)
    played.ask("q1", [1, 2, 3], engine=1)
    played.step(1)
    received += work(client, app)
    played.step(1)  # its last step: nobody has been told yet when the next life begins
    played.kill(1, retried=0, failed=1)
    played.start(1, epoch=2, why=EngineWhy.DEATH)
    received += work(client, app)
    seqs = told(received)
    for life in played.log.lives():
        assert seqs[life.stream, life.epoch] == list(range(1, life.head + 1))
    lives = named(received, "lives")[-1][0]["lives"]
    assert {(one["stream"], one["life"]) for one in lives} == set(seqs)


def test_a_viewer_gets_only_the_streams_and_lives_that_it_named(
    app: BoardApp, played: TwoEngines
) -> None:
    played.run()
    client = app.socketio.test_client(app)
    at = {"engine1": {"life": 1, "seq": 40}, "api": {"life": None, "seq": 0}, "engine9": {}}
    received = hello(client, app, streams=at)
    seqs = told(received)
    assert set(seqs) == {("engine1", 1), ("api", 1)} and seqs["engine1", 1][0] == 41
    welcome = named(received, "welcome")[0][0]
    assert {"stream": "engine1", "life": 2, "first": 1, "head": 88} in welcome["lives"]


def test_acks_count_for_the_life_they_name(app: BoardApp, played: TwoEngines) -> None:
    client = app.socketio.test_client(app)
    played.start(1)
    hello(client, app)
    for epoch in (2, 3):
        played.start(1, epoch=epoch, why=EngineWhy.ADMIN)
        work(client, app)
        client.emit("ack", {"stream": "engine1", "life": epoch, "to": 10**6})
        app.hub.work(block=False)
    (viewer,) = app.hub._viewers.values()
    assert not viewer.cursors["engine1", 2].unanswered and viewer.cursors["engine1", 1].unanswered


def test_late_page_gets_the_front_ends_state_and_each_lifes_own(
    app: BoardApp, played: TwoEngines
) -> None:
    played.run()
    http = app.test_client()

    def snapshot(query: str) -> Any:
        return http.get(f"/api/runs/live/snapshot?{query}").get_json()

    assert snapshot("stream=engine1&life=1")["step"] == 2
    assert snapshot("stream=engine1&life=2")["step"] == snapshot("stream=engine1")["step"] == 7
    front = snapshot("stream=api")
    assert front["seq"] == played.log.head_seq("api")
    assert front["state"]["engines"]["1"]["epoch"] == 2
    assert http.get("/api/runs/live/snapshot?stream=engine1&life=3").status_code == 404
    about = http.get("/api/runs/live").get_json()["lives"]
    assert [(one["stream"], one["life"]) for one in about if one["stream"] != "api"] == [
        ("engine0", 1),
        ("engine1", 1),
        ("engine1", 2),
    ]


def test_front_ends_state_is_kept_though_its_events_are_forgotten(
    app: BoardApp, played: TwoEngines
) -> None:
    played.start(0)
    played.log.retention = SNAPSHOT_BEHIND + 1000
    for i in range(200):
        played.ask(f"q{i}", [i, 1, 2], engine=0, max_tokens=6)
        played.step(0, 6)
        app.hub.work(block=False)  # as the publisher does
    assert played.log.first_seq("api") > 1
    client = app.socketio.test_client(app)
    lags = [lag[0] for lag in named(hello(client, app), "lag")]
    assert {(lag["stream"], lag["snapshot"]) for lag in lags} == {("engine0", True), ("api", True)}
    front = app.test_client().get("/api/runs/live/snapshot?stream=api").get_json()["state"]
    assert front["engines"]["0"]["state"] == "ready" and "q199" in front["routes"]


@pytest.mark.parametrize(
    ("request_id", "place"),
    [
        ("cmpl-a", {"stream": "engine0", "life": 1, "req": "r1", "step": 1}),
        ("cmpl-b", {"stream": "engine1", "life": 1, "req": "r1", "step": 1}),
        ("cmpl-d", {"stream": "engine0", "life": 1, "req": "r3", "step": 5}),  # its first one died
        ("cmpl-e", {"stream": "engine1", "life": 2, "req": "r1", "step": 1}),
    ],
)
def test_a_request_is_found_by_its_clients_id(
    app: BoardApp, played: TwoEngines, request_id: str, place: dict[str, Any]
) -> None:
    played.run()
    answer = app.test_client().get("/api/runs/live/find", query_string={"request": request_id})
    assert answer.get_json() == place


def test_a_request_that_nobody_knows_is_nowhere(app: BoardApp, played: TwoEngines) -> None:
    played.run()
    http = app.test_client()
    for nobody in ("cmpl-", 'cmpl-a"', "\u00e9", "r1"):
        answer = http.get("/api/runs/live/find", query_string={"request": nobody})
        assert answer.status_code == 200 and answer.get_json() is None
    for wrong in ("", "x" * 600):
        assert http.get(f"/api/runs/live/find?request={wrong}").status_code == 400


def test_samples_of_one_request_are_found_by_what_they_share(
    app: BoardApp, played: TwoEngines
) -> None:
    played.start(0)
    for i in range(3):
        played.ask(f"{i}_cmpl-n", [1, 2, 3], engine=0, parent="cmpl-n")
    found = app.test_client().get("/api/runs/live/find?request=cmpl-n").get_json()
    assert found["req"] == "r1"
