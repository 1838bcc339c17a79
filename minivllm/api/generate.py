"""The two routes that generate: ``/v1/chat/completions`` and ``/v1/completions``.

From an HTTP body to requests in the engine: read, typed, checked, sent. ``generation.py`` then
writes the answer. Counterpart in vLLM: ``api_router.py`` in
``vllm/entrypoints/openai/chat_completion/`` and ``completion/``.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, g, request

from minivllm.api.chat import ChatFormat
from minivllm.api.completions import CompletionFormat
from minivllm.api.disconnect import POLL_S, ClientWatch
from minivllm.api.generation import Format, Generation
from minivllm.api.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    check_fan_out,
    parse,
    read_body,
)
from minivllm.api.service import Service
from minivllm.engine.input_processor import Prompt
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import HttpRequest


@dataclass(slots=True)
class GenerateRoutes:
    service: Service

    def add_to(self, bp: Blueprint) -> None:
        bp.post("/v1/chat/completions", endpoint="chat")(self.chat)
        bp.post("/v1/completions", endpoint="complete")(self.complete)

    def chat(self) -> Response:
        llm = self.service.llm
        asked = parse(self._receive("chatcmpl"), ChatCompletionRequest)
        g.prompt_field, g.form_field = "messages", asked.form_field
        params = asked.to_sampling_params(llm.max_model_len)
        format = ChatFormat(llm.tokenizer, params.logprobs)
        return self._answer("chatcmpl", asked, params, [asked.messages], format)

    def complete(self) -> Response:
        asked = parse(self._receive("cmpl"), CompletionRequest)
        g.prompt_field, g.form_field = "prompt", asked.form_field
        params = asked.to_sampling_params(self.service.llm.max_model_len)
        return self._answer("cmpl", asked, params, asked.prompts(), CompletionFormat())

    def _receive(self, prefix: str) -> dict[str, object]:
        g.request_id = g.call.request_id(prefix)
        self.service.llm.tracer.emit(
            HttpRequest,
            None,
            request_id=g.request_id,
            method=request.method,
            path=request.path,
            bytes=request.content_length or 0,
        )
        return read_body(request)

    def _answer(
        self,
        prefix: str,
        asked: GenerationFields,
        params: SamplingParams,
        prompts: list[Prompt],
        format: Format,
    ) -> Response:
        service, llm = self.service, self.service.llm
        service.check_model(asked.model)
        check_fan_out(len(prompts), params.n)
        stream = llm.stream_many(
            prompts,
            params,
            g.request_id,
            kind=OutputKind.DELTA if asked.stream else OutputKind.FINAL_ONLY,
            priority=asked.priority or 0,
            cache_salt=asked.cache_salt,
            tick_s=POLL_S,
        )
        generation = Generation(
            response_id=g.call.response_id(prefix),
            request_id=g.request_id,
            model=service.model,
            stream=stream,
            format=format,
            num_samples=params.n,
            watch=ClientWatch(request.environ),
            tracer=llm.tracer,
            include_usage=asked.include_usage,
            continuous_usage=asked.continuous_usage,
        )
        return generation.streamed() if asked.stream else generation.plain()
