"""What is served to whom: files by id only, nothing foreign, control for the driver alone."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint

from minivllm.errors import TraceError
from minivllm.setup.progress import EngineStatus, StatusBoard
from tests.viz.conftest import MakeEngine
from tests.viz.test_hub import connect, named, work
from viz.access import Access
from viz.server import BoardApp, Server, create_app

PROXIED = {"X-Forwarded-For": "203.0.113.9"}


def test_the_list_of_runs_names_what_was_opened(app: BoardApp) -> None:
    answer = app.test_client().get("/api/runs")
    (run,) = answer.get_json()
    assert run["id"] == "tiny-pressure" and run["kind"] == "recorded"
    assert run["header"]["name"] == "tiny-pressure" and "trace.jsonl" not in answer.text


def test_two_files_of_one_name_get_two_ids(tiny_pressure: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny-pressure.trace.jsonl.gz"
    packed.write_bytes(gzip.compress(tiny_pressure.read_bytes()))
    http = create_app([tiny_pressure, packed]).test_client()
    assert [run["id"] for run in http.get("/api/runs").get_json()] == [
        "tiny-pressure",
        "tiny-pressure-2",
    ]
    first, second = (
        http.get(f"/api/runs/{run}/events?stream=engine0&from=1&to=400").get_json()
        for run in ("tiny-pressure", "tiny-pressure-2")
    )
    assert first == second != []


@pytest.mark.parametrize(
    "run_id", ["nobody", "..%2f..%2fetc%2fpasswd", "%2e%2e", "tiny-pressure%00"]
)
def test_a_client_cannot_name_a_path(app: BoardApp, run_id: str) -> None:
    assert app.test_client().get(f"/api/runs/{run_id}/snapshot").status_code == 404


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such trace file"):
        create_app([tmp_path / "nothing.jsonl"])


def test_a_broken_file_stands_in_the_list_with_its_error(
    tiny_pressure: Path, tmp_path: Path
) -> None:
    garbage, cut = tmp_path / "garbage.jsonl", tmp_path / "cut.jsonl"
    garbage.write_text("not a trace\n")
    cut.write_bytes(tiny_pressure.read_bytes()[:-20])
    http = create_app([garbage, cut]).test_client()
    listed = {run["id"]: run for run in http.get("/api/runs").get_json()}
    assert "garbage.jsonl" in listed["garbage"]["error"]
    answer = http.get("/api/runs/cut")
    assert answer.status_code == 422 and "cut in the middle" in answer.get_json()["error"]


def test_every_answer_forbids_foreign_and_inline_scripts(app: BoardApp) -> None:
    http = app.test_client()
    for path in ("/", "/static/app.js", "/api/runs", "/nowhere"):
        policy = http.get(path).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        scripts = re.search(r"script-src ([^;]*)", policy)
        assert scripts and re.fullmatch(r"'self' 'sha256-[\w+/=]+'", scripts.group(1))


def test_the_import_map_is_the_only_inline_script(app: BoardApp) -> None:
    html = app.test_client().get("/").get_data(as_text=True)
    inline = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", html)
    assert inline == [' type="importmap"']
    assert not re.search(r"\son\w+=|style=|https?://", html)


def test_other_blueprints_live_in_the_same_app(tiny_pressure: Path) -> None:
    other = Blueprint("other", __name__)
    other.add_url_rule("/v1/models", view_func=lambda: {"data": []})
    http = create_app([tiny_pressure], blueprints=[other]).test_client()
    assert http.get("/v1/models").get_json() == {"data": []}
    assert http.get("/").status_code == 200


def test_a_viewer_from_elsewhere_needs_the_join_code(tiny_pressure: Path) -> None:
    app = create_app([tiny_pressure], access=Access("apple-tree"))
    http = app.test_client()
    elsewhere: dict[str, Any] = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
    assert http.get("/api/runs", **elsewhere).status_code == 403
    assert http.get("/api/runs/tiny-pressure/snapshot", **elsewhere).status_code == 403
    http.get("/?code=pear-tree", **elsewhere)
    assert http.get("/api/runs", **elsewhere).status_code == 403
    joined = http.get("/?code=apple-tree", **elsewhere)
    assert joined.status_code == 302 and "HttpOnly" in joined.headers["Set-Cookie"]
    assert http.get("/api/runs", **elsewhere).status_code == 200


def test_without_a_join_code_nobody_else_may_look_and_no_other_address_is_opened(
    app: BoardApp,
) -> None:
    answer = app.test_client().get("/api/runs", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 403
    with pytest.raises(ValueError, match="join code"):
        Server(app, host="0.0.0.0", port=0)


@pytest.mark.parametrize("headers", [PROXIED, {"Host": "attacker.example"}])
def test_a_proxy_or_a_foreign_name_for_loopback_is_not_the_local_driver(
    app: BoardApp, headers: dict[str, str]
) -> None:
    assert app.test_client().get("/api/runs", headers=headers).status_code == 403


def test_the_driver_steers_the_gate_and_sends_prompts(make_engine: MakeEngine) -> None:
    app, engine = create_app(), make_engine(paused=True)
    app.attach_engine(engine)
    client = connect(app)
    assert named(work(client, app), "gate")[0] == [{"mode": "pause", "rate": 0.0}]
    for number, (op, value) in enumerate(
        [("rate", 3), ("submit", "one two three"), ("step", 1), ("workload", "any")], start=1
    ):
        app.commands.handle(client.eio_sid, {"id": number, "op": op, "value": value})
    assert engine.gate.rate == 3.0 and engine.gate.mode == "pause"
    while (said := engine.client.get_output(timeout=20)) is not None and not said.outputs:
        pass  # statistics only: the request stands in the queue
    assert said is not None and said.outputs[0].request_id == "page-1"


def test_the_driver_holds_the_engine_in_the_middle_of_a_step(make_engine: MakeEngine) -> None:
    app, engine = create_app(), make_engine(paused=True)
    app.attach_engine(engine)
    engine.submit("one two three")
    places = []
    for op, value in (("phase", None), ("event", None), ("until", "finish")):
        assert engine.gate.wait_held(20) is not None
        app.commands.handle("sid", {"id": 1, "op": op, "value": value})
        held = engine.gate.wait_held(20)
        assert held is not None
        places.append((held.at, held.event.kind if held.event else held.phase))
    assert places == [("phase", "execute"), ("event", "exec.forward"), ("event", "req.finish")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"op": "explode"}, "unknown command 'explode'"),
        ({"op": "submit", "value": "  "}, "empty"),
        ({"op": "submit", "value": 7}, "empty"),
        ({"op": "submit", "value": "x" * 100_001}, "100001 characters"),
        ({"op": "step", "value": 0}, "1 to 1000"),
        ({"op": "step", "value": True}, "1 to 1000"),
        ({"op": "rate", "value": -1}, "full speed"),
        ({"op": "rate", "value": float("nan")}, "full speed"),
        ({"op": "until", "value": None}, "preemption"),
        ({"op": "until", "value": "preemtion"}, "prefix hit"),
        ({"op": "workload", "value": None}, "name of a workload"),
    ],
)
def test_a_bad_command_is_refused_with_what_is_allowed(
    make_engine: MakeEngine, command: dict[str, Any], said: str
) -> None:
    app = create_app()
    app.attach_engine(make_engine())
    answers: list[tuple[str, dict[str, Any]]] = []
    app.commands._answer = lambda sid, result: answers.append((sid, result))
    app.commands.handle("sid", {"id": 1, **command})
    ((_, result),) = answers
    assert result["ok"] is False and said in result["error"]


def test_a_command_without_an_engine_is_refused_in_words() -> None:
    app = create_app()
    answers: list[dict[str, Any]] = []
    app.commands._answer = lambda _sid, result: answers.append(result)
    app.commands.handle("sid", {"id": 1, "op": "pause"})
    assert "not ready yet" in answers[0]["error"]


def test_who_may_look_may_not_steer(make_engine: MakeEngine) -> None:
    app, engine = create_app(access=Access("apple-tree")), make_engine()
    app.attach_engine(engine)
    cookie = f"minivllm_join={app.access.ticket}"
    client = app.socketio.test_client(app, headers={**PROXIED, "Cookie": cookie})
    assert named(work(client, app), "role") == [[{"driver": False, "join": None}]]
    client.emit("command", {"id": 1, "op": "pause"})
    (refusal,) = named(work(client, app), "result")
    assert refusal[0]["ok"] is False and "driver" in refusal[0]["error"]
    assert engine.gate.mode == "run"


def test_a_stranger_is_not_let_into_the_socket(app: BoardApp) -> None:
    assert not app.socketio.test_client(app, headers=PROXIED).is_connected()


def test_the_engine_status_reaches_viewers_as_it_changes(tiny_pressure: Path) -> None:
    board = StatusBoard()
    app = create_app([tiny_pressure], status=board)
    client = connect(app)
    board.subscribe(app.tell_status)
    board.set(EngineStatus.model(41_000_000, 94_000_000))
    board.set(EngineStatus.failed("no network", "connect, then start again"))
    told = [args[0] for args in named(work(client, app), "status")]
    assert told[0]["text"] == "installing" and told[-2]["text"] == "model 41 of 94 MB"
    assert told[-1]["state"] == "failed" and told[-1]["remedy"] == "connect, then start again"


def test_the_dashboard_needs_no_torch(python_without: Any) -> None:
    done = python_without("import viz.server")
    assert done.returncode == 0, done.stderr


def test_with_an_api_key_those_at_the_machine_need_the_code_too(tiny_pressure: Path) -> None:
    client = create_app(
        [tiny_pressure], access=Access("apple-tree", code_for_all=True)
    ).test_client()
    assert client.get("/api/runs").status_code == 403
    assert client.get("/?code=apple-tree").status_code == 302  # sets the cookie
    assert client.get("/api/runs").status_code == 200


def test_a_stream_that_a_run_does_not_have_is_not_found(tiny_pressure: Path) -> None:
    client = create_app([tiny_pressure]).test_client()
    assert client.get("/api/runs/tiny-pressure/snapshot?stream=nobody").status_code == 404


def test_polling_takes_many_packets_at_once_and_a_stranger_costs_no_traceback(
    app: BoardApp, caplog: pytest.LogCaptureFixture
) -> None:
    client = app.test_client()
    local = {"REMOTE_ADDR": "127.0.0.1"}
    opened = client.get("/socket.io/?EIO=4&transport=polling", environ_base=local)
    sid = json.loads(opened.get_data(as_text=True)[1:])["sid"]
    url = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    known: list[int] = []
    app.hub.ack = lambda sid, stream, to, life: known.append(to)  # type: ignore[method-assign]
    acks = [f'42["ack",{{"stream":"engine0","to":{i}}}]' for i in range(40)]
    assert client.post(url, data="\x1e".join(["40", *acks]), environ_base=local).status_code == 200
    deadline = time.monotonic() + 30
    while len(known) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(known) == list(range(40))
    for body in (b"\xff\xfe", b"\x1e".join([b"40"] * 600)):
        assert client.post(url, data=body, environ_base=local).status_code in (200, 400)
    assert not [record for record in caplog.records if record.exc_info]
