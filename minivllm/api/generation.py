"""One POST on its way: from checked prompts to a plain answer or a stream of chunks.

Both routes share this; what a choice looks like is the business of their ``Format``. Everything
that can be refused is refused before the first byte, so a stream that has begun can only fail by
the engine, and then it says so in a frame of its own before ``[DONE]``. A client that goes away
ends its requests, streamed or not.

Counterpart in vLLM: ``chat_completion_stream_generator`` and ``_full_generator`` in
``vllm/entrypoints/openai/chat_completion/serving.py``, and the like for completions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from flask import Response
from msgspec import UNSET, UnsetType

from minivllm.api.answers import Answer, PromptTokensDetails, Usage
from minivllm.api.disconnect import ClientWatch
from minivllm.api.errors import ApiError, json_response, to_api_error
from minivllm.outputs import CompletionOutput, OutputKind, RequestOutput
from minivllm.trace.events import HttpChunk, HttpDone, HttpFirstByte
from minivllm.trace.tracer import Tracer

KEEP_ALIVE_S = 10.0
"""An idle stream sends a comment this often, in seconds, so that no proxy takes it for dead."""

CLIENT_GONE = 499
"""What nginx calls a request whose client left before the answer; the trace, the log and
``minivllm:http_responses`` see it, and no client."""


class Format(Protocol):
    """How one route writes its choices."""

    @property
    def waits_for_prompt_logprobs(self) -> bool:
        """Does a stream have to tell them before anything else?"""
        ...

    def choice(self, index: int, of: RequestOutput, output: CompletionOutput) -> Answer:
        """A whole choice of a plain answer."""
        ...

    def answer(
        self, head: dict[str, Any], choices: list[Any], usage: Usage, outputs: list[RequestOutput]
    ) -> Answer:
        """The whole plain answer."""
        ...

    def opening(self, index: int) -> Answer | None:
        """What a choice's first chunk says before any text."""
        ...

    def deltas(self, index: int, of: RequestOutput, output: CompletionOutput) -> Sequence[Answer]:
        """The choices of the chunks for what is new; empty while all of it is held back."""
        ...

    def chunk(
        self, head: dict[str, Any], choices: list[Any], usage: Usage | UnsetType | None = UNSET
    ) -> Answer:
        """One chunk; without choices it is the last one, which tells the usage."""
        ...


class Outputs(Protocol):
    """What the engine brings for one HTTP request: a ``WatchedStream``, or what stands for one."""

    request_ids: list[str]

    def __iter__(self) -> Iterator[RequestOutput | None]: ...
    def __next__(self) -> RequestOutput | None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Tally:
    """Token counts over all prompts and choices of one HTTP request."""

    prompt_tokens: dict[str, int] = field(default_factory=dict)
    cached_tokens: dict[str, int] = field(default_factory=dict)
    completion_tokens: int = 0

    def add(self, output: RequestOutput) -> None:
        """``output``: a delta, or the only output of its request."""
        self.prompt_tokens[output.request_id] = len(output.prompt_token_ids)
        self.cached_tokens[output.request_id] = output.num_cached_tokens
        self.completion_tokens += sum(len(o.token_ids) for o in output.outputs)

    def usage(self) -> Usage:
        prompt_tokens = sum(self.prompt_tokens.values())
        cached = sum(self.cached_tokens.values())
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        )


@dataclass(slots=True)
class Generation:
    """One HTTP request whose prompts have been sent to the engine."""

    response_id: str
    """What the client sees as ``id``."""
    request_id: str
    """What the engine and the trace know it by."""
    model: str
    stream: Outputs
    format: Format
    num_samples: int
    watch: ClientWatch
    tracer: Tracer
    include_usage: bool = False
    continuous_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    _tally: Tally = field(default_factory=Tally)
    _held: dict[str, RequestOutput] = field(default_factory=dict)
    _bytes: int = 0
    _begun: bool = False
    _unsent: dict[int, int] = field(default_factory=dict)
    """Choice → tokens whose text was held back so far: the next chunk brings them."""
    _closed: bool = False
    on_stream_end: Callable[[int], None] = lambda status: None
    """Hears the status by which a stream ended, once: its status line was sent long before."""
    _is_stream: bool = False

    # --- a plain answer ------------------------------------------------------------------------

    def plain(self) -> Response:
        """Wait for everything. Raises what the engine raised; a client that left aborts it."""
        choices: list[Any] = []
        outputs = []
        status = 500
        try:
            for output in self.stream:
                if output is None:
                    if self.watch.gone():
                        status = CLIENT_GONE
                        return Response(status=CLIENT_GONE)  # nobody reads it
                    continue
                outputs.append(output)
                self._tally.add(output)
                for completion in output.outputs:
                    _raise_if_failed(completion)
                    index = self._index(output, completion)
                    choices.append(self.format.choice(index, output, completion))
            choices.sort(key=lambda choice: choice.index)
            usage = self._tally.usage()
            response = json_response(self.format.answer(self._head, choices, usage, outputs))
            status, self._bytes = 200, response.content_length or 0
            self.tracer.emit(HttpFirstByte, None, request_id=self.request_id, status=200)
            return response
        except ApiError as error:
            status = error.status
            raise
        finally:
            self.close(status)

    # --- a stream ------------------------------------------------------------------------------

    def streamed(self) -> Response:
        """Server-sent events. The status waits for what the engine says first, so what fails until
        then (a grammar that does not compile, an engine's death) is an answer with a status of its
        own; but no longer than an idle stream may be silent."""
        first = self._first_output()
        self._is_stream = True
        response = Response(self._frames(first), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # or nginx would collect the chunks
        # A generator that was never begun runs no `finally`: the server may drop it so.
        response.call_on_close(lambda: self.close(CLIENT_GONE))
        return response

    def _first_output(self) -> RequestOutput | None:
        """Raises what the request failed by."""
        deadline = time.monotonic() + KEEP_ALIVE_S
        try:
            output = next(self.stream)
            while output is None and not self.watch.gone() and time.monotonic() < deadline:
                output = next(self.stream)
            for completion in output.outputs if output is not None else ():
                _raise_if_failed(completion)
            return output
        except BaseException as error:
            self.close(error.status if isinstance(error, ApiError) else 500)
            raise

    def _frames(self, first: RequestOutput | None) -> Iterator[bytes]:
        status = CLIENT_GONE  # unless the end is reached
        opened: set[int] = set()
        quiet_until = time.monotonic() + (KEEP_ALIVE_S if first is not None else 0.0)
        try:
            for output in itertools.chain([first], self.stream):
                if self.watch.gone():
                    return
                if output is not None:
                    for ready in self._in_order(output):
                        yield from self._output_frames(ready, opened)
                    quiet_until = time.monotonic() + KEEP_ALIVE_S
                elif time.monotonic() >= quiet_until:
                    yield self._sent(b": keep-alive\n\n")
                    quiet_until = time.monotonic() + KEEP_ALIVE_S
            if self.include_usage:
                yield self._frame(self.format.chunk(self._head, [], self._tally.usage()))
            yield self._sent(b"data: [DONE]\n\n")
            status = 200
        except Exception as error:  # the status line has been sent: all that is left is a frame
            failure = to_api_error(error)
            status = failure.status
            yield self._frame(failure.body())
            yield self._sent(b"data: [DONE]\n\n")
        finally:
            self.close(status)

    def _in_order(self, output: RequestOutput) -> list[RequestOutput]:
        """What can be told now. An echo with logprobs begins with the prompt's, which the first of
        n samples brings: what another says before that waits for it."""
        if not self.format.waits_for_prompt_logprobs:
            return [output]
        scored = self._held.get(output.request_id)
        if scored is None:
            self._held[output.request_id] = output
        elif scored.prompt_logprobs is None:
            scored.merge(output, OutputKind.DELTA)
        else:
            output.prompt_logprobs = scored.prompt_logprobs
            return [output]
        held = self._held[output.request_id]
        failed = any(completion.failed for completion in held.outputs)
        return [held] if held.prompt_logprobs is not None or held.finished or failed else []

    def _output_frames(self, output: RequestOutput, opened: set[int]) -> Iterator[bytes]:
        self._tally.add(output)
        for completion in output.outputs:
            _raise_if_failed(completion)
            index = self._index(output, completion)
            choices: Sequence[Answer] = self.format.deltas(index, output, completion)
            opening = self.format.opening(index) if index not in opened else None
            opened.add(index)
            if opening is not None:
                yield self._frame(self._chunk(opening))
            self._unsent[index] = self._unsent.get(index, 0) + len(completion.token_ids)
            for choice in choices:
                yield self._frame(self._chunk(choice), tokens=self._unsent.pop(index, 0))

    def _chunk(self, choice: Answer) -> Answer:
        usage: Usage | UnsetType | None = UNSET
        if self.continuous_usage:
            usage = self._tally.usage()
        elif self.include_usage:
            usage = None  # OpenAI: every chunk but the last has it as null
        return self.format.chunk(self._head, [choice], usage)

    def _frame(self, body: Answer, tokens: int = 0) -> bytes:
        frame = b"data: " + msgspec.json.encode(body) + b"\n\n"
        if not self._begun:
            self._begun = True
            self.tracer.emit(HttpFirstByte, None, request_id=self.request_id, status=200)
        self.tracer.emit(
            HttpChunk, None, request_id=self.request_id, bytes=len(frame), tokens=tokens
        )
        return self._sent(frame)

    def _sent(self, part: bytes) -> bytes:
        self._bytes += len(part)
        return part

    # --- both ----------------------------------------------------------------------------------

    def close(self, status: int) -> None:
        """End what has not ended; only the first call counts."""
        if self._closed:
            return
        self._closed = True
        self.stream.close()
        if self._is_stream:
            self.on_stream_end(status)
        self.tracer.emit(
            HttpDone, None, request_id=self.request_id, status=status, bytes=self._bytes
        )
        self.tracer.flush()

    def _index(self, output: RequestOutput, completion: CompletionOutput) -> int:
        """Choices are numbered prompt by prompt: k * n + j."""
        prompt = self.stream.request_ids.index(output.request_id)
        return prompt * self.num_samples + completion.index

    @property
    def _head(self) -> dict[str, Any]:
        """What each body begins with."""
        return {"id": self.response_id, "created": self.created, "model": self.model}


def _raise_if_failed(output: CompletionOutput) -> None:
    """A sample that the server ended is no answer."""
    if output.refused:
        raise ApiError(400, str(output.stop_reason))
    if output.engine_died:
        raise ApiError(500, "The engine that ran this request has died.", code="engine_dead")
    if output.finish_reason == "error":
        raise ApiError(500, str(output.stop_reason or "The engine failed on this request."))
    if output.finish_reason == "abort":
        raise ApiError(503, "The server ended this request before it was finished.")
