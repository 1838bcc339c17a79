"""Clients with manners and without, drawn from a seed; and what every answer must be.

The engine says the letters from a to z over and over (``scripted.py``), so the right text of a
request is known to the letter: a token lost, doubled or given to a neighbour shows.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.load.wire import Answer, Leave, exchange

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
MOST_TOLD = 40


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all requests; the rest is well-behaved."""

    leave: float = 0.30
    bad: float = 0.10
    slow: float = 0.05


@dataclass(slots=True)
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What must not be, each with the request that met it."""
    slowest_health_s: float = 0.0

    def complain(self, about: str) -> None:
        self.counts["WRONG"] += 1
        if len(self.wrong) < MOST_TOLD:
            self.wrong.append(about)

    def __str__(self) -> str:
        rows = [f"{n:7} {name}" for name, n in sorted(self.counts.items())]
        if self.slowest_health_s:
            rows.append(f"{1e3 * self.slowest_health_s:7.0f} ms: the slowest /health")
        return "\n".join([*rows, *self.wrong])


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is in order."""

    chat: bool
    stream: bool
    prompt: str
    tokens: int

    @property
    def path(self) -> str:
        return CHAT if self.chat else COMPLETIONS

    def body(self) -> bytes:
        body: dict[str, Any] = {"max_tokens": self.tokens, "ignore_eos": True}
        if self.chat:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        else:
            body["prompt"] = self.prompt
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(body).encode()

    @property
    def text(self) -> str:
        return (ALPHABET * (self.tokens // 26 + 1))[: self.tokens]


BAD: list[tuple[str, str, bytes, tuple[int, ...]]] = [
    ("POST", COMPLETIONS, b'{"prompt": ', (400,)),
    ("POST", COMPLETIONS, b"[]", (400, 422)),
    ("POST", COMPLETIONS, b"\xff\xfe", (400,)),
    ("POST", COMPLETIONS, b"{}", (400, 422)),
    ("POST", COMPLETIONS, b'{"prompt": "a", "max_tokens": -1}', (400,)),
    ("POST", COMPLETIONS, b'{"prompt": "a", "temperature": 99, "stream": true}', (400,)),
    ("POST", COMPLETIONS, b'{"prompt": "a", "model": "another"}', (404,)),
    ("POST", COMPLETIONS, b'{"prompt": [999999999]}', (400,)),
    ("POST", COMPLETIONS, b'{"prompt": "a", "n": 1000000}', (400,)),
    ("POST", COMPLETIONS, b'{"prompt": "' + b"a" * 9000 + b'"}', (400,)),
    ("POST", COMPLETIONS, b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}", (400, 413)),
    ("POST", CHAT, b'{"messages": []}', (400,)),
    ("POST", CHAT, b'{"messages": [{"role": "user", "content": 3}]}', (400,)),
    ("POST", CHAT, b'{"messages": "hello", "stream": true}', (400, 422)),
    ("GET", COMPLETIONS, b"", (405,)),
    ("POST", "/v1/nowhere", b"{}", (404,)),
    ("POST", "/v1/models", b"{}", (405,)),
]


class Client:
    """One worker: asks, again and again, until it is told to end."""

    def __init__(
        self,
        port: int,
        seed: str,
        tally: Tally,
        shares: Shares,
        *,
        letters: bool = True,
        may_fail: Callable[[Answer], bool] | None = None,
    ) -> None:
        """``letters``: the texts are the scripted engine's. ``may_fail``: for tests that break
        something, which answers are no fault."""
        self.port, self.tally, self.shares = port, tally, shares
        self.letters, self.may_fail = letters, may_fail
        self.rng = random.Random(seed)
        self.name, self.number = seed.replace(" ", "."), 0
        self.failed: list[str] = []
        """Ids (``x-request-id``) of the requests that failed and might."""

    async def until(self, ended: Callable[[], bool]) -> None:
        while not ended():
            await self.one()

    async def one(self) -> None:
        """One request of a kind that is drawn."""
        draw, shares = self.rng.random(), self.shares
        if draw < shares.leave:
            await self.leaves(self.asks())
        elif draw < shares.leave + shares.bad:
            await self.errs(*self.rng.choice(BAD))
        elif draw < shares.leave + shares.bad + shares.slow:
            asked = self.asks(stream=True)
            await self.stays(asked, "slow", pause_s=self.rng.choice([0.01, 0.03]))
        else:
            asked = self.asks()
            await self.stays(asked, "streamed" if asked.stream else "plain")

    def asks(self, stream: bool | None = None) -> Asked:
        rng = self.rng
        shared = "x" * 48 if rng.random() < 0.3 else ""
        prompt = shared + "".join(rng.choices("abcdef", k=rng.randint(1, 60)))
        streamed = rng.random() < 0.8 if stream is None else stream
        return Asked(rng.random() < 0.5, streamed, prompt, rng.choice([1, 2, 16, 50, 96]))

    async def leaves(self, asked: Asked) -> None:
        rng = self.rng
        after = rng.choice(["half_request", "request", "request", "bytes", "bytes", "bytes"])
        amount = rng.randint(1, 4000) if after == "bytes" else rng.choice([0, 0.003, 0.05, 0.3])
        leave = Leave(after, amount, reset=rng.random() < 0.5)
        answer = await exchange(
            self.port, "POST", asked.path, asked.body(), leave=leave, timeout_s=60
        )
        self.tally.counts[f"left after {after}"] += 1
        fine = (200, None) if self.may_fail is None else (200, None, 500, 503)
        if answer.fault == "hung" or answer.status not in fine:
            self._wrong(f"{leave} of {asked}", answer)

    async def errs(self, method: str, path: str, body: bytes, allowed: tuple[int, ...]) -> None:
        answer = await exchange(self.port, method, path, body, timeout_s=60)
        self.tally.counts["bad request"] += 1
        what = f"{method} {path} {body[:60]!r}"
        if answer.fault or answer.status not in allowed:
            self._wrong(what, answer)
            return
        try:
            said = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = ""
        if not said:
            self._wrong(what + ": no error object", answer)

    async def stays(self, asked: Asked, kind: str, pause_s: float = 0.0) -> None:
        self.number += 1
        headers = {"x-request-id": f"c{self.name}.{self.number}"}
        answer = await exchange(
            self.port,
            "POST",
            asked.path,
            asked.body(),
            headers=headers,
            pause_s=pause_s,
            timeout_s=120,
        )
        self.tally.counts[kind] += 1
        fault = faults(asked, answer, self.letters)
        if not fault:
            return
        if self.may_fail is not None and self.may_fail(answer):
            self.failed.append(headers["x-request-id"])
            self.tally.counts[f"{kind}, failed"] += 1
            await asyncio.sleep(0.1)  # as a client would that tries again
            return
        self._wrong(f"{kind} {asked}: {fault}", answer)

    def _wrong(self, what: str, answer: Answer) -> None:
        last = answer.events[-1][:200] if answer.events else answer.body[:200]
        self.tally.complain(f"{what} → {answer.status} {answer.fault} {last!r}")


def faults(asked: Asked, answer: Answer, letters: bool = True) -> str:
    """What is wrong with the answer to a request that was in order; empty if nothing is."""
    if answer.fault or answer.status != 200:
        return "no whole answer"
    if not asked.stream:
        body = answer.json()
        choice, usage = body["choices"][0], body["usage"]
        text = choice["message"]["content"] if asked.chat else choice["text"]
        reasons = [choice["finish_reason"]]
    else:
        if not answer.events or answer.events[-1] != "[DONE]":
            return "no [DONE] at the end"
        frames = [json.loads(event) for event in answer.events[:-1]]
        if any("error" in frame for frame in frames):
            return "an error in the stream"
        if len({frame["id"] for frame in frames}) != 1:
            return "not one id"
        *chunks, last = frames
        if last["choices"] or not last.get("usage"):
            return "no usage chunk before [DONE]"
        usage = last["usage"]
        choices = [chunk["choices"][0] for chunk in chunks]
        said = [c["delta"].get("content", "") if asked.chat else c["text"] for c in choices]
        text = "".join(said)
        reasons = [c["finish_reason"] for c in choices if c["finish_reason"]]
    if reasons != ["length"]:
        return f"finish reasons {reasons}"
    if usage["completion_tokens"] != asked.tokens:
        return f"{usage['completion_tokens']} completion tokens for {asked.tokens}"
    if usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        return f"usage {usage}"
    if letters and not asked.chat and usage["prompt_tokens"] != len(asked.prompt):
        return f"{usage['prompt_tokens']} prompt tokens for {len(asked.prompt)}"
    if letters and text != asked.text:
        return f"the text is {text!r}"
    return ""


def said_it_is_over(answer: Answer) -> bool:
    """A stream that the server had to end: an error frame, then ``[DONE]``, in a body that is
    whole."""
    if answer.fault or answer.status != 200 or answer.events[-1:] != ["[DONE]"]:
        return False
    return len(answer.events) > 1 and "error" in json.loads(answer.events[-2])


def refused_in_order(answer: Answer) -> bool:
    """500, or 503 that says when to come again, with OpenAI's error body."""
    if answer.fault or answer.status not in (500, 503):
        return False
    if answer.status == 503 and "retry-after" not in answer.headers:
        return False
    try:
        return bool(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return False


async def ask_health(port: int, tally: Tally, ended: Callable[[], bool], every_s: float) -> None:
    """As a load balancer does."""
    while not ended():
        begin = time.monotonic()
        answer = await exchange(port, "GET", "/health", timeout_s=30)
        took = time.monotonic() - begin
        tally.slowest_health_s = max(tally.slowest_health_s, took)
        tally.counts[f"/health {answer.status or answer.fault}"] += 1
        await asyncio.sleep(every_s)
