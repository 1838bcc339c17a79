"""Scenarios on an engine: what a file says (``scenario_file.py``), run step by step.

A scenario runs on the real scheduler and pool in one of two ways: with the tokens that stand in the
file or are made up for it (no model, no torch, anywhere the same), or with a model
(``start(scenario, executor=...)``). A request that arrives at step k is in the waiting queue when
step k schedules. It says exactly ``output_tokens`` tokens: with a model EOS is masked until then.

A request whose ``max_tokens`` is larger ends before its limit, as most do, and nobody knew: without
a model by EOS; a model's words cannot be dictated, so its caller goes away at that place.
"""

from __future__ import annotations

import datetime
import math
import platform
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from minivllm import __version__
from minivllm.config import EngineConfig, make_config, own_names
from minivllm.core.own_class import name_of
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import ConfigError, ScenarioError
from minivllm.executor.base import Executor
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens, strangers_tokens
from minivllm.sampling_params import SamplingParams
from minivllm.scenario_file import (
    Scenario,
    ScenarioRequest,
    load_scenario,
    shipped_scenarios,
)
from minivllm.structured_output.interface import GrammarSource
from minivllm.trace.events import Header, Reason
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.texts import TokenText
from minivllm.trace.words import count

__all__ = [
    "Scenario",
    "ScenarioRequest",
    "ScenarioRun",
    "load_scenario",
    "make_header",
    "shipped_scenarios",
    "start",
]

IDLE_STEPS = 10_000
"""So many steps without a token are no scheduling any more, but a fault."""
END_TOKEN = 0
"""EOS where no model runs. No made-up token is this one."""

Tokenize = Callable[[str], list[int]]


@dataclass
class ScenarioRun:
    """A scenario on an engine, stepped by whoever holds it."""

    scenario: Scenario
    config: EngineConfig
    core: EngineCore
    recorder: Recorder
    with_model: bool = False
    tokenize: Tokenize | None = None
    eos_token_id: int | None = None
    vocab_size: int | None = None
    script: dict[str, int] = field(default_factory=dict)
    """Core name → the number of the scenario's request, of those that have arrived. Whoever else
    sends one moves the names on, not what each says."""
    _arrived: int = field(default=0)
    _hang_up: dict[str, int] = field(default_factory=dict)
    """Caller's id → the number of tokens after which it goes away."""
    _said: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Message → requests that ended by it. A run in which all fail comes to its end, too."""

    @property
    def done(self) -> bool:
        return self._arrived == len(self.scenario.request) and not self.core.has_requests()

    @property
    def num_requests(self) -> int:
        """That come, from first to last."""
        return len(self.scenario.request)

    def step(self) -> None:
        """Let those who arrive now arrive, and run one step."""
        number = self.core.scheduler.current_step + 1
        for request in self.scenario.request[self._arrived :]:
            if request.arrives > number:
                break
            self._arrived += 1
            name = self.core.add_request(self._message(request, self._arrived))
            self.script[name] = self._arrived
        outputs = self.core.step().outputs
        self.failures.update(str(o.stop_reason) for o in outputs if o.finish_reason == "error")
        for output in outputs if self.with_model else ():
            self._said[output.request_id] += len(output.new_token_ids)
            if self._said[output.request_id] >= self._hang_up.get(output.request_id, math.inf):
                self.core.abort_request(output.request_id, Reason.CLIENT)

    def told_failures(self) -> list[str]:
        """``5 of 5 requests failed: …``, a line for each cause; empty if none failed."""
        total = len(self.scenario.request)
        return [
            f"{n} of {count(total, 'request')} failed: {message}"
            for message, n in self.failures.most_common()
        ]

    def run(self, max_steps: int = 0) -> ScenarioRun:
        """Step to the end. Raises ScenarioError when there is none in ``max_steps``, or (0) when
        for long no token comes and nobody arrives or ends: it has got stuck."""
        last = max((request.arrives for request in self.scenario.request), default=0)
        if 0 < max_steps < last:
            raise ScenarioError(
                f"{self.scenario.name}: a request has arrives = {last}, and a run has at most "
                f"{max_steps} steps; let it arrive earlier"
            )
        # Between two tokens all prompts may have to run, one token a step.
        prompts = sum(len(r.prompt_token_ids or r.stand_in_ids) for r in self.scenario.request)
        patience, since, before = IDLE_STEPS + prompts, 0, (0, 0, 0)
        while not self.done:
            step = self.core.scheduler.current_step
            if max_steps and step >= max_steps:
                raise ScenarioError(f"{self.scenario.name} has not ended after {max_steps} steps")
            alive = list(self.core.scheduler.requests.values())
            now = self._arrived, len(alive), sum(r.num_output_tokens for r in alive)
            since, before = (step, now) if now != before or not alive else (since, before)
            if step - since >= patience:
                raise ScenarioError(
                    f"{self.scenario.name} has got stuck: no token in the {patience} steps up to "
                    f"{step}, and {alive[0].req_id} has not ended; its trace tells why it waits"
                )
            self.step()
        self.recorder.flush()
        return self

    def _message(self, request: ScenarioRequest, number: int) -> EngineCoreRequest:
        n, request_id = request.output_tokens, f"{self.scenario.name}-{number}"
        limit = request.max_tokens or n
        eos, ends_early = self.eos_token_id, limit > n
        if ends_early and self.with_model:
            self._hang_up[request_id] = n
        elif ends_early:
            eos = END_TOKEN
        params = SamplingParams(
            temperature=0.0,
            max_tokens=limit,
            min_tokens=limit if self.with_model else n,
            ignore_eos=self.with_model or not ends_early,
        )
        return EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=self._prompt(request),
            sampling_params=params,
            eos_token_id=eos,
            priority=request.priority,
        )

    def _prompt(self, request: ScenarioRequest) -> list[int]:
        if request.prompt_token_ids:
            return self._in_vocabulary(request.prompt_token_ids)
        if self.tokenize is not None and request.prompt is not None:
            return self.tokenize(request.prompt)
        if request.stand_in_ids:
            return self._in_vocabulary(request.stand_in_ids)
        raise ScenarioError(
            f"scenario {self.scenario.name} has prompts without prompt_token_ids or "
            "prompt_tokens: it runs with a model only"
        )

    def _in_vocabulary(self, ids: list[int]) -> list[int]:
        if self.vocab_size is not None and max(ids) >= self.vocab_size:
            raise ScenarioError(
                f"scenario {self.scenario.name} has token id {max(ids)}; this model knows "
                f"{self.vocab_size} tokens: run it without a model, or with a larger one"
            )
        return ids


def start(
    scenario: Scenario,
    *,
    executor: Callable[[EngineConfig], Executor] | None = None,
    tokenizer: Any = None,
    grammars: GrammarSource | None = None,
    trace_path: str | None = None,
    **knobs: Any,
) -> ScenarioRun:
    """An engine ready to run the scenario; ``knobs`` override its ``[engine]`` table.

    Without ``executor`` the requests say the tokens of the file (placeholders where it has none).
    With one, ``tokenizer`` (:class:`minivllm.tokenizer.Tokenizer`) makes and shows its tokens.
    """
    config = _config(scenario, knobs)
    script: dict[str, int] = {}
    engine = executor(config) if executor else _scripted(scenario, config, script)
    header = make_header(config, engine, name=scenario.name)
    trace = config.trace
    log = TraceLog(header, trace_path, steps=trace.retention, tensors_limit=trace.tensors_limit)
    text = tokenizer.text_after if tokenizer else _texts(scenario)
    recorder = Recorder(log, token_text=text, check=trace.check)
    core = EngineCore(config, engine, recorder, grammars)
    run = ScenarioRun(scenario, config, core, recorder, script=script)
    run.with_model = executor is not None
    if tokenizer is not None:
        run.tokenize, run.eos_token_id = tokenizer.encode, tokenizer.eos_token_id
        run.vocab_size = tokenizer.vocab_size
    return run


def _config(scenario: Scenario, knobs: dict[str, Any]) -> EngineConfig:
    """A knob that is wrong in the file is told with its place in the file."""
    given = own_names(knobs)
    try:
        return make_config(**{**own_names(scenario.engine), **given})
    except ConfigError as error:
        places = own_names(scenario.places)
        if given.get(error.field) is None and error.field in places:
            raise ScenarioError(f"{places[error.field]}, [engine]: {error}") from error
        raise


def make_header(config: EngineConfig, executor: Executor | None, name: str = "") -> Header:
    """The header of a run's trace; without an ``executor`` that is still to be completed."""
    described: dict[str, Any] = executor.describe() if executor is not None else {}
    return Header(
        run_id=uuid.uuid4().hex[:12],
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        engine_version=__version__,
        name=name,
        config={
            "cache": msgspec.to_builtins(config.cache, enc_hook=name_of),
            "scheduler": msgspec.to_builtins(config.scheduler, enc_hook=name_of),
            "python": platform.python_version(),
        },
        seed=config.model.seed,
        redacted=config.trace.redact,
        **described,
    )


def _scripted(scenario: Scenario, config: EngineConfig, script: dict[str, int]) -> ScriptedExecutor:
    def next_token(req_id: str, index: int) -> int:
        number = script.get(req_id)
        if number is None:  # one that somebody else sent
            return strangers_tokens(req_id, index)
        request = scenario.request[number - 1]
        if index == request.output_tokens - 1 and (request.max_tokens or 0) > index + 1:
            return END_TOKEN
        ids = request.output_token_ids
        return ids[index] if ids else counting_tokens(f"r{number}", index)

    return ScriptedExecutor(config, next_token)


def _texts(scenario: Scenario) -> TokenText:
    """Token id → its text, as far as the file tells."""
    texts: dict[int, str] = {}
    for request in scenario.request:
        texts.update(zip(request.prompt_token_ids, request.prompt_texts, strict=False))
        texts.update(zip(request.output_token_ids, request.output_texts, strict=False))
    return lambda token_id, _before: texts.get(token_id, "·")
