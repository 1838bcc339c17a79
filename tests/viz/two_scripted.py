"""Two live engines without a model in one run, each behind a gate of its own, as a fleet."""

from __future__ import annotations

import threading
from typing import Any

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.fleet_gate import FleetGate, Member
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import EngineUnavailableError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Header
from minivllm.trace.gate import Gate
from minivllm.trace.gate_control import GateControl
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from tests.two_engines import KNOBS


class TwoScripted:
    """What ``BoardApp.attach_engine`` takes; ``ask`` says which engine a request goes to."""

    def __init__(self, paused: bool = False) -> None:
        header = Header(run_id="two", created="", engine_version="test", model="none")
        self.log = TraceLog(header)
        self.gates = [Gate(), Gate()]
        members = [Member(gate, lambda: None, lambda: None) for gate in self.gates]
        self.gate = FleetGate(lambda: members, threading.RLock(), paused)
        self.clients = []
        for number, gate in enumerate(self.gates):
            self.gate.add(gate)
            recorder = Recorder(self.log, f"engine{number}", lambda token, _: f" w{token}")
            config = make_config(**dict[str, Any](KNOBS))
            core = EngineCore(config, ScriptedExecutor(config, counting_tokens), recorder)
            recorder.flush()
            self.clients.append(InprocClient(core, gate))

    def gate_of(self, engine: int) -> GateControl:
        if engine >= len(self.gates):
            raise EngineUnavailableError(f"there is no engine {engine}")
        return self.gates[engine]

    def ask(self, name: str, engine: int, max_tokens: int = 8) -> None:
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        self.clients[engine].add_request(
            EngineCoreRequest(request_id=name, prompt_token_ids=[1, 2, 3], sampling_params=params)
        )

    def steps(self) -> list[int]:
        """How many steps each engine has run to its end."""
        return [client.core.scheduler.current_step for client in self.clients]

    def close(self) -> None:
        for gate, client in zip(self.gates, self.clients, strict=True):
            gate.resume()
            client.shutdown()
