"""RecordedGrammars: in a run that is run again, each grammar is there when it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from minivllm.replay.recording import Recording
from minivllm.structured_output.interface import Grammar, TokenMask
from minivllm.structured_output.params import StructuredOutputsParams

Compile = Callable[[StructuredOutputsParams], Grammar]


class RecordedGrammar:
    """The recorded masks, by index of the output token. They mask nothing: no model runs."""

    def __init__(self, num_masked: list[int]) -> None:
        self._num_masked = num_masked
        self._index = 0

    def mask(self) -> TokenMask:
        known = self._index < len(self._num_masked)
        return TokenMask(b"", self._num_masked[self._index] if known else 0)

    def accept(self, token_id: int) -> bool:
        self._index += 1
        return True


class RecordedGrammars:
    """A GrammarSource that compiles nothing, or, where the model runs again, at once.

    A fork may be faster than its recording; a grammar is ready at the same step, all the same.
    """

    def __init__(
        self,
        recording: Recording,
        compile: Compile | None,
        recorded: Mapping[str, str] | None = None,
    ) -> None:
        """``recorded``: core name → name in the recording; None: these are the same."""
        self._recorded = recorded
        self.next_step: Callable[[], int] = lambda: 0
        self._compile = compile
        self._ready_at: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        self._masks: dict[str, list[int]] = {}
        self._waiting: dict[str, StructuredOutputsParams] = {}
        for step, events in recording.steps.items():
            for event in events:
                if event.kind == "core.input" and event.data.op.startswith("grammar_"):
                    self._ready_at[str(event.req)] = step
                elif event.kind == "req.error" and event.phase == "input":
                    self._failures[str(event.req)] = event.data.message
                for row in event.data.rows if event.kind == "grammar.mask" else ():
                    self._masks.setdefault(row.req, []).append(row.masked)

    def start(self, req_id: str, params: StructuredOutputsParams) -> None:
        self._waiting[req_id] = params

    def cancel(self, req_id: str) -> None:
        self._waiting.pop(req_id, None)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def any_ready(self) -> bool:
        return bool(self._ready())

    def take_ready(self) -> list[tuple[str, Grammar | str]]:
        return [
            (req_id, self._result(req_id, self._waiting.pop(req_id))) for req_id in self._ready()
        ]

    def wait(self) -> None:
        """Nothing to wait for: steps go by as they did."""

    def seconds_left(self) -> float | None:
        return None

    def on_ready(self, wake: Callable[[], None]) -> None:
        pass

    def _ready(self) -> list[str]:
        """In the order in which they came in."""
        now = self.next_step()
        waiting = {self._name(req_id): req_id for req_id in self._waiting}
        return [
            waiting[name]
            for name, step in self._ready_at.items()
            if step <= now and name in waiting
        ]

    def _name(self, req_id: str) -> str:
        return req_id if self._recorded is None else self._recorded.get(req_id, "")

    def _result(self, req_id: str, params: StructuredOutputsParams) -> Grammar | str:
        name = self._name(req_id)
        if name in self._failures:
            return self._failures[name]
        if self._compile is not None:
            return self._compile(params)
        return RecordedGrammar(self._masks.get(name, []))
