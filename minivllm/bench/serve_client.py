"""One streamed request to an OpenAI-compatible endpoint: what came in when, or how it failed.

Counterpart in vLLM: ``vllm/benchmarks/lib/endpoint_request_func.py``. Two things differ: a chunk
that has no text (the one that opens a chat with its role) is not taken for the first token, and a
stream that ends without ``[DONE]`` has failed, since its reader cannot know whether that was all.

What a request may fail by:

    refused         nobody listens there, or the name is unknown
    disconnected    the connection was lost before an answer
    http_503 …      the server refused, with this status
    not_a_stream    the answer is no event stream
    error_frame     the stream said that the server failed
    bad_frame       a frame of the stream is no JSON
    broken          the connection was lost in the middle of the stream
    no_done         the stream ended without ``[DONE]``
    empty           it ended with no choice at all
    timeout         it took longer than ``--timeout``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minivllm.bench.serve_data import Ask
from minivllm.bench.serve_metrics import Failure, Record

if TYPE_CHECKING:
    import aiohttp

BACKENDS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}

DONE = "[DONE]"
LAST_BYTES_S = 1.0
"""How long the end of the body is waited for after ``[DONE]``."""
MESSAGE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to, and what every request says."""

    url: str
    model: str
    chat: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the body, such as ``temperature``."""
    timeout_s: float = 600.0

    def body(self, ask: Ask) -> dict[str, Any]:
        prompt = ask.prompt
        if self.chat:
            said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            body: dict[str, Any] = {"model": self.model, "messages": said}
        else:
            body = {"model": self.model, "prompt": prompt}
        if ask.output_tokens is not None:
            body["max_tokens"] = ask.output_tokens
        return body | {"stream": True, "stream_options": {"include_usage": True}} | self.fields


class FailedError(Exception):
    """This request failed; ``failure`` says how."""

    def __init__(self, kind: str, message: str, retry_after_s: float | None = None) -> None:
        self.failure = Failure(kind, message[:MESSAGE_CHARACTERS], retry_after_s)
        super().__init__(kind)


class EventStream:
    """Server-sent events out of bytes, however they were cut. Comments are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[str]:
        """The data of each event that is now complete."""
        events = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line and self._data:
                events.append(b"\n".join(self._data).decode(errors="replace"))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events


class Reader:
    """Takes events in and keeps the books of one request."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.finished = False
        self._usage: dict[str, Any] | None = None
        self._last_choice: float | None = None

    def take(self, data: str, now: float) -> None:
        """Raises FailedError for an event that says so, or says nothing."""
        if self.finished:
            return
        if data == DONE:
            self._finish(now)
            return
        try:
            frame = json.loads(data)
        except ValueError:
            raise FailedError("bad_frame", data) from None
        if not isinstance(frame, dict):
            raise FailedError("bad_frame", data)
        if frame.get("error"):
            error = frame["error"]
            raise FailedError(
                "error_frame", str(error.get("message") if isinstance(error, dict) else error)
            )
        if isinstance(usage := frame.get("usage"), dict):
            self._usage = usage
        for choice in frame.get("choices") or ():
            self._last_choice = now
            if has_text(choice):
                self.record.chunks.append(now)

    def _finish(self, now: float) -> None:
        record = self.record
        if self._last_choice is None:
            raise FailedError("empty", "the stream ended before it had said anything")
        if not record.chunks:  # nothing but special tokens: they have no text
            record.chunks.append(self._last_choice)
        usage = self._usage or {}
        if usage.get("completion_tokens") is not None:
            record.output_tokens = int(usage["completion_tokens"])
        else:
            record.output_tokens, record.counted_by = len(record.chunks), "chunks"
        record.prompt_tokens = int(usage.get("prompt_tokens") or record.asked_prompt_tokens)
        details = usage.get("prompt_tokens_details") or {}
        record.cached_tokens = int(details.get("cached_tokens") or 0)
        record.end, self.finished = now, True


def has_text(choice: dict[str, Any]) -> bool:
    """Text of any kind, also reasoning and the arguments of a tool's call."""
    if choice.get("text"):
        return True
    delta = choice.get("delta") or {}
    names = "content", "reasoning_content", "reasoning", "tool_calls"
    return any(delta.get(name) for name in names)


async def request(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    ask: Ask,
    record: Record,
    clock: Callable[[], float],
) -> None:
    """Send it and read it to its end. Fills ``record`` on the way, so that a cancelled one holds
    what was seen; a failure is written there, too."""
    record.asked_prompt_tokens, record.asked_output_tokens = ask.prompt_tokens, ask.output_tokens
    record.sent = clock()
    try:
        await _stream(session, endpoint, ask, record, clock)
    except FailedError as error:
        record.failure, record.end = error.failure, clock()


async def _stream(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    ask: Ask,
    record: Record,
    clock: Callable[[], float],
) -> None:
    import aiohttp

    begun = False
    events, reader = EventStream(), Reader(record)
    try:
        async with session.post(
            endpoint.url,
            json=endpoint.body(ask),
            headers=endpoint.headers,
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
        ) as response:
            if response.status != 200:
                raise await _refusal(response)
            if response.content_type != "text/event-stream":
                raise FailedError("not_a_stream", f"the answer is {response.content_type}")
            begun = True
            async for data in response.content.iter_any():
                now = clock()
                for event in events.feed(data):
                    reader.take(event, now)
                if reader.finished:  # read on to the end, so that the connection can be used again
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(response.content.read(), LAST_BYTES_S)
                    break
    except asyncio.TimeoutError as error:  # before OSError, whose kind it is
        raise FailedError("timeout", f"not done after {endpoint.timeout_s:g} s") from error
    except aiohttp.ClientConnectorError as error:
        raise FailedError("refused", str(error.os_error.strerror or error)) from error
    except (aiohttp.ClientError, OSError) as error:
        if not reader.finished:  # or it has said all there was
            kind = "broken" if begun else "disconnected"
            raise FailedError(kind, f"{type(error).__name__}: {error}") from error
    if not reader.finished:
        raise FailedError("no_done", f"after {len(record.chunks)} chunks with text")


async def _refusal(response: aiohttp.ClientResponse) -> FailedError:
    text = (await response.read()).decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        pass
    wait = response.headers.get("Retry-After", "")
    return FailedError(f"http_{response.status}", text, float(wait) if wait.isdigit() else None)
