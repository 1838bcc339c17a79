"""A server that is asked a list of things, for a recording of the whole way of a request.

Requests come in waves: while the gate holds the engines, all of a wave arrive, one after another;
then it opens. So each run decides the same, however slow the machine is. No counterpart in vLLM.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence

from minivllm.api.server import http_server_on
from minivllm.config import EngineConfig
from minivllm.errors import EndpointError
from minivllm.serving.front import Codes, FrontEnd
from minivllm.serving.live import DashboardEngine
from minivllm.serving.serve import start_engine_itself
from minivllm.serving.settings import ServeSettings
from minivllm.trace.gallery import Ask, Wave
from minivllm.trace.log import TraceLog

PATIENCE_S = 120.0
"""For an arrival, and for an answer."""
LOOK_EVERY_S = 0.02


def record_served(config: EngineConfig, waves: Sequence[Wave]) -> None:
    """Serve, ask, and end. ``config`` names the trace file.

    Raises EndpointError for a request that is not answered with 200, and what a server cannot
    start by.
    """
    settings = ServeSettings(port=0, served_model_name=config.model.model)
    with socket.create_server((settings.host, 0)) as listener:
        front = FrontEnd(config, settings, Codes.fresh(), start_engine_itself)
        try:
            server = http_server_on(front.wsgi, listener)
            threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
            port = listener.getsockname()[1]
            for wave in waves:
                _play(wave, front, port)
            server.shutdown()
            server.server_close()
        finally:
            front.end()


def _play(wave: Wave, front: FrontEnd, port: int) -> None:
    gate, log = front.llm.gate, DashboardEngine(front.llm).log
    gate.pause()
    calls = []
    for ask in wave.request:
        due = _num_sent(log) + 1
        calls.append(_Call(ask, port))
        calls[-1].start()
        _wait_for(due, log, calls[-1])
    gate.resume()
    for call in calls:
        call.join(PATIENCE_S)
        if call.is_alive() or call.problem:
            raise EndpointError(f"{call.ask.path}: {call.problem or 'no answer came'}")


def _num_sent(log: TraceLog) -> int:
    """Requests that the front end has sent to an engine."""
    lines = log.lines("api", 1, 2**62)
    return sum(b'"kind":"ipc.send"' in line and b'"message":"add"' in line for line in lines)


def _wait_for(due: int, log: TraceLog, call: _Call) -> None:
    until = time.monotonic() + PATIENCE_S
    while _num_sent(log) < due:
        if call.problem or time.monotonic() > until:
            raise EndpointError(f"{call.ask.path}: {call.problem or 'it reached no engine'}")
        time.sleep(LOOK_EVERY_S)


class _Call(threading.Thread):
    """A client that reads its answer to the end."""

    def __init__(self, ask: Ask, port: int) -> None:
        super().__init__(name="client", daemon=True)
        self.ask, self._port = ask, port
        self.problem = ""

    def run(self) -> None:
        body = json.dumps(self.ask.body)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request("POST", self.ask.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                self.problem = f"{answer.status}: {text[:200]}"
        except OSError as error:
            self.problem = str(error)
        finally:
            connection.close()
