"""What stands in the model's place when a trace is run again: the tokens that it holds."""

from __future__ import annotations

from collections.abc import Mapping

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import (
    ModelRunnerOutput,
    ProcessorEffect,
    SampleDetail,
    SchedulerOutput,
    TokenLogprobs,
)
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens, strangers_tokens
from minivllm.replay.recording import Recording
from minivllm.trace.events import Event, SampleRow


def recorded_result(events: list[Event]) -> ModelRunnerOutput:
    """What the model gave in a step, whatever the batch: a wrong batch shows in the trace.

    Raises the error that the step failed with, under its name.
    """
    result = ModelRunnerOutput(sampled_token_ids={})
    for event in events:
        if event.kind == "run.error":
            raise type(event.data.error, (Exception,), {})(event.data.message)
        if event.kind == "req.error" and event.phase == "update":
            result.errors[str(event.req)] = event.data.message
        if event.kind == "sample":
            for row in event.data.rows:
                result.sampled_token_ids.setdefault(row.req, []).append(row.token_id)
                _tell_more(result, row.req, row)
    return result


def _tell_more(result: ModelRunnerOutput, req: str, row: SampleRow) -> None:
    """What was recorded of a token besides its id."""
    if row.logprob is not None and row.rank is not None:
        known = TokenLogprobs(row.token_id, row.logprob, row.rank)
        result.logprobs.setdefault(req, []).append(known)
    if row.before:
        detail = SampleDetail(
            before=[(one.token_id, one.logprob or 0.0) for one in row.before],
            after=[(one.token_id, one.probability or 0.0) for one in row.after],
            effects=[
                ProcessorEffect(effect.name, effect.masked, effect.count, effect.token_ids)
                for effect in row.processors
            ],
        )
        result.details.setdefault(req, []).append(detail)


class RecordedExecutor:
    """Each step's recorded result: for the same run again."""

    def __init__(self, config: EngineConfig, recording: Recording) -> None:
        self.shape = ScriptedExecutor(config)
        self.steps = recording.steps

    def describe(self) -> dict[str, object]:
        return self.shape.describe()

    @property
    def max_model_len(self) -> int:
        return self.shape.max_model_len

    def initialize_kv_cache(self) -> int:
        return self.shape.initialize_kv_cache()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return recorded_result(self.steps[scheduler_output.step])

    def shutdown(self) -> None:
        pass


class ForkedExecutor:
    """The recorded tokens by (request, index of the output token): for a run that goes elsewhere.

    Before ``at_step`` each step has its recorded result. From there on a request that failed in
    the recording fails with the same words where it comes to the same output token; of a token that
    was never recorded a placeholder takes the place.
    """

    def __init__(
        self, config: EngineConfig, recording: Recording, at_step: int, recorded: Mapping[str, str]
    ) -> None:
        """``recorded``: core name → its name in the recording, of those that have come from there.
        What somebody else sends moves the names on."""
        self.at_step = at_step
        self._recorded = recorded
        self.placeholders: dict[str, int] = {}
        """Request → tokens of it that were never recorded."""
        self._steps = recording.steps
        self._rows = recording.rows()
        self._failures = _failures(recording)
        self._stopped = {
            event.req
            for events in recording.steps.values()
            for event in events
            if event.kind == "req.finish" and event.data.reason == "stop"
        }
        self._asked: list[tuple[str, int]] = []
        self._scripted = ScriptedExecutor(config, self._next_token)

    def describe(self) -> dict[str, object]:
        return self._scripted.describe()

    @property
    def max_model_len(self) -> int:
        return self._scripted.max_model_len

    def initialize_kv_cache(self) -> int:
        return self._scripted.initialize_kv_cache()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        self._asked.clear()
        # Even where the recorded result is taken: it keeps count of who is how far.
        said = self._scripted.execute_model(scheduler_output).sampled_token_ids
        if scheduler_output.step < self.at_step:
            return recorded_result(self._steps[scheduler_output.step])
        result = ModelRunnerOutput(said)
        for req, index in self._asked:
            name = self._recorded.get(req, "")
            if (name, index) in self._failures:
                result.errors[req] = self._failures[name, index]
                result.sampled_token_ids.pop(req, None)
            elif (row := self._row(name, index)) is not None:
                _tell_more(result, req, row)
        return result

    def shutdown(self) -> None:
        self._scripted.shutdown()

    def _next_token(self, req: str, index: int) -> int:
        self._asked.append((req, index))
        name = self._recorded.get(req)
        if name is None:
            return strangers_tokens(req, index)
        if (row := self._row(name, index)) is not None:
            return row.token_id
        # A draft may have been right beyond the end of an output; nobody gets that token.
        if (name, index) not in self._failures and name not in self._stopped:
            self.placeholders[name] = self.placeholders.get(name, 0) + 1
        return counting_tokens(name, index)

    def _row(self, name: str, index: int) -> SampleRow | None:
        rows = self._rows.get(name, [])
        return rows[index] if index < len(rows) else None


def _failures(recording: Recording) -> dict[tuple[str, int], str]:
    """(request, output tokens it had) → the words with which it failed while it ran."""
    return {
        (str(error.req), finish.data.output_tokens): error.data.message
        for events in recording.steps.values()
        for error in events
        if error.kind == "req.error" and error.phase != "input"
        for finish in events
        if finish.kind == "req.finish" and finish.req == error.req
    }
