"""The page and the real endpoint over an engine without a model: it says a text, byte by byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minivllm.api.limits import Limits, OpenRequests
from minivllm.api.server import create_blueprint
from minivllm.cli.workbench import ScenarioBench
from minivllm.config import EngineConfig, make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput, TokenLogprobs
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.parts import build
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.serving.front import PAGE_ENDPOINTS
from minivllm.serving.late_endpoint import LIFE_PAGE
from minivllm.serving.live import DashboardEngine
from minivllm.trace.gate import Gate
from tests.serve.fakes import EOS, FakeTokenizer
from viz.access import Access
from viz.server import BoardApp, create_app

SAYS = 'Hi <img src=x onerror="window.pwned=1"> 日本 😀 [x](javascript:alert(1)) &amp; bye'
SAID = [*FakeTokenizer().encode(SAYS), EOS]
OTHERS = [ord("z"), ord("y")]
"""What stands beside each token, with 15 % and 5 %; the token itself has 80 %."""


class TalkingExecutor(ScriptedExecutor):
    """Puts logprobs beside its tokens, where a request asks for them."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, lambda _req, index: SAID[index % len(SAID)])
        self._top: dict[str, int] = {}

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        for new in scheduler_output.scheduled_new_reqs:
            if new.sampling_params.logprobs is not None:
                self._top[new.req_id] = new.sampling_params.logprobs
        output = super().execute_model(scheduler_output)
        for req_id, tokens in output.sampled_token_ids.items():
            if req_id in self._top:
                output.logprobs[req_id] = [row(token, self._top[req_id]) for token in tokens]
        return output


def row(token: int, top: int) -> TokenLogprobs:
    best = [(i, math.log(p)) for i, p in zip([token, *OTHERS], (0.8, 0.15, 0.05), strict=True)]
    return TokenLogprobs(token, best[0][1], 1, best[:top])


def executor(config: EngineConfig) -> ScriptedExecutor:
    return TalkingExecutor(config)


def tokenizer(_config: EngineConfig) -> FakeTokenizer:
    return FakeTokenizer()


class ChattingServer:
    """``app`` is what serves it; :meth:`close` ends the engine."""

    def __init__(
        self,
        *,
        rate: float = 0.0,
        api_keys: Sequence[str] = (),
        access: Access | None = None,
        max_streams: int = 8,
        **knobs: Any,
    ) -> None:
        engine = {"num_kv_blocks": 129, "block_size": 8, "max_model_len": 512, "live": True}
        parts = build(
            make_config(**(engine | knobs)),
            executor_factory="tests.viz.chatting:executor",
            tokenizer="tests.viz.chatting:tokenizer",
            gate=Gate(rate=rate),
        )
        self.llm = AsyncLLM.from_parts(parts.client, parts.tokenizer, parts.tracer)
        self.llm.trace_log = parts.trace_log
        self.open_requests = OpenRequests(max_streams)
        endpoint = create_blueprint(
            self.llm,
            served_model_name="talker",
            api_keys=api_keys,
            open_endpoints=PAGE_ENDPOINTS,
            limits=Limits(self.open_requests),
            life_page=LIFE_PAGE,
        )
        self.app: BoardApp = create_app(
            blueprints=[endpoint], access=access or Access(), workbench=ScenarioBench()
        )
        self.app.attach_engine(DashboardEngine(self.llm))

    def close(self) -> None:
        self.llm.gate.resume()
        self.llm.close()
