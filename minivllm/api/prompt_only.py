"""``echo`` with ``max_tokens`` 0: the prompt comes back alone, scored if logprobs were asked for.

The engine knows no request without an answer. Where the prompt must be scored it makes one token,
which is dropped here (as in vLLM); where not, the engine isn't asked at all.
Counterpart in vLLM: ``echo_without_generation`` in ``vllm/entrypoints/openai/completion``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from minivllm.api.generation import Outputs
from minivllm.engine.input_processor import ProcessedInput
from minivllm.outputs import CompletionOutput, RequestOutput


class ScoredPrompts(Iterator["RequestOutput | None"]):
    """An engine's stream with every answer blotted out."""

    def __init__(self, stream: Outputs) -> None:
        self.request_ids = stream.request_ids
        self._stream = stream

    def __next__(self) -> RequestOutput | None:
        output = next(self._stream)
        return output and replace(output, outputs=[_blank(o) for o in output.outputs])

    def close(self) -> None:
        self._stream.close()


class PlainPrompts(Iterator["RequestOutput | None"]):
    """Prompts that were checked and tokenised, as if they had been to the engine."""

    def __init__(self, inputs: list[ProcessedInput]) -> None:
        self.request_ids = [given.request_id for given in inputs]
        self._outputs = iter([_without_answer(given) for given in inputs])

    def __next__(self) -> RequestOutput | None:
        return next(self._outputs)

    def close(self) -> None:
        """Nothing runs."""


def _without_answer(given: ProcessedInput) -> RequestOutput:
    outputs = [
        CompletionOutput(index=i, text="", token_ids=[], finish_reason="length")
        for i in range(len(given.samples))
    ]
    return RequestOutput(
        given.request_id, given.prompt, given.prompt_token_ids, outputs, finished=True
    )


def _blank(output: CompletionOutput) -> CompletionOutput:
    """Its end alone stays: by length, whatever the one token was, unless it failed."""
    if output.failed or output.finish_reason == "abort":
        return output
    ended = None if output.finish_reason is None else "length"
    return CompletionOutput(output.index, text="", token_ids=[], finish_reason=ended)
