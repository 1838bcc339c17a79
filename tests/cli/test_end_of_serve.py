"""Pitfall: SIGTERM waits for an open websocket. Here ``serve`` ends while pages are open."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from simple_websocket import Client

from minivllm.trace.file import read_trace
from tests.cli.test_commands import first_line
from tests.conftest import ROOT


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``serve`` at a step a second: what it was asked for would take minutes."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "minivllm",
            "serve",
            "--port",
            "0",
            "--rate",
            "1",
            "--shutdown-timeout",
            "0",
        ]
        + [
            "--model",
            str(tiny_model),
            "--num-kv-blocks",
            "64",
            "--trace",
            str(tmp_path / "t.jsonl"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_under_an_open_page_and_open_streams(
    sign: signal.Signals, server: subprocess.Popen[str], tmp_path: Path
) -> None:
    address = first_line(server, "API http://").split()[1].removesuffix("/v1").split("//")[1]
    page = Client(f"ws://{address}/socket.io/?EIO=4&transport=websocket")
    page.receive(timeout=30)  # the channel is open
    page.send("40")
    page.receive(timeout=30)
    page.send('42["hello",{"run":"live","streams":{}}]')
    streams = []
    for _ in range(2):
        connection = http.client.HTTPConnection(address, timeout=60)
        body = json.dumps({"prompt": "ab", "max_tokens": 400, "stream": True, "ignore_eos": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        streams.append(connection.getresponse())
        assert streams[-1].readline().startswith(b"data: ")
    server.send_signal(sign)
    _, rest = server.communicate(timeout=60)
    assert server.returncode == 0, rest
    assert "Traceback" not in rest
    for stream in streams:
        assert stream.read().rstrip().endswith(b"data: [DONE]")
    events = read_trace(tmp_path / "t.jsonl").engine_events
    assert [e.data.why.value for e in events if e.kind == "req.abort"] == ["shutdown"] * 2
    assert [e.req for e in events if e.kind == "req.finish"] == ["r1", "r2"]
