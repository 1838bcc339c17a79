"""The log: a line for each request, with its id and no word of what was said."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from minivllm.logs import JsonLines, TextLines
from tests.serving.conftest import RunningServer, StartServer, until

SECRET = "a secret that nobody may read"
FORGED = "/v1/x%0a12:00:00.000%20INFO%20api%20forged%1b[31m%e2%80%a8%c2%85"


@pytest.fixture(scope="module", params=["text", "json"])
def server(request: pytest.FixtureRequest, serve_module: StartServer) -> RunningServer:
    return serve_module(
        log_format=request.param, log_level="debug", request_timeout_s=60.0, host="0.0.0.0"
    )


def test_each_request_has_a_line_and_no_client_writes_one(server: RunningServer) -> None:
    body = {"prompt": SECRET, "max_tokens": 3}
    server.get("/v1/completions", "POST", body, X_Request_Id="my-id")
    server.get("/v1/completions", "POST", body | {"temperature": SECRET}, X_Request_Id="a b\tc")
    server.get("/v1/completions?q=secret", "POST", f'{{"{SECRET}'.encode())
    server.get(FORGED)
    server.raw(b"GET / HTTP/1.1\r\nbad\x1b[31m: x\r\n\r\n")
    server.get("/version")
    told = ("my-id", "forged", "/version")  # a line may come after the next request's
    until(lambda: all(word in server.log for word in told), "the lines are there")
    log = server.log
    assert "secret" not in log and "\x1b" not in log
    (forged,) = [line for line in log.splitlines() if "forged" in line]
    assert "GET '/v1/x" in forged  # the request's own line, and no other
    if "json" in server.process.args[-1]:
        lines = [json.loads(line) for line in log.splitlines()]
        (line,) = [line for line in lines if line.get("request_id") == "my-id"]
        assert line["message"] == "POST '/v1/completions'" and line["status"] == "200"
        assert (line["completion_tokens"], line["engine"]) == (3, 0) and line["prompt_tokens"] > 9
        assert line["ms"] > 0 and line["bytes"] > 0
        (ready,) = [line for line in lines if "API http" in line["message"]]
        assert ready["level"] == "INFO"
        assert "driver=" not in log and "code=" not in log
    else:
        (line,) = [line for line in log.splitlines() if "request_id=my-id" in line]
        assert "INFO" in line and "status=200" in line and "completion_tokens=3" in line


@pytest.mark.parametrize("lines", [TextLines(), JsonLines()])
def test_a_record_is_one_line_whatever_it_says(lines: logging.Formatter) -> None:
    nasty = "one\ntwo\r\x1b[2J\x00\x85\u2028\udc80"
    record = logging.LogRecord("minivllm", logging.INFO, "", 1, "%s", (nasty,), None)
    record.fields = {"name": nasty}
    told = lines.format(record)
    assert len(told.splitlines()) == 1 and told.isprintable()
    told.encode()


def test_a_traceback_of_ours_keeps_its_lines_and_forges_none() -> None:
    try:
        raise ValueError("first\n12:00 INFO forged")
    except ValueError:
        record = logging.LogRecord(
            "minivllm", logging.ERROR, "", 1, "it failed", (), sys.exc_info()
        )
    told = TextLines().format(record).splitlines()
    assert len(told) > 2 and all(line.startswith("    ") for line in told[1:])
