"""Grammars without a compiler: a backend that takes as long as it is told to, and a source whose
grammars are ready at the step that is given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minivllm.errors import StructuredOutputError
from minivllm.structured_output.interface import Grammar, TokenMask
from minivllm.structured_output.params import GrammarSpec, StructuredOutputsParams


class SlowBackend:
    """Compiles ``stuck…`` when it is let, ``bad…`` never, all else at once, to a text that counts
    as ten bytes."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.compiled: list[str] = []

    def prepare(self) -> None:
        pass

    def compile(self, spec: GrammarSpec) -> str:
        if spec.text.startswith("stuck"):
            self.let.wait()
        self.compiled.append(spec.text)
        if spec.text.startswith("bad"):
            raise StructuredOutputError("regex", "a better one")
        if spec.text.startswith("broken"):
            raise RuntimeError("/secret/path.cc:7")
        return spec.text.upper()

    def size_bytes(self, compiled: str) -> int:
        return 10

    def matcher(self, compiled: str) -> Any:
        return f"matcher of {compiled}"


@dataclass
class AnyToken:
    """A grammar that takes all tokens but one, and keeps what it has taken."""

    refused: int | None = None
    taken: list[int] = field(default_factory=list)
    words: bytes = b"\xff" * 4

    def mask(self) -> TokenMask:
        return TokenMask(self.words, num_masked=3)

    def accept(self, token_id: int) -> bool:
        self.taken.append(token_id)
        return token_id != self.refused


class ScriptedGrammars:
    """``outcomes``: request → the step before which it is ready, and what has become of it."""

    def __init__(self, outcomes: dict[str, tuple[int, Grammar | str]]) -> None:
        self.outcomes = outcomes
        self.step: Callable[[], int] = lambda: 0
        """The number of the step that is about to begin; set when there is an engine."""
        self.waiting: list[str] = []

    def start(self, req_id: str, params: StructuredOutputsParams) -> None:
        self.waiting.append(req_id)

    def cancel(self, req_id: str) -> None:
        self.waiting.remove(req_id)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def any_ready(self) -> bool:
        return any(self.outcomes[req_id][0] <= self.step() for req_id in self.waiting)

    def take_ready(self) -> list[tuple[str, Grammar | str]]:
        ready = [r for r in self.waiting if self.outcomes[r][0] <= self.step()]
        self.waiting = [r for r in self.waiting if r not in ready]
        return [(req_id, self.outcomes[req_id][1]) for req_id in ready]

    def wait(self) -> None:
        """Steps go by until one is ready."""

    def seconds_left(self) -> float | None:
        return None

    def on_ready(self, wake: Callable[[], None]) -> None:
        pass
