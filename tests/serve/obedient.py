"""A whole server without a model, for the fuzzers: real front end, scheduler, pool and grammars."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask

from minivllm import AsyncLLM
from minivllm.api.server import create_app
from minivllm.config import make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput, TokenLogprobs
from minivllm.engine.messages import EngineCoreOutputs
from minivllm.engine.parts import build
from minivllm.executor.scripted import ScriptedExecutor
from tests.serve.conftest import MODEL
from tests.serve.fakes import EOS, FakeTokenizer, outputs_by_wire, request_by_wire

LINE = [*FakeTokenizer().encode("Hello 😀 world"), EOS]


class ObedientExecutor(ScriptedExecutor):
    """Says a line, but what a grammar allows where there is one; and scores what it says."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, lambda req_id, index: LINE[index % len(LINE)])
        self._params: dict[str, Any] = {}
        self._prompts: dict[str, list[int]] = {}

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        for new in scheduler_output.scheduled_new_reqs:
            self._params[new.req_id] = new.sampling_params
            self._prompts[new.req_id] = new.prompt_token_ids
        result = super().execute_model(scheduler_output)
        for req_id, tokens in result.sampled_token_ids.items():
            mask = scheduler_output.grammar_bitmask.get(req_id)
            if mask is not None:
                tokens[0] = _likeliest(mask)
            params = self._params[req_id]
            if params.logprobs is not None:
                result.logprobs[req_id] = [_score(i, params.logprobs) for i in tokens]
            if params.prompt_logprobs is not None and req_id in self._prompts:
                rows = [_score(i, params.prompt_logprobs) for i in self._prompts[req_id][1:]]
                result.prompt_logprobs[req_id] = rows
            self._prompts.pop(req_id, None)
        return result


def _likeliest(mask: bytes) -> int:
    """The end, where it may be; else a character that is no white space; else anything."""
    allowed = [i for i in range(FakeTokenizer.vocab_size) if mask[i // 8] >> i % 8 & 1]
    return EOS if EOS in allowed else next((i for i in allowed if i > 32), allowed[0])


def _score(token_id: int, count: int) -> TokenLogprobs:
    return TokenLogprobs(token_id, -1.5, 2, [(260, -0.25), (token_id, -1.5), (0, -3.0)][:count])


class FuzzedServer:
    """The WSGI app, and whether it is as it was."""

    def __init__(self, **settings: Any) -> None:
        config = make_config(block_size=4, num_kv_blocks=65, max_model_len=100)
        llm: AsyncLLM = AsyncLLM.__new__(AsyncLLM)
        llm._start(build(config, executor_factory=ObedientExecutor, tokenizer=FakeTokenizer()))
        self.llm = llm
        self._put_a_wire_between()
        self.app: Flask = create_app(llm, served_model_name=MODEL, **settings)
        self._free = self._num_free()

    def _put_a_wire_between(self) -> None:
        """Everything goes by msgpack: ``serve`` has its engines in other processes."""
        client = self.llm.client
        add, get = client.add_request, client.get_output

        def get_output(timeout: float | None = None) -> EngineCoreOutputs | None:
            outputs = get(timeout)
            return outputs and outputs_by_wire(outputs)

        client.add_request = lambda request: add(request_by_wire(request))  # type: ignore[method-assign]
        client.get_output = get_output  # type: ignore[method-assign]

    def _num_free(self) -> int:
        return self.llm.client.core.kv.pool.num_free_blocks  # type: ignore[attr-defined]

    def check_it_is_as_it_was(self) -> None:
        """It answers, and nothing runs, waits or holds a block."""
        body = {"prompt": "a", "max_tokens": 2}
        answer = self.app.test_client().post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.data
        core = self.llm.client.core  # type: ignore[attr-defined]
        deadline = time.monotonic() + 10
        while core.has_requests() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (self.llm.num_open, core.has_requests()) == (0, False)
        assert self._num_free() == self._free

    def close(self) -> None:
        self.llm.close()
