"""One POST on its way: from checked prompts to a plain answer or a stream of chunks.

Both routes share this; what a choice looks like is the business of their ``Format``. Everything
that can be refused is refused before the first byte, so a stream that has begun can only fail by
the engine, and then it says so in a frame of its own before ``[DONE]``. A client that goes away
ends its requests, streamed or not.

Counterpart in vLLM: ``chat_completion_stream_generator`` and ``_full_generator`` in
``vllm/entrypoints/openai/chat_completion/serving.py``, and the like for completions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from flask import Response

from minivllm.api.chat import LOGPROB_FLOOR
from minivllm.api.disconnect import ClientWatch
from minivllm.api.errors import ApiError, json_response, to_api_error
from minivllm.engine.async_llm import OutputStream
from minivllm.outputs import CompletionOutput, Logprob, RequestOutput
from minivllm.trace.events import HttpChunk, HttpDone, HttpFirstByte
from minivllm.trace.tracer import Tracer

KEEP_ALIVE_S = 10.0
"""An idle stream sends a comment this often, in seconds, so that no proxy takes it for dead."""

CLIENT_GONE = 499
"""What nginx calls a request whose client left before the answer; only the trace sees it."""


class Format(Protocol):
    """How one route writes its choices."""

    object: str
    chunk_object: str
    prompt_logprobs_in_choice: bool
    """Else they stand beside the choices: a chat has one prompt only."""

    def choice(self, index: int, output: CompletionOutput) -> dict[str, Any]:
        """A whole choice of a plain answer."""
        ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice's first chunk says before any text."""
        ...

    def deltas(self, index: int, output: CompletionOutput) -> list[dict[str, Any]]:
        """The chunks for what is new; empty while all of it is held back."""
        ...


@dataclass(slots=True)
class Usage:
    """Token counts over all prompts and choices of one HTTP request."""

    prompt_tokens: dict[str, int] = field(default_factory=dict)
    cached_tokens: dict[str, int] = field(default_factory=dict)
    completion_tokens: int = 0

    def add(self, output: RequestOutput) -> None:
        """``output``: a delta, or the only output of its request."""
        self.prompt_tokens[output.request_id] = len(output.prompt_token_ids)
        self.cached_tokens[output.request_id] = output.num_cached_tokens
        self.completion_tokens += sum(len(o.token_ids) for o in output.outputs)

    def body(self) -> dict[str, Any]:
        prompt_tokens = sum(self.prompt_tokens.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached_tokens.values())},
        }


@dataclass(slots=True)
class Generation:
    """One HTTP request whose prompts have been sent to the engine."""

    response_id: str
    """What the client sees as ``id``."""
    request_id: str
    """What the engine and the trace know it by."""
    model: str
    stream: OutputStream
    format: Format
    num_samples: int
    watch: ClientWatch
    tracer: Tracer
    include_usage: bool = False
    continuous_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    usage: Usage = field(default_factory=Usage)
    _bytes: int = 0
    _closed: bool = False

    # --- a plain answer ------------------------------------------------------------------------

    def plain(self) -> Response:
        """Wait for everything. Raises what the engine raised; a client that left aborts it."""
        choices: list[dict[str, Any]] = []
        beside: dict[str, Any] = {}
        status = 500
        try:
            for output in self.stream:
                if output is None:
                    if self.watch.gone():
                        status = CLIENT_GONE
                        return Response(status=400)  # nobody reads it
                    continue
                self.usage.add(output)
                told = _prompt_logprobs(output)
                in_choice = told if self.format.prompt_logprobs_in_choice else {}
                beside = {} if self.format.prompt_logprobs_in_choice else told
                for completion in output.outputs:
                    _raise_if_failed(completion)
                    choice = self.format.choice(self._index(output, completion), completion)
                    choices.append(choice | in_choice)
            choices.sort(key=lambda choice: choice["index"])
            body = self._envelope(self.format.object, choices) | {"usage": self.usage.body()}
            body |= beside
            response = json_response(body)
            status, self._bytes = 200, response.content_length or 0
            self.tracer.emit(HttpFirstByte, None, request_id=self.request_id, status=200)
            return response
        finally:
            self.close(status)

    # --- a stream ------------------------------------------------------------------------------

    def streamed(self) -> Response:
        """Server-sent events, the first of them not before the engine has something to say."""
        response = Response(self._frames(), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # or nginx would collect the chunks
        # A generator that was never begun runs no `finally`: the server may drop it so.
        response.call_on_close(lambda: self.close(CLIENT_GONE))
        return response

    def _frames(self) -> Iterator[bytes]:
        status = CLIENT_GONE  # unless the end is reached
        opened: set[int] = set()
        idle_since = time.monotonic()
        try:
            for output in self.stream:
                if self.watch.gone():
                    return
                if output is not None:
                    yield from self._output_frames(output, opened)
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since >= KEEP_ALIVE_S:
                    yield b": keep-alive\n\n"
                    idle_since = time.monotonic()
            if self.include_usage:
                body = self._envelope(self.format.chunk_object, [])
                yield self._frame(body | {"usage": self.usage.body()})
            yield b"data: [DONE]\n\n"
            status = 200
        except Exception as error:  # the status line has been sent: all that is left is a frame
            failure = to_api_error(error)
            status = failure.status
            yield self._frame(failure.body())
            yield b"data: [DONE]\n\n"
        finally:
            self.close(status)

    def _output_frames(self, output: RequestOutput, opened: set[int]) -> Iterator[bytes]:
        self.usage.add(output)
        for completion in output.outputs:
            index = self._index(output, completion)
            choices = self.format.deltas(index, completion)
            opening = self.format.opening(index) if index not in opened else None
            opened.add(index)
            if opening is not None:
                choices = [opening, *choices]
            for choice in choices:
                yield self._frame(self._chunk(choice), tokens=len(completion.token_ids))
            _raise_if_failed(completion)

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        body = self._envelope(self.format.chunk_object, [choice])
        if self.continuous_usage:
            body["usage"] = self.usage.body()
        elif self.include_usage:
            body["usage"] = None  # OpenAI: every chunk but the last has it as null
        return body

    def _frame(self, body: dict[str, Any], tokens: int = 0) -> bytes:
        frame = b"data: " + msgspec.json.encode(body) + b"\n\n"
        if not self._bytes:
            self.tracer.emit(HttpFirstByte, None, request_id=self.request_id, status=200)
        self._bytes += len(frame)
        self.tracer.emit(
            HttpChunk, None, request_id=self.request_id, bytes=len(frame), tokens=tokens
        )
        return frame

    # --- both ----------------------------------------------------------------------------------

    def close(self, status: int) -> None:
        """End what has not ended; only the first call counts."""
        if self._closed:
            return
        self._closed = True
        self.stream.close()
        self.tracer.emit(
            HttpDone, None, request_id=self.request_id, status=status, bytes=self._bytes
        )
        self.tracer.flush()

    def _index(self, output: RequestOutput, completion: CompletionOutput) -> int:
        """Choices are numbered prompt by prompt: k * n + j."""
        prompt = self.stream.request_ids.index(output.request_id)
        return prompt * self.num_samples + completion.index

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.response_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _prompt_logprobs(output: RequestOutput) -> dict[str, Any]:
    """vLLM's field: for each prompt token a map from token id to logprob, rank and text."""
    if output.prompt_logprobs is None:
        return {}
    return {"prompt_logprobs": [row and _by_id(row) for row in output.prompt_logprobs]}


def _by_id(row: dict[int, Logprob]) -> dict[int, Any]:
    return {
        token_id: {
            "logprob": max(logprob.logprob, LOGPROB_FLOOR),
            "rank": logprob.rank,
            "decoded_token": logprob.decoded_token,
        }
        for token_id, logprob in row.items()
    }


def _raise_if_failed(output: CompletionOutput) -> None:
    """A sample that the server ended is no answer."""
    if output.refused:
        raise ApiError(400, str(output.stop_reason))
    if output.finish_reason == "error":
        raise ApiError(500, str(output.stop_reason or "The engine failed on this request."))
    if output.finish_reason == "abort":
        raise ApiError(503, "The server ended this request before it was finished.")
