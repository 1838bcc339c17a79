"""What is given to a Stepper: the run it steps, and tests of events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minivllm.errors import ConfigError, PromptError, ScenarioError
from minivllm.scenario import ScenarioRun
from minivllm.terminal.runs import Run, open_run
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.stepped import ScenarioSteps
from minivllm.trace.events import Event
from minivllm.trace.until import Place


class Guarded:
    """A function of the caller's, asked of each event where the engine runs. What it raises must
    not end the engine: it holds there, and the caller gets the error."""

    def __init__(self, function: Callable[[Event], object]) -> None:
        self.function = function
        self.error: Exception | None = None

    def __call__(self, event: Event, place: Place) -> bool:
        try:
            return bool(self.function(event))
        except Exception as error:
            self.error = error
            return True


def check_count(verb: str, n: object) -> None:
    """Raises ConfigError."""
    if type(n) is not int:
        raise ConfigError(verb, n, "a whole number")


def check_prompt(prompt: object) -> None:
    """Raises PromptError."""
    ids = isinstance(prompt, list) and all(type(one) is int for one in prompt)
    if not isinstance(prompt, str) and not ids:
        raise PromptError(f"submit: got {prompt!r}; allowed: a prompt as text, or its token ids")


def check_from_past(from_past: object) -> None:
    """Raises ConfigError."""
    if from_past not in (None, "live", "fork"):
        raise ConfigError("from_past", from_past, "live or fork")


def run_of(what: Any, engine: dict[str, Any]) -> Run:
    if isinstance(what, (str, Path)):
        return open_run(str(what), engine)
    if engine:
        raise ConfigError("Stepper", engine, "knobs for a scenario by name only")
    if isinstance(what, ScenarioRun):
        return SteeredRun(ScenarioSteps(what))
    if hasattr(what, "debug_parts"):
        from minivllm.terminal.live import LiveEngine

        parts, turn = what.debug_parts()
        return SteeredRun(LiveEngine(parts, turn=turn, owned=False))
    raise ScenarioError(
        f"Stepper takes an LLM, a scenario, a trace or a ScenarioRun, not {type(what).__name__}"
    )
