"""``--tokens recompute``: the model runs again as well, in float32, the path that is exact.

What failed in the recording fails again as it was recorded: a broken machine cannot be recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minivllm.config import EngineConfig, make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import MissingExtraError, ModelError, ReplayError
from minivllm.executor.base import Executor
from minivllm.replay.executors import recorded_result
from minivllm.replay.recording import Recording
from minivllm.structured_output.backend_xgrammar import Vocabulary, XGrammarBackend
from minivllm.structured_output.interface import Grammar
from minivllm.structured_output.params import StructuredOutputsParams
from minivllm.trace.events import Event
from minivllm.trace.texts import TokenText


class RecomputingExecutor:
    """A model's executor, with the recorded failures of the steps before ``until``."""

    def __init__(
        self, inner: Executor, steps: dict[int, list[Event]], vocabulary: Vocabulary
    ) -> None:
        self.inner = inner
        self.steps = steps
        self._backend = XGrammarBackend(vocabulary)

    def grammar(self, params: StructuredOutputsParams) -> Grammar:
        """What masks the model's tokens as it did. Raises MissingExtraError."""
        return self._backend.matcher(self._backend.compile(params.spec()))

    def describe(self) -> dict[str, object]:
        return self.inner.describe()

    @property
    def max_model_len(self) -> int:
        return self.inner.max_model_len

    def initialize_kv_cache(self) -> int:
        return self.inner.initialize_kv_cache()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        recorded = recorded_result(self.steps.get(scheduler_output.step, []))
        result = self.inner.execute_model(scheduler_output)
        for req, message in recorded.errors.items():
            result.sampled_token_ids.pop(req, None)
            result.errors[req] = message
        return result

    def shutdown(self) -> None:
        self.inner.shutdown()


def with_model(
    recording: Recording, model: str | None, until: int | None = None
) -> tuple[Callable[[EngineConfig], Executor], TokenText]:
    """What makes the executor that runs the recording's model, and its tokens' texts.

    ``model``: another place of the same model. ``until``: the first step whose recorded failures
    are not repeated. Raises ReplayError where no model ran, ModelError, MissingExtraError.
    """
    header = recording.header
    if model is None and header.fidelity == "given":
        raise ReplayError(
            "there is nothing to recompute: the tokens of this run were given, no model ran. Leave "
            "out --tokens recompute, or name a model with --model"
        )
    from minivllm.models.source import resolve

    named = model or header.model
    try:
        source = resolve(named)
    except ModelError as error:
        if model is not None:
            raise
        hint = "The trace names its model so; say with --model where it is"
        raise ModelError(f"{error} {hint}") from error
    try:
        from minivllm.executor.uniproc import UniprocExecutor
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise MissingExtraError(
            f"--tokens recompute needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    steps = {n: events for n, events in recording.steps.items() if until is None or n < until}

    def make(config: EngineConfig) -> Executor:
        exact: dict[str, Any] = {"model": named, "dtype": "float32", "attention_backend": "auto"}
        inner = UniprocExecutor(make_config(config, **exact))
        return RecomputingExecutor(inner, steps, tokenizer)

    tokenizer = get_tokenizer(source)
    return make, tokenizer.text_after


def grammar_of(executor: Executor) -> Callable[[StructuredOutputsParams], Grammar] | None:
    """What compiles grammars where this executor runs a model; None where it does not."""
    return executor.grammar if isinstance(executor, RecomputingExecutor) else None
