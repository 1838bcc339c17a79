"""Fork: a recorded run again, with knobs changed from a step on. "What if from step N?"

Deterministic: nothing but the knobs is new. Up to step N the run is the recorded one; from there on

* requests arrive at the steps at which they did (where the fork has nothing to run before the next
  arrives, empty steps pass), and a prefix cache is reset at the step at which it was;
* a request that its caller aborted is aborted at the step at which it was, if it still lives;
* one that was aborted for its text (a stop string) is aborted when it has said as many output
  tokens as it had then: the text is the same, whenever it comes;
* tokens belong to (request, index of the output token), not to steps. One that was never recorded,
  because its request ended earlier in the recording, is a placeholder, counted and reported;
* a request that failed fails at the same output token, with the same words. With the model
  (``recompute``) nothing is a placeholder, and what failed from step N on gets its chance;
* where the recording ends before its requests do, the fork ends at the recording's last step.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgspec

from minivllm.config import STEP_KNOBS, EngineConfig, make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.errors import ConfigError, ReplayError
from minivllm.executor.base import Executor
from minivllm.replay.executors import ForkedExecutor
from minivllm.replay.grammars import RecordedGrammars
from minivllm.replay.model import grammar_of
from minivllm.replay.recording import Input, Recording, apply_input
from minivllm.scenario import make_header
from minivllm.trace.events import Header, Reason, RunConfig
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.texts import TokenText

MAX_MORE_STEPS = 100_000
"""Steps that a fork may take beyond its recording: a knob that lets nobody run is told, not
waited for."""

_MADE = "pool and model are made with it"
_WHY_NOT = {
    "batching": "a batch that began under one rule cannot end under the other",
    "scheduler_cls": "a scheduler cannot take over another one's queues",
}


@dataclass(slots=True)
class Fork:
    """A fork that has run."""

    log: TraceLog
    """Its events, if no file was wanted."""
    num_steps: int
    placeholders: dict[str, int] = field(default_factory=dict)
    """Request → tokens that the recording did not hold."""


def parse_knobs(given: list[str]) -> dict[str, Any]:
    """``max_num_seqs=2`` → its name and value. Raises ConfigError."""
    types = get_type_hints(RunConfig)
    types = {name: types[name] for name in RunConfig.__struct_fields__}
    knobs: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals:
            raise ConfigError("--set", text, "key=value, such as max_num_seqs=2")
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError("--set", name, f"{hint}one of {', '.join(types)}")
        word = {"on": "true", "off": "false"}.get(value.strip().lower(), value.strip())
        word = word.lower() if types[name] is bool else word
        try:
            knobs[name] = msgspec.convert(word, types[name], strict=False)
        except msgspec.ValidationError:
            allowed = {bool: "on | off", int: "a whole number", float: "a number"}
            raise ConfigError(name, value, allowed.get(types[name], "a word")) from None
    return knobs


def fork(
    recording: Recording,
    knobs: dict[str, Any],
    at_step: int = 1,
    trace_path: str | None = None,
    *,
    executor: Callable[[EngineConfig], Executor] | None = None,
    text: TokenText | None = None,
    max_more_steps: int | None = None,
) -> Fork:
    """Run the fork, and write its trace if there is a path for it.

    ``executor``: what runs the model; without, the recorded tokens take its place. Raises
    ReplayError for one that has not ended ``max_more_steps`` (None: 100,000) after its recording,
    ConfigError for a step that the recording does not have, a bad value, and a knob that can be
    changed from the start only.
    """
    if not knobs:
        raise ConfigError("--set", "nothing", "at least one key=value, such as max_num_seqs=2")
    run = ForkRun(recording, knobs, at_step, trace_path, executor=executor, text=text)
    more = MAX_MORE_STEPS if max_more_steps is None else max_more_steps
    try:
        while not run.done:
            if run.core.scheduler.current_step >= recording.last_step + more:
                raise ReplayError(f"the fork has not ended {more} steps after its recording")
            run.step()
    finally:
        run.core.executor.shutdown()
        run.recorder.close()
    return Fork(run.recorder.log, run.core.scheduler.current_step, run.placeholders)


class ForkRun:
    """A fork, stepped by whoever holds it: applies what is due before each step, and takes it."""

    def __init__(
        self,
        recording: Recording,
        knobs: dict[str, Any],
        at_step: int,
        trace_path: str | None = None,
        *,
        executor: Callable[[EngineConfig], Executor] | None = None,
        text: TokenText | None = None,
        goes_on: bool = False,
    ) -> None:
        """``goes_on``: beyond the end of a recording that some of its requests outlive; what they
        say there are placeholders. No knob at all is allowed: then it is the same run again, until
        somebody changes it. For the rest see :func:`fork`."""
        _check(recording, knobs, at_step, recording.last_step + goes_on)
        config = recording.config
        if at_step == 1 and knobs:
            config = make_config(config, **knobs)
        self._recorded: dict[str, str] = {}  # core name → its name in the recording
        self._stand_in = (
            None if executor else ForkedExecutor(config, recording, at_step, self._recorded)
        )
        engine = self._stand_in or executor(config)  # type: ignore[misc]
        header = _header(recording, config, engine, at_step, live=self._stand_in is None)
        self.recording, self.at_step, self.knobs = recording, at_step, knobs
        self.recorder = Recorder(
            TraceLog(header, trace_path), recording.stream, text or recording.text
        )
        try:
            grammars = RecordedGrammars(recording, grammar_of(engine), self._recorded)
            self.core = EngineCore(config, engine, self.recorder, grammars)
            scheduler = self.core.scheduler
            grammars.next_step = lambda: scheduler.current_step + 1
        except BaseException:
            engine.shutdown()
            self.recorder.close()
            raise
        self._goes_on = goes_on
        self._ids: dict[str, str] = {}
        self._stops: dict[str, int] = {}  # request → output tokens at which its text ends it
        self._last_input = max((n for n, inputs in recording.inputs.items() if inputs), default=0)
        self._applied = 0  # the step before which inputs were applied last
        self._plan_stops()

    @property
    def placeholders(self) -> dict[str, int]:
        """Request → tokens that the recording did not hold."""
        return self._stand_in.placeholders if self._stand_in else {}

    @property
    def done(self) -> bool:
        number = self.core.scheduler.current_step + 1
        if self.recording.open_reqs and number > self.recording.last_step and not self._goes_on:
            return True
        last = max(self._last_input, self.at_step)
        return self._applied >= last and number >= last and not self.core.has_requests()

    @property
    def num_requests(self) -> int:
        """That come, from first to last."""
        return sum(
            given.op == "add" for inputs in self.recording.inputs.values() for given in inputs
        )

    def step(self) -> None:
        """Apply what is due before the next step, and run it if there is anything to run."""
        number = self.core.scheduler.current_step + 1
        if number > self._applied:
            self._apply_inputs(number)
            self._applied = number
        if number < self.at_step or not self.done:
            self.core.step()

    def _apply_inputs(self, number: int) -> None:
        if number == self.at_step > 1 and self.knobs:  # from the start, they are in the config
            self.core.set_knobs(**self.knobs)
        for given in self.recording.inputs.get(number, []):
            if number >= self.at_step:
                if given.req in self._stops and given.op == "abort":
                    continue
                given = self._without_own_knobs(given)
            name = apply_input(self.core, given, self._ids)
            if name is not None:
                self._recorded[name] = str(given.req)
        if number >= self.at_step:
            alive = self.core.scheduler.requests
            named = {self._recorded.get(name): request for name, request in alive.items()}
            for req, num_tokens in self._stops.items():
                request = named.get(req)
                if request is not None and request.num_output_tokens >= num_tokens:
                    apply_input(self.core, Input("abort", req, Reason.STOP_STRING), self._ids)

    def _without_own_knobs(self, given: Input) -> Input:
        """What was changed here stays so, though the recording changes it later, itself a fork."""
        if given.op != "set_knobs":
            return given
        kept = {name: value for name, value in given.knobs.items() if name not in self.knobs}
        return Input(given.op, given.req, knobs=kept)

    def _plan_stops(self) -> None:
        for step, events in self.recording.steps.items():
            for event in events:
                stopped = event.kind == "req.finish" and event.data.why == Reason.STOP_STRING
                if stopped and step >= self.at_step:
                    self._stops[str(event.req)] = event.data.output_tokens


def _check(recording: Recording, knobs: dict[str, Any], at_step: int, last: int) -> None:
    if not 1 <= at_step <= last:
        raise ConfigError("--at-step", at_step, f"a step of the recording, 1 to {last}")
    for name, value in knobs.items():
        if at_step > 1 and name not in STEP_KNOBS:
            raise ConfigError(
                name,
                value,
                f"from the start only, without --at-step {at_step}: {_WHY_NOT.get(name, _MADE)}. "
                f"Between two steps can change: {', '.join(STEP_KNOBS)}",
            )
    make_config(recording.config, **knobs).check_with_model_len(
        knobs.get("max_model_len", recording.config.model.max_model_len or 0)
    )


def _header(
    recording: Recording, config: EngineConfig, engine: Executor, at_step: int, live: bool
) -> Header:
    """The original's facts about the model, where it did not run again."""
    old = recording.header
    new = make_header(config, engine, name=old.name)
    fields = ("model", "dtype", "device", "threads", "kernel_path")
    facts = {} if live else {name: getattr(old, name) for name in fields}
    if not live:
        facts["fidelity"] = "given" if old.fidelity == "given" else "recorded"
    return msgspec.structs.replace(new, forked_from=f"{old.run_id}@{at_step}", **facts)
