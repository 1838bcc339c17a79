"""Scenarios: arrivals by step, fixed output lengths, and the knobs; one small TOML file each.

A scenario runs on the real scheduler and pool in one of two ways: with the tokens that stand in the
file (no model, no torch, anywhere the same), or with a model (``run(scenario, executor=...)``). A
request that arrives at step k is in the waiting queue when step k schedules.

    [engine]                    any name that ``make_config`` takes
    [[request]]                 they are called r1, r2, … in order of arrival
    arrives = 1                 step
    prompt = "…"                and/or prompt_token_ids, with prompt_texts
    output_tokens = 10          exactly so many (ignore_eos; EOS is masked)
    output_token_ids = […]      what it says when no model runs, with output_texts
    priority = 0
"""

from __future__ import annotations

import datetime
import platform
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from minivllm import __version__
from minivllm.config import EngineConfig, make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import ScenarioError
from minivllm.executor.base import Executor
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Header
from minivllm.trace.recorder import Recorder, TraceLog
from minivllm.trace.texts import TokenText

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCENARIO_DIR = Path(__file__).parent / "scenarios"
MAX_STEPS = 10_000

Tokenize = Callable[[str], list[int]]


class ScenarioRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One ``[[request]]`` table."""

    arrives: int
    output_tokens: int
    prompt: str | None = None
    prompt_token_ids: list[int] = []
    prompt_texts: list[str] = []
    output_token_ids: list[int] = []
    output_texts: list[str] = []
    priority: int = 0


class Scenario(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A scenario file. Raises ScenarioError where it does not hold together."""

    name: str
    title: str = ""
    engine: dict[str, Any] = {}
    request: list[ScenarioRequest]

    def __post_init__(self) -> None:
        for number, request in enumerate(self.request, start=1):
            where = f"scenario {self.name}, request {number}"
            if request.arrives < 1:
                raise ScenarioError(f"{where}: arrives = {request.arrives}; steps count from 1")
            if request.output_tokens < 1:
                raise ScenarioError(f"{where}: output_tokens = {request.output_tokens}; at least 1")
            if not request.prompt and not request.prompt_token_ids:
                raise ScenarioError(f"{where}: needs a prompt or prompt_token_ids")
            for texts, ids in (
                ("prompt_texts", "prompt_token_ids"),
                ("output_texts", "output_token_ids"),
            ):
                n_texts, n_ids = len(getattr(request, texts)), len(getattr(request, ids))
                if n_texts not in (0, n_ids):
                    raise ScenarioError(f"{where}: {n_texts} {texts} for {n_ids} {ids}")
            for token_id in request.prompt_token_ids + request.output_token_ids:
                if not 0 <= token_id < 2**31:
                    raise ScenarioError(f"{where}: {token_id} is no token id")
            n_out = len(request.output_token_ids)
            if n_out not in (0, request.output_tokens):
                raise ScenarioError(
                    f"{where}: {n_out} output_token_ids for output_tokens = {request.output_tokens}"
                )
        self.request.sort(key=lambda r: r.arrives)  # stable: the file's order within a step


def load_scenario(name_or_path: str) -> Scenario:
    """A shipped scenario by name, or one from a ``.toml`` file. Raises ScenarioError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SCENARIO_DIR / f"{name_or_path}.toml"
        if not path.is_file():
            shipped = ", ".join(shipped_scenarios())
            raise ScenarioError(
                f"no scenario {name_or_path!r}; shipped: {shipped}; or a .toml file"
            )
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Scenario)
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path}: {error}") from error


def shipped_scenarios() -> list[str]:
    return sorted(path.stem for path in SCENARIO_DIR.glob("*.toml"))


@dataclass
class ScenarioRun:
    """A scenario on an engine, stepped by whoever holds it."""

    scenario: Scenario
    config: EngineConfig
    core: EngineCore
    recorder: Recorder
    tokenize: Tokenize | None = None
    _arrived: int = field(default=0)

    @property
    def done(self) -> bool:
        return self._arrived == len(self.scenario.request) and not self.core.has_requests()

    def step(self) -> None:
        """Let those who arrive now arrive, and run one step."""
        number = self.core.scheduler.current_step + 1
        for request in self.scenario.request[self._arrived :]:
            if request.arrives > number:
                break
            self._arrived += 1
            self.core.add_request(self._message(request, self._arrived))
        self.core.step()

    def run(self) -> ScenarioRun:
        """Step to the end. Raises ScenarioError when there is none in 10,000 steps."""
        while not self.done:
            if self.core.scheduler.current_step >= MAX_STEPS:
                raise ScenarioError(f"{self.scenario.name} has not ended after {MAX_STEPS} steps")
            self.step()
        self.recorder.flush()
        return self

    def _message(self, request: ScenarioRequest, number: int) -> EngineCoreRequest:
        ids = request.prompt_token_ids or self._tokenize(request)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.output_tokens,
            min_tokens=request.output_tokens,
            ignore_eos=True,
        )
        return EngineCoreRequest(
            request_id=f"{self.scenario.name}-{number}",
            prompt_token_ids=ids,
            sampling_params=params,
            eos_token_id=self.eos_token_id,
            priority=request.priority,
        )

    eos_token_id: int | None = None

    def _tokenize(self, request: ScenarioRequest) -> list[int]:
        if self.tokenize is None or request.prompt is None:
            raise ScenarioError(
                f"scenario {self.scenario.name} has prompts without prompt_token_ids: "
                "it runs with a model only"
            )
        return self.tokenize(request.prompt)


def start(
    scenario: Scenario,
    *,
    executor: Callable[[EngineConfig], Executor] | None = None,
    tokenizer: Any = None,
    trace_path: str | None = None,
    **knobs: Any,
) -> ScenarioRun:
    """An engine ready to run the scenario; ``knobs`` override its ``[engine]`` table.

    Without ``executor`` the requests say the tokens of the file (placeholders where it has none).
    With one, ``tokenizer`` (:class:`minivllm.tokenizer.Tokenizer`) makes and shows its tokens.
    """
    config = make_config(**{**scenario.engine, **knobs})
    engine = executor(config) if executor else _scripted(scenario, config)
    header = make_header(config, engine, name=scenario.name)
    log = TraceLog(header, trace_path, steps=config.trace.retention)
    recorder = Recorder(log, token_text=tokenizer.text_after if tokenizer else _texts(scenario))
    run = ScenarioRun(scenario, config, EngineCore(config, engine, recorder), recorder)
    if tokenizer is not None:
        run.tokenize, run.eos_token_id = tokenizer.encode, tokenizer.eos_token_id
    return run


def make_header(config: EngineConfig, executor: Executor, name: str = "") -> Header:
    """The header of a run's trace."""
    return Header(
        run_id=uuid.uuid4().hex[:12],
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        engine_version=__version__,
        name=name,
        config={
            "cache": msgspec.to_builtins(config.cache),
            "scheduler": msgspec.to_builtins(config.scheduler),
            "python": platform.python_version(),
        },
        seed=config.model.seed,
        redacted=config.trace.redact,
        **executor.describe(),  # type: ignore[arg-type]
    )


def _scripted(scenario: Scenario, config: EngineConfig) -> ScriptedExecutor:
    given = {f"r{i}": r.output_token_ids for i, r in enumerate(scenario.request, start=1)}

    def next_token(req_id: str, index: int) -> int:
        ids = given.get(req_id)
        return ids[index] if ids else counting_tokens(req_id, index)

    return ScriptedExecutor(config, next_token)


def _texts(scenario: Scenario) -> TokenText:
    """Token id → its text, as far as the file tells."""
    texts: dict[int, str] = {}
    for request in scenario.request:
        texts.update(zip(request.prompt_token_ids, request.prompt_texts, strict=False))
        texts.update(zip(request.output_token_ids, request.output_texts, strict=False))
    return lambda token_id, _before: texts.get(token_id, "·")
