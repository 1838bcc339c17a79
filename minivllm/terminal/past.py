"""What a server's live run has told so far, fetched by HTTP: one life of one engine's stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from minivllm.errors import AttachError
from minivllm.terminal.channel import ServerAddress
from minivllm.terminal.history import History
from minivllm.terminal.runs import PastRun
from minivllm.trace.events import Event, Header, RunSnapshot, RunSource
from minivllm.trace.file import decode_event

RUN = "live"
PAGE = 5_000
"""Events of one HTTP answer; the server gives no more."""
_lines = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Lives:
    """What the server says of its live run."""

    header: Header
    epoch: str
    """Tells two runs apart: a server that was started anew has another."""
    ranges: dict[tuple[str, int], tuple[int, int]]
    """(stream, life) → its first and its newest event that are kept."""

    @staticmethod
    def ask(address: ServerAddress) -> Lives:
        """Raises AttachError."""
        about: dict[str, Any] = address.get_json(f"/api/runs/{RUN}")
        ranges = {(e["stream"], e["life"]): (e["first"], e["head"]) for e in about["lives"]}
        return Lives(msgspec.convert(about["header"], Header), about["epoch"], ranges)

    @property
    def engines(self) -> list[str]:
        return sorted({stream for stream, _ in self.ranges if stream.startswith("engine")})

    def which(self, stream: str) -> str:
        """``engine0 of 2 engines``; empty where there is one."""
        num = len(self.engines)
        return f"{stream} of {num} engines" if num > 1 else ""

    def of(self, stream: str) -> list[int]:
        """The numbers of its lives. Raises AttachError for a stream that there is not."""
        lives = sorted(life for name, life in self.ranges if name == stream)
        if not lives:
            there = ", ".join(self.engines) or "no engine yet"
            raise AttachError(f"this server has no {stream}; it has: {there}")
        return lives


@dataclass(frozen=True, slots=True)
class Past:
    """One life. All of it may raise AttachError."""

    address: ServerAddress
    stream: str
    life: int

    def lines(self, first: int, last: int) -> Iterator[bytes]:
        """Both ends included, as far as they are kept."""
        for start in range(max(first, 1), last + 1, PAGE):
            end = min(start + PAGE - 1, last)
            answer = self.address.get(self._path("events") + f"&from={start}&to={end}")
            yield from decode_lines(answer)

    def events(self, first: int, last: int) -> list[Event]:
        return [decode_event(line) for line in self.lines(first, last)]

    def snapshot(self, first: int, head: int) -> Event:
        """The state at the newest whole step, as the event that a history may begin with."""
        latest = self.address.get_json(self._path("snapshot"))
        sources = self._sources(first, head)
        return Event(
            stream=self.stream,
            seq=latest["seq"],
            step=latest["step"],
            phase="idle",
            kind=RunSnapshot.KIND,
            t_ns=0,
            src=0,
            req=None,
            data=RunSnapshot(epoch=self.life, state=latest["state"], sources=sources),
        )

    def _sources(self, first: int, head: int) -> list[RunSource]:
        """Of all that is kept, the lines that tell where events come from."""
        found: list[RunSource] = []
        with contextlib.suppress(AttachError):  # those that are forgotten meanwhile
            for line in self.lines(first, head):
                if b'"run.source"' in line and (event := decode_event(line)).kind == "run.source":
                    found.append(event.data)
        return found

    def _path(self, what: str) -> str:
        return f"/api/runs/{RUN}/{what}?stream={self.stream}&life={self.life}"


def decode_lines(array: bytes) -> list[bytes]:
    """A JSON array of events → the bytes of each."""
    return [bytes(line) for line in _lines.decode(array)]


def past_run(past: Past, lives: Lives) -> PastRun:
    """Raises AttachError."""
    history = History(lives.header)
    first, head = lives.ranges[past.stream, past.life]
    life = f"life {past.life} of {len(lives.of(past.stream))}"
    history.extend(past.events(first, head))
    return PastRun(history, ", ".join(filter(None, (lives.which(past.stream), life))))
