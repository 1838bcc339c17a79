"""Where the steps come from, by name: a recorded trace, a scenario on the real scheduler, a model.

All are one thing to the terminal: a history, and perhaps an engine behind it that can be let go
(``steered.py``). Whoever looks back reads the history.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from minivllm.config import EngineConfig, ModelConfig
from minivllm.errors import ConfigError, MissingExtraError, ScenarioError
from minivllm.executor.base import Executor
from minivllm.scenario import ScenarioRun, load_scenario, shipped_scenarios, start
from minivllm.terminal.history import History
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.stepped import ScenarioSteps, fork_of
from minivllm.trace.file import read_trace
from minivllm.trace.gallery import find_recording, gallery
from minivllm.trace.life import Way, way_of_req
from minivllm.trace.pick import pick


class Run(Protocol):
    """What a session steps through: :class:`RecordedRun` or ``SteeredRun``."""

    history: History
    others: str
    """How to see the rest of a trace; empty where this is all."""

    @property
    def which(self) -> str:
        """``engine0 of 2 engines``: what this is of all there is; empty where it is all."""
        ...

    @property
    def label(self) -> str: ...

    def way(self, req: str) -> Way | None:
        """The request's hops over all streams, where these are known."""
        ...

    def close(self) -> None: ...


class RecordedRun:
    """A trace file; there is nothing to run."""

    label = "RECORDED"

    def __init__(self, path: Path, life: int | None = None, engine: int | None = None) -> None:
        """``engine``: which of several; None: the first. ``life``: of an engine that was started
        more than once, which; None: the last.

        Raises TraceError, and ConfigError for an engine or a life that there is not.
        """
        self.trace = read_trace(path)
        picked = pick(self.trace, engine, life)
        header = self.trace.header
        name = ", ".join(filter(None, (header.name or path.name, picked.which)))
        self._place = picked.stream, picked.life
        self.which, self.others = picked.which, picked.others
        self.history = History(msgspec.structs.replace(header, name=name))
        self.history.extend(picked.trace.events)
        self.history.close()

    def way(self, req: str) -> Way | None:
        return way_of_req(self.trace, *self._place, req)

    def close(self) -> None:
        pass


class PastRun:
    """A life that has ended: there is nothing to steer."""

    label = "RECORDED"
    others = ""

    def __init__(self, history: History, which: str) -> None:
        self.history, self.which = history, which
        history.close()

    def way(self, req: str) -> Way | None:
        return None

    def close(self) -> None:
        pass


def fork_run(run: Run, at_step: int, knobs: dict[str, Any]) -> SteeredRun:
    """The run again, other from that step on; it stands before it. Raises ConfigError,
    ReplayError."""
    if isinstance(run, SteeredRun):
        run.check_open()
        return SteeredRun(run.source.fork(at_step, knobs, run.history))
    return SteeredRun(fork_of(run.history, at_step, knobs))


# --- by name -------------------------------------------------------------------------------------


def open_run(
    target: str,
    engine: dict[str, Any],
    with_model: bool = False,
    life: int | None = None,
    number: int | None = None,
    recorded: bool = False,
) -> Run:
    """A trace by path or gallery name, or a scenario by path or name.

    ``engine`` overrides the scenario's knobs; ``number`` and ``life`` say which engine of a trace,
    and which life of it; ``recorded``: of a name that both have, the recording. Raises
    ScenarioError, TraceError, ConfigError, and with a model what loading one raises.
    """
    trace = find_trace(target, recorded)
    if trace is not None:
        if engine or with_model:
            knobs = ", ".join(sorted(engine)) or "a model"
            raise ScenarioError(
                f"{target} is a recording and shows what was; give a scenario "
                f"({', '.join(shipped_scenarios())}) to run one with {knobs}"
            )
        return RecordedRun(trace, life, number)
    for option, value in (("--engine", number), ("--life", life)):
        if value is not None:
            allowed = f"only for a recorded trace; {target} is {_anew(target)}"
            raise ConfigError(option, value, allowed)
    if not target.endswith(".toml") and target not in shipped_scenarios():
        raise ScenarioError(
            f"{target!r} is no file, no scenario ({', '.join(shipped_scenarios())}) "
            f"and no recording ({', '.join(gallery()) or 'none is shipped'})"
        )
    engine = dict(engine)
    path = engine.pop("path", None)
    scenario = load_scenario(target)
    if with_model:
        executor, tokenizer = _model(engine.get("model", ModelConfig().model))
        made = start(scenario, executor=executor, tokenizer=tokenizer, trace_path=path, **engine)
        return SteeredRun(ScenarioSteps(made, "LIVE"))
    if any(request.needs_model for request in scenario.request):
        raise ScenarioError(
            f"scenario {scenario.name} has prompts without token ids, so it needs a model: "
            "add --with-model"
        )

    def again(knobs: dict[str, Any]) -> ScenarioRun:
        return start(load_scenario(target), **{**engine, **knobs})

    run = SteeredRun(ScenarioSteps(start(scenario, trace_path=path, **engine), again=again))
    run.others = _anew(target) if target in gallery() else ""
    return run


def find_trace(target: str, recorded: bool = False) -> Path | None:
    """The trace file behind a path or a gallery name, if it is one of these.

    A name that is a scenario's as well means the scenario; ``recorded``, or ``NAME.trace.jsonl``,
    its recording. Raises ScenarioError where a recording is wanted and none has that name.
    """
    path = Path(target)
    if recorded:
        if not (found := find_recording(target)).is_file():
            there = ", ".join(gallery())
            raise ScenarioError(f"{target!r} is no file, and no recording has that name: {there}")
        return found
    if path.suffix != ".toml" and path.is_file():
        return path
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return find_recording(target)
    return None if target in shipped_scenarios() else gallery().get(target)


def _anew(target: str) -> str:
    more = ": --recorded opens the recording of that name" if target in gallery() else ""
    return f"run anew{more}"


def _model(model: str) -> tuple[Callable[[EngineConfig], Executor], Any]:
    """What makes the model's executor, and its tokenizer. Raises ModelError, MissingExtraError."""
    from minivllm.models.source import resolve

    source = resolve(model)
    try:
        from minivllm.executor.uniproc import UniprocExecutor
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise MissingExtraError(
            f"running a model needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    return UniprocExecutor, get_tokenizer(source)
