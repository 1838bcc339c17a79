"""What the engine asks of whatever keeps texts to a grammar.

Counterpart in vLLM: ``vllm/v1/structured_output/backend_types.py``. The core knows nothing of it:
to the scheduler a request has its grammar or waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from minivllm.structured_output.params import StructuredOutputsParams


@dataclass(frozen=True, slots=True)
class TokenMask:
    """Which tokens may come next."""

    words: bytes
    """(ceil(vocab / 32),) int32, little-endian: bit i % 32 of word i // 32 is set if token i may
    come."""
    num_masked: int
    """Tokens that may not."""


class Grammar(Protocol):
    """Where one request stands in the grammar that its text must follow."""

    def mask(self) -> TokenMask:
        """Which tokens may come next. Changes nothing."""
        ...

    def accept(self, token_id: int) -> bool:
        """Move on by the token that was sampled; False if the grammar does not allow it."""
        ...


class GrammarSource(Protocol):
    """What compiles grammars, beside the engine. All but :meth:`wait` answer at once."""

    def start(self, req_id: str, params: StructuredOutputsParams) -> None:
        """Begin to compile what the request asks for."""
        ...

    def cancel(self, req_id: str) -> None:
        """Nobody waits for it any more."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests that were started and not yet handed out."""
        ...

    @property
    def any_ready(self) -> bool: ...

    def take_ready(self) -> list[tuple[str, Grammar | str]]:
        """Hand out what has become of them, each once: a grammar, or why there is none."""
        ...

    def wait(self) -> None:
        """Block until one is ready or out of time, where the source knows that this will come."""
        ...

    def seconds_left(self) -> float | None:
        """When to ask again, even if nobody calls."""
        ...

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call this, from any thread, when it is worth asking."""
        ...
