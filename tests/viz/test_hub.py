"""The live channel: order, acks, gaps, late viewers, another run behind the same id."""

from __future__ import annotations

import json
from typing import Any
from zlib import compress, decompress

import pytest
from flask_socketio import SocketIOTestClient

from tests.viz.conftest import MakeEngine
from tests.viz.scripted import ScriptedEngine
from viz import protocol
from viz.protocol import BATCH_SECONDS, LONGEST_PAUSE, SNAPSHOT_BEHIND, WINDOW, pause_after
from viz.runs import MAX_EVENTS_PER_ANSWER
from viz.server import BoardApp, create_app

Received = list[dict[str, Any]]


@pytest.fixture
def live_app() -> BoardApp:
    """An app whose publisher is turned by hand (``hub.work``), so that nothing depends on time."""
    return create_app()


def connect(app: BoardApp) -> SocketIOTestClient:
    return app.socketio.test_client(app)


def hello(client: SocketIOTestClient, app: BoardApp, **fields: Any) -> Received:
    client.emit("hello", {"run": "live", **fields})
    return work(client, app)


def work(client: SocketIOTestClient, app: BoardApp) -> Received:
    app.hub.work(block=False)
    received: Received = client.get_received()
    return received


def named(received: Received, name: str) -> list[Any]:
    return [message["args"] for message in received if message["name"] == name]


def seqs(received: Received) -> list[int]:
    """The sequence numbers that arrived in batches, in order of arrival."""
    batches = [json.loads(payload) for _about, payload in named(received, "batch")]
    return [event["seq"] for batch in batches for event in batch if event["stream"] == "engine0"]


def finish(engine: ScriptedEngine, prompts: int = 1, words: int = 6) -> int:
    """Run some prompts to their end; returns the last sequence number."""
    done = 0
    for i in range(prompts):
        engine.submit("word " * words + str(i))
    while done < prompts:
        outputs = engine.client.get_output(timeout=20)
        assert outputs is not None, "the scripted engine stands still"
        done += sum(output.finish_reason is not None for output in outputs.outputs)
    return engine.log.head_seq("engine0")


def test_a_viewer_gets_every_event_in_order_and_without_a_gap(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client = connect(live_app)
    received = hello(client, live_app)
    head = finish(engine)
    received += work(client, live_app)
    welcome = named(received, "welcome")[0][0]
    assert welcome["run"] == "live" and welcome["epoch"] == "scripted-1" and not welcome["reset"]
    assert seqs(received)[:head] == list(range(1, head + 1))


def test_a_reconnected_viewer_continues_where_it_stood(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client = connect(live_app)
    seen = seqs(hello(client, live_app))
    client.disconnect()
    head = finish(engine)  # these batches are lost to it
    client = connect(live_app)
    at = {"engine0": {"life": 1, "seq": seen[-1]}}
    received = hello(client, live_app, epoch="scripted-1", streams=at)
    assert seqs(received)[: head - seen[-1]] == list(range(seen[-1] + 1, head + 1))


def test_a_viewer_that_never_acks_gets_four_batches_and_one_lag(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client = connect(live_app)
    received = hello(client, live_app)
    for _ in range(8):
        finish(engine)
        received += work(client, live_app)
    assert len(named(received, "batch")) == WINDOW
    (lag,) = named(received, "lag")
    assert lag[0]["stream"] == "engine0" and lag[0]["head"] > seqs(received)[-1]


def test_a_lagging_viewer_goes_on_once_it_has_fetched_and_acked(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client = connect(live_app)
    received = hello(client, live_app)
    for _ in range(6):
        finish(engine)
        received += work(client, live_app)
    last = seqs(received)[-1]
    head = engine.log.head_seq("engine0")
    path = f"/api/runs/live/events?stream=engine0&from={last + 1}&to={head}"
    missed = live_app.test_client().get(path).get_json()
    assert [event["seq"] for event in missed] == list(range(last + 1, head + 1))
    client.emit("ack", {"stream": "engine0", "to": head})
    finish(engine)
    assert seqs(work(client, live_app))[0] == head + 1


def test_acks_open_the_window_again(live_app: BoardApp, make_engine: MakeEngine) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client = connect(live_app)
    received = hello(client, live_app)
    for _ in range(8):
        finish(engine)
        new = work(client, live_app)
        received += new
        for about, _payload in named(new, "batch"):
            client.emit("ack", {"stream": about["stream"], "to": about["to"]})
    assert not named(received, "lag")
    assert seqs(received) == list(range(1, len(seqs(received)) + 1))


def test_what_several_pages_are_sent_is_deflated_once_and_plain_to_who_cannot_inflate(
    live_app: BoardApp, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, deflated = make_engine(), []
    live_app.attach_engine(engine)
    clients = [connect(live_app) for _ in range(4)]
    for client in clients:
        hello(client, live_app, inflates=client is not clients[3])
    monkeypatch.setattr(
        protocol.zlib, "compress", lambda data, level: deflated.append(data) or compress(data)
    )
    finish(engine, words=40)
    live_app.hub.work(block=False)
    received = [client.get_received() for client in clients]
    (about, plain), *_ = named(received[3], "batch")
    assert "deflated" not in about
    payloads = []
    for got in received[:3]:
        (about, payload), *_ = named(got, "batch")
        assert about["deflated"] and json.loads(decompress(payload))[0] == json.loads(plain)[0]
        payloads.append(payload)
    assert payloads == payloads[:1] * 3 and len(deflated) == 1 and len(payload) < len(plain)


def test_a_page_that_nobody_sees_is_sent_nothing_and_then_all_it_lacks(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    client, other = connect(live_app), connect(live_app)
    seen = seqs(hello(client, live_app))
    hello(other, live_app)
    client.emit("show", {"hidden": True})
    head = finish(engine)
    assert not named(work(client, live_app), "batch")
    assert seqs(other.get_received())[-1] == head
    client.emit("show", {"hidden": False})
    assert seqs(work(client, live_app)) == list(range(seen[-1] + 1, head + 1))


def test_the_publisher_rests_longer_the_more_it_has_sent_but_never_so_long_that_pages_lag() -> None:
    assert pause_after(0.0, 1) == BATCH_SECONDS
    assert BATCH_SECONDS < pause_after(0.0, 30) < LONGEST_PAUSE
    assert pause_after(1.0, 64) == LONGEST_PAUSE


def test_a_viewer_far_behind_is_sent_to_the_snapshot(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    live_app.attach_engine(engine)
    while engine.log.head_seq("engine0") <= SNAPSHOT_BEHIND:
        finish(engine, prompts=8)
    client = connect(live_app)
    received = hello(client, live_app)
    assert not named(received, "batch")
    assert named(received, "lag")[0][0]["snapshot"] is True

    http = live_app.test_client()
    snapshot = http.get("/api/runs/live/snapshot?stream=engine0").get_json()
    assert snapshot["step"] == snapshot["state"]["step"] > 0
    assert snapshot["seq"] == snapshot["state"]["seq"]
    assert set(snapshot["hues"]) == set(snapshot["state"]["requests"])


def test_events_that_the_log_forgot_are_refused_and_the_snapshot_still_tells(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    engine.log.retention = 3000
    live_app.attach_engine(engine)
    while engine.log.first_seq("engine0") < 200:
        finish(engine, prompts=8)
        live_app.hub.work(block=False)  # as the publisher does after each step
    http = live_app.test_client()
    answer = http.get("/api/runs/live/events?stream=engine0&from=1&to=10")
    assert answer.status_code == 410 and "no longer kept" in answer.get_json()["error"]
    state = http.get("/api/runs/live/snapshot?stream=engine0").get_json()["state"]
    assert state["config"]["block_size"] == 4 and not state["running"]


def test_another_engine_behind_the_same_id_resets_the_viewer(
    live_app: BoardApp, make_engine: MakeEngine
) -> None:
    live_app.attach_engine(make_engine("scripted-1"))
    client = connect(live_app)
    before = seqs(hello(client, live_app))
    live_app.attach_engine(make_engine("scripted-2"))
    received = work(client, live_app)
    welcome = named(received, "welcome")[0][0]
    assert before and welcome["reset"] is True and welcome["epoch"] == "scripted-2"
    assert seqs(received)[0] == 1

    late = connect(live_app)
    welcome = named(hello(late, live_app, epoch="scripted-1"), "welcome")[0][0]
    assert welcome["reset"] is True


def test_a_run_that_does_not_exist_is_said_to_be_gone(live_app: BoardApp) -> None:
    client = connect(live_app)
    assert named(hello(client, live_app), "gone") == [[{"run": "live"}]]


@pytest.mark.parametrize("nonsense", [None, 5, "x", {"run": 3}, {"streams": []}, {"run": ["live"]}])
def test_malformed_messages_change_nothing(
    live_app: BoardApp, make_engine: MakeEngine, nonsense: object
) -> None:
    live_app.attach_engine(make_engine())
    client = connect(live_app)
    for name in ("hello", "ack", "command"):
        client.emit(name, nonsense)
    received = work(client, live_app)
    assert not named(received, "welcome") and not named(received, "batch")
    assert named(hello(client, live_app, streams={"engine0": "7"}), "welcome")


def test_history_is_given_in_bounded_pieces(app: BoardApp) -> None:
    http = app.test_client()
    path = "/api/runs/tiny-pressure/events?stream=engine0&from={}&to={}"
    events = http.get(path.format(1, 5)).get_json()
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    for start, end in ((0, 5), (1, MAX_EVENTS_PER_ANSWER + 1), (9, 2), ("a", "b")):
        answer = http.get(path.format(start, end))
        assert answer.status_code == 400, (start, end)
