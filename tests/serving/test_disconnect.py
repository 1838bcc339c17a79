"""A client that leaves costs no more than the step in which it is noticed. Read off the trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.trace.file import read_trace
from tests.serving.conftest import StartServer, answer_of, until


@pytest.mark.parametrize("http_server", ["gunicorn", "werkzeug"])
def test_blocks_are_free_within_a_step_of_the_disconnect(
    serve: StartServer, tmp_path: Path, http_server: str
) -> None:
    # PITFALLS: client disconnects during a stream: the engine goes on generating
    path = tmp_path / "t.jsonl"
    server = serve({"path": str(path)}, http_server=http_server, rate=20.0)
    staying = server.post({"max_tokens": 1900, "stream": True})
    assert answer_of(staying).readline().startswith(b"data: ")
    leaving = [server.post({"max_tokens": 1900, "stream": stream}) for stream in (True, False)]
    assert answer_of(leaving[0]).readline().startswith(b"data: ")
    for connection in leaving:
        connection.sendall(b"GET /health HTTP/1.1\r\n")  # what nobody has read hides the end
        connection.close()
    until(lambda: sum("'/v1/completions'" in line for line in server.lines) == 2, "both ended")
    assert server.get("/v1/completions", "POST", {"prompt": "a", "max_tokens": 3})[0] == 200
    server.process.kill()  # the trace is written as it happens

    events = read_trace(path).engine_events
    aborts = [e for e in events if e.kind == "req.abort"]
    assert [e.data.why.value for e in aborts] == ["client"] * 2
    for abort in aborts:
        freed = next(e for e in events if e.kind == "kv.free" and e.req == abort.req)
        assert abort.step <= freed.step <= abort.step + 1
        granted = [e.step for e in events if e.kind == "sched.grant" and e.req == abort.req]
        assert granted and max(granted) <= abort.step
