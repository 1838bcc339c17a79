"""The running engine as the dashboard sees it: its log, its gate, a way to send it prompts.

The dashboard asks for this shape (``viz.commands.LiveEngine``) and knows nothing of the engine;
``demo`` and ``serve`` hand it over.
"""

from __future__ import annotations

import itertools
from typing import Any

from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.dp_client import DPClient
from minivllm.errors import ConfigError
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from minivllm.scenario_file import load_scenario, shipped_scenarios
from minivllm.trace.gate_control import GateControl
from minivllm.trace.log import TraceLog

PAGE_MAX_TOKENS = 64
"""Output tokens of a prompt that is typed in the page: at 2 steps a second, half a minute."""


class DashboardEngine:
    """An AsyncLLM and its gate. What it sends runs to its end; the page reads it off the trace."""

    def __init__(self, llm: AsyncLLM) -> None:
        if llm.trace_log is None:
            raise ConfigError("live", False, "True: the dashboard shows what the trace tells")
        self.llm, self._log = llm, llm.trace_log
        self._ids = itertools.count(1)

    @property
    def log(self) -> TraceLog:
        return self._log

    @property
    def gate(self) -> GateControl:
        return self.llm.gate

    def gate_of(self, engine: int) -> GateControl:
        """The gate of one engine alone. Raises ConfigError, EngineUnavailableError."""
        client = self.llm.client
        if isinstance(client, DPClient):
            return client.steering.gate_of(engine)
        if engine:
            raise ConfigError("engine", engine, "0: there is one")
        return self.llm.gate

    def abort(self, request_id: str) -> None:
        self.llm.abort([request_id])

    def submit(self, prompt: str, max_tokens: int | None = None) -> str:
        """One turn of a chat with the model, greedy. Raises PromptError."""
        room = max(1, self.llm.max_model_len // 2)
        most = PAGE_MAX_TOKENS if max_tokens is None else max_tokens
        params = SamplingParams(temperature=0.0, max_tokens=min(most, room))
        name = f"page-{next(self._ids)}"
        self._send([{"role": "user", "content": prompt}], params, name)
        return name

    def run_workload(self, name: str) -> list[str]:
        """Send all requests of a scenario that comes with the package, at once.

        Its knobs are not applied: the engine runs already. Raises ConfigError, PromptError.
        """
        if name not in shipped_scenarios():  # a name only: a page must not open files
            raise ConfigError("workload", name[:100], " | ".join(shipped_scenarios()))
        scenario, run, names = load_scenario(name), next(self._ids), []
        for number, request in enumerate(scenario.request, start=1):
            tokens = request.output_tokens
            params = SamplingParams(
                temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True
            )
            names.append(f"{scenario.name}-{run}-{number}")
            prompt = request.prompt or {"prompt_token_ids": request.prompt_token_ids}
            self._send(prompt, params, names[-1], request.priority)
        return names

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        """Change knobs of the scheduler from the next step on. Raises ConfigError."""
        self.llm.set_knobs(**knobs)

    def arm(self, step: Any, engine: int | None = None) -> None:
        """Capture the arrays of one step to come. Raises ConfigError."""
        self.llm.arm(step, engine=engine)

    def _send(self, prompt: Any, params: SamplingParams, name: str, priority: int = 0) -> None:
        # Nobody reads the stream: the one output that it gets, at its end, is dropped with it.
        self.llm.stream(prompt, params, name, kind=OutputKind.FINAL_ONLY, priority=priority)
