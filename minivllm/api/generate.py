"""The two routes that generate: ``/v1/chat/completions`` and ``/v1/completions``.

From an HTTP body to requests in the engine: read, typed, checked, sent. ``generation.py`` then
writes the answer. Counterpart in vLLM: ``api_router.py`` in
``vllm/entrypoints/openai/chat_completion/`` and ``completion/``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from minivllm.api.body import parse, read_body
from minivllm.api.chat import ChatFormat
from minivllm.api.completions import CompletionFormat
from minivllm.api.disconnect import POLL_S, ClientWatch
from minivllm.api.generation import Format, Generation, Outputs
from minivllm.api.limits import ACCESS_FIELDS, WatchedStream
from minivllm.api.prompt_only import PlainPrompts, ScoredPrompts
from minivllm.api.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    check_fan_out,
)
from minivllm.api.service import Service
from minivllm.engine.input_processor import Prompt
from minivllm.outputs import OutputKind
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import HttpRequest

# What else of vLLM's fields a route does not know, with the values that change nothing.
CHAT_NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),  # the chat template writes them
    "echo": (False,),
    "suffix": ("",),
}
COMPLETION_NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": (),
}


@dataclass(slots=True)
class GenerateRoutes:
    service: Service

    def add_to(self, bp: Blueprint) -> None:
        bp.post("/v1/chat/completions", endpoint="chat")(self.chat)
        bp.post("/v1/completions", endpoint="complete")(self.complete)

    def chat(self) -> Response:
        llm = self.service.llm
        asked = parse(self._receive("chatcmpl"), ChatCompletionRequest, CHAT_NOT_BUILT)
        g.prompt_field, g.form_field = "messages", asked.form_field
        params = asked.to_sampling_params(llm.max_model_len)
        self._check(asked, 1)
        format = ChatFormat(llm.tokenizer, params.logprobs)
        outputs = self._submit(asked, params, [asked.messages])
        return self._answer("chatcmpl", asked, outputs, format)

    def complete(self) -> Response:
        llm = self.service.llm
        asked = parse(self._receive("cmpl"), CompletionRequest, COMPLETION_NOT_BUILT)
        g.prompt_field, g.form_field = "prompt", asked.form_field
        params = asked.to_sampling_params(llm.max_model_len)
        prompts = asked.prompts()
        self._check(asked, len(prompts))
        format = CompletionFormat(
            llm.tokenizer,
            echo=bool(asked.echo),
            num_top_logprobs=asked.logprobs,
            tell_prompt_logprobs=asked.prompt_logprobs is not None,
            skip_special_tokens=params.skip_special_tokens,
        )
        outputs: Outputs
        if asked.prompt_only and params.prompt_logprobs is None:
            outputs = PlainPrompts(llm.check(prompts, params, g.request_id))
        else:
            outputs = self._submit(asked, params, prompts)
            if asked.prompt_only:
                outputs = ScoredPrompts(outputs)
        return self._answer("cmpl", asked, outputs, format)

    def _check(self, asked: GenerationFields, num_prompts: int) -> None:
        self.service.check_model(asked.model)
        check_fan_out(num_prompts, asked.num_samples)

    def _receive(self, prefix: str) -> dict[str, Any]:
        g.leave = self.service.limits.open_requests.enter()
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

    def _submit(
        self, asked: GenerationFields, params: SamplingParams, prompts: list[Prompt]
    ) -> WatchedStream:
        stream = self.service.llm.stream_many(
            prompts,
            params,
            g.request_id,
            kind=OutputKind.DELTA if asked.stream else OutputKind.FINAL_ONLY,
            priority=asked.priority or 0,
            cache_salt=asked.cache_salt,
            tick_s=POLL_S,
        )
        return self.service.limits.watch(stream, request.environ)

    def _answer(
        self, prefix: str, asked: GenerationFields, outputs: Outputs, format: Format
    ) -> Response:
        generation = Generation(
            response_id=g.call.response_id(prefix),
            request_id=g.request_id,
            model=self.service.model,
            stream=outputs,
            format=format,
            num_samples=asked.num_samples,
            watch=ClientWatch(request.environ),
            tracer=self.service.llm.tracer,
            include_usage=asked.include_usage,
            continuous_usage=asked.continuous_usage,
            on_stream_end=self._counter_of_end(),
        )
        if not asked.stream:
            return generation.plain()
        response = generation.streamed()
        g.counts_its_end = True
        return response

    def _counter_of_end(self) -> Callable[[int], None]:
        """Counts how a stream ended, and tells it to its line of the log if that was not well."""
        line: dict[str, Any] = request.environ.setdefault(ACCESS_FIELDS, {})
        metrics = self.service.limits.metrics

        def ended(status: int) -> None:
            if status != 200:
                line["ended"] = status
            if metrics is not None:
                metrics.answered(status)

        return ended
