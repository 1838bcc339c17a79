"""The arrays of captured steps by HTTP: of a file, of a live run; never a file's name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from minivllm.trace.artifacts import folder_of
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.core.builders import HEADER, Engine
from tests.core.tensors import TensorExecutor, floats
from viz.access import Access
from viz.artifacts import MAX_JSON, MAX_RAW
from viz.commands import BadCommand, perform
from viz.runs import LiveRun
from viz.server import create_app


def run(path: Path | None = None) -> Engine:
    trace = Recorder(TraceLog(HEADER, str(path) if path else None))
    e = Engine(executor=TensorExecutor, trace=trace, level="tensors")
    e.add("a", 6, max_tokens=3)
    e.run()
    trace.flush()
    return e


@pytest.fixture
def path(tmp_path: Path) -> Path:
    run(tmp_path / "run.jsonl")
    return tmp_path / "run.jsonl"


@pytest.fixture(params=["recorded", "live"])
def http(request: pytest.FixtureRequest, path: Path) -> tuple[FlaskClient, str]:
    app = create_app([path])
    app.catalogue.put_live(LiveRun("live", run().trace.log))
    return app.test_client(), "/api/runs/" + ("run" if request.param == "recorded" else "live")


def test_list_names_the_steps_and_their_arrays(http: tuple[FlaskClient, str]) -> None:
    client, run_url = http
    told = client.get(f"{run_url}/artifacts").get_json()
    assert [one["step"] for one in told] == [1, 2, 3]
    assert told[1]["requests"] == ["r1"]
    assert told[1]["arrays"][1] == {"name": "attention.r1", "dtype": "F16", "shape": [2, 3, 1, 4]}
    for nowhere in ("stream=engine7", "stream=engine0&life=9"):
        assert client.get(f"{run_url}/artifacts?{nowhere}").status_code == 404


def test_array_comes_as_json(http: tuple[FlaskClient, str]) -> None:
    client, run_url = http
    told = client.get(f"{run_url}/artifacts/2/attention.r1?at=1,2").get_json()
    assert (told["name"], told["dtype"], told["shape"]) == ("attention.r1", "F16", [1, 4])
    (row,) = told["values"]
    assert row == pytest.approx([1.2, 1.21, 1.22, 1.23], abs=1e-3)
    assert client.get(f"{run_url}/artifacts/2/seq_lens").get_json()["values"] == [4]


def test_array_comes_as_bytes_with_its_shape_beside(http: tuple[FlaskClient, str]) -> None:
    client, run_url = http
    answer = client.get(f"{run_url}/artifacts/2/attention.r1?at=-1&as=float32")
    assert answer.headers["X-Shape"] == "3,1,4" and answer.headers["X-Dtype"] == "F16"
    values = struct.unpack("<12f", answer.data)
    assert values[-1] == pytest.approx(1.23, abs=1e-3)


@pytest.mark.parametrize(
    ("place", "status", "says"),
    [
        ("9/seq_lens", 404, "no arrays of step 9"),
        ("2/attention.r9", 404, "it has seq_lens, attention.r1"),
        ("2/attention.r1?at=7", 422, "axis 0: got 7"),
        ("2/attention.r1?at=x", 400, "at: got 'x'"),
        ("2/attention.r1?as=pickle", 400, "allowed: json, float32"),
        ("two/seq_lens", 404, ""),
        ("-1/seq_lens", 404, ""),
        ("2/..%2f..%2f..%2fetc%2fpasswd", 404, ""),
        ("2/%2e%2e", 404, ""),
        ("2/step-000002.safetensors", 404, "no array"),
    ],
)
def test_what_is_not_there_is_refused(
    http: tuple[FlaskClient, str], place: str, status: int, says: str
) -> None:
    client, run_url = http
    answer = client.get(f"{run_url}/artifacts/{place}")
    assert answer.status_code == status and says in answer.text
    assert "root:" not in answer.text


def test_lens_gets_a_row_an_overview_and_a_matrix(http: tuple[FlaskClient, str]) -> None:
    client, run_url = http
    told = client.get(f"{run_url}/lens/2/r1/row?layer=1&head=2").get_json()
    shape = (told["layers"], told["heads"], told["queries"], told["keys"])
    assert shape == (2, 3, 1, 4) and told["query"] == 0 and told["kv_heads"] is None
    assert told["weights"] == pytest.approx([1.2, 1.21, 1.22, 1.23], abs=1e-3)
    mean = client.get(f"{run_url}/lens/2/r1/row").get_json()["weights"]
    assert mean == pytest.approx([0.6, 0.61, 0.62, 0.63], abs=1e-3)
    heads = client.get(f"{run_url}/lens/2/r1/heads?block=4").get_json()
    assert heads["first"][1][2] == pytest.approx(1.2, abs=1e-3) and heads["bin_keys"] == 1
    matrix = client.get(f"{run_url}/lens/2/r1/matrix?layer=0&head=0").get_json()
    assert matrix["values"] == [pytest.approx([0, 0.01, 0.02, 0.03], abs=1e-3)]


@pytest.mark.parametrize(
    ("place", "status", "says"),
    [
        ("2/r9/row", 404, "it has seq_lens, attention.r1"),
        ("9/r1/row", 404, "no arrays of step 9"),
        ("2/r1/row?layer=2", 400, "allowed: 0 to 1"),
        ("2/r1/row?head=-1", 400, "allowed: 0 to 2"),
        ("2/r1/heads?query=1", 400, "allowed: 0 to 0"),
        ("2/r1/matrix?block=0", 400, "allowed: 1 to"),
        ("2/r1/everything", 404, ""),
    ],
)
def test_lens_refuses_what_is_not_there(
    http: tuple[FlaskClient, str], place: str, status: int, says: str
) -> None:
    client, run_url = http
    answer = client.get(f"{run_url}/lens/{place}")
    assert answer.status_code == status and says in answer.text


def test_deleted_and_altered_files_are_told_of(path: Path) -> None:
    client = create_app([path]).test_client()
    one, two = sorted(folder_of(path).iterdir())[:2]
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1] + b"?")
    assert client.get("/api/runs/run/artifacts/1/seq_lens").status_code == 404
    answer = client.get("/api/runs/run/artifacts/2/seq_lens")
    assert answer.status_code == 422 and "altered" in answer.get_json()["error"]


def test_too_many_numbers_are_refused_with_what_to_ask_for(path: Path) -> None:
    class Large(TensorExecutor):
        def execute_model(self, scheduler_output: Any) -> Any:
            output = super().execute_model(scheduler_output)
            for name, size in (("large", MAX_JSON + 1), ("huge", MAX_RAW + 1)):
                output.tensors.arrays.append(floats(name, [1, size], [0.0] * size))
            return output

    e = Engine(executor=Large, level="tensors")
    e.add("a", 6, max_tokens=1)
    e.run()
    app = create_app([path])
    app.catalogue.put_live(LiveRun("live", e.trace.log))
    client = app.test_client()
    answer = client.get("/api/runs/live/artifacts/1/large")
    assert answer.status_code == 413 and "as=float32" in answer.get_json()["error"]
    assert client.get("/api/runs/live/artifacts/1/large?as=float32").status_code == 200
    answer = client.get("/api/runs/live/artifacts/1/huge?as=float32")
    assert answer.status_code == 413 and "at=LAYER,HEAD" in answer.get_json()["error"]
    assert client.get("/api/runs/live/artifacts/1/huge?at=0,5").get_json()["values"] == 0.0


@pytest.mark.parametrize("place", ["artifacts", "artifacts/2/seq_lens", "lens/2/r1/row"])
def test_who_may_not_look_gets_no_array(path: Path, place: str) -> None:
    client = create_app([path], access=Access("secret", code_for_all=True)).test_client()
    assert client.get(f"/api/runs/run/{place}").status_code == 403
    client.get("/?code=secret")
    assert client.get(f"/api/runs/run/{place}").status_code == 200


def test_driver_arms_a_step_by_a_command(make_engine: Any) -> None:
    engine = make_engine()
    perform(engine, {"op": "arm"})
    perform(engine, {"op": "arm", "value": 1000})
    perform(engine, {"op": "arm", "value": {"step": 1001, "engine": 0}})
    perform(engine, {"op": "arm", "value": {"step": "none"}})
    with pytest.raises(ValueError, match="allowed: next"):
        perform(engine, {"op": "arm", "value": "soon"})
    with pytest.raises(ValueError, match="engine: got 1; allowed: 0"):
        perform(engine, {"op": "arm", "value": {"step": "next", "engine": 1}})
    with pytest.raises(BadCommand, match="an engine's number"):
        perform(engine, {"op": "arm", "value": {"engine": "0"}})
    with pytest.raises(BadCommand, match="arm, simulate"):
        perform(engine, {"op": "disarm"})
