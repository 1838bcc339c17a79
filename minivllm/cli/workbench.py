"""The dashboard's workbench: scenarios and forks on the real scheduler and pool, no model.

A scenario runs with given tokens, a fork of a recorded run with those it recorded. The page asks
for it in the shape of ``viz.commands.Workbench``. It needs no torch. Which knobs there are, and
what they do, comes from the flags' own table.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from minivllm.cli.flags import FLAGS
from minivllm.cli.options import defaults
from minivllm.config import KV_MANAGERS, STEP_KNOBS
from minivllm.errors import ConfigError, ReplayError
from minivllm.learn.lessons import Lessons
from minivllm.own_scenario import (
    OwnScenarioError,
    form_of,
    form_of_file,
    id_of,
    read_form,
    run_form,
)
from minivllm.replay.fork import fork
from minivllm.replay.recording import read_recording
from minivllm.scenario import load_scenario, shipped_scenarios, start
from minivllm.scenario_about import about_scenario
from minivllm.trace.events import RunConfig
from minivllm.trace.file import Trace
from minivllm.trace.log import TraceLog

MOST_BLOCKS = 100_000
"""What a page may ask for: a larger pool takes seconds and memory, and shows nothing more."""
MOST_EVENTS = 200_000
"""Of a run that the page may fork: some seconds of work, and as many as are kept in memory."""
MORE_STEPS = 5_000
"""Steps that a fork from the page may take beyond its recording."""
NOT_FROM_THE_PAGE = ("scheduler_cls",)
"""A class path runs code: it is for who starts the engine, never for who sends a message."""


class ScenarioBench:
    """The scenarios that come with the package, and those of the lessons."""

    def __init__(self, lessons: Lessons | None = None) -> None:
        self._lessons = lessons

    def knobs(self) -> list[dict[str, Any]]:
        return [
            {
                "name": flag.field,
                "flag": flag.names.split("/")[0],
                "group": flag.panel,
                "help": flag.help,
                "default": defaults()[flag.field],
                "live": flag.field in STEP_KNOBS,
                "kind": flag.kind.__name__,
                "choices": _choices(flag.field, flag.metavar),
            }
            for flag in FLAGS
            if flag.field in RunConfig.__struct_fields__ and flag.field not in NOT_FROM_THE_PAGE
        ]

    def scenarios(self) -> list[str]:
        return shipped_scenarios()

    def about(self) -> dict[str, dict[str, Any]]:
        return {name: msgspec.to_builtins(about_scenario(name)) for name in shipped_scenarios()}

    def simulate(self, scenario: str, knobs: dict[str, Any]) -> tuple[TraceLog, dict[str, Any]]:
        """Run it to its end; also returns the knobs that are not as the scenario has them. Raises
        ScenarioError, ConfigError."""
        path = self._find(scenario)
        self._check(knobs)
        usual = start(load_scenario(path)).core.facts()
        run = start(load_scenario(path), **knobs).run()
        changed = {name: v for name, v in run.core.facts().items() if v != usual[name]}
        return run.recorder.log, changed

    def own(self, form: Any) -> tuple[TraceLog, dict[str, Any]]:
        """Run a form with placeholders for tokens; also returns the form as it was understood.
        Raises OwnScenarioError, which tells each field."""
        read = read_form(form)
        try:
            self._check(read.engine)
        except ConfigError as error:
            raise OwnScenarioError({error.field: str(error)}) from error
        run = run_form(read)
        return run.recorder.log, {"id": id_of(read), **msgspec.to_builtins(read)}

    def own_from(self, text: str) -> dict[str, Any]:
        """A ``.toml`` scenario as a form. Raises OwnScenarioError, ScenarioError."""
        form: dict[str, Any] = msgspec.to_builtins(form_of_file(text))
        return form

    def presets(self) -> dict[str, dict[str, Any]]:
        """The package's scenarios as forms, by name; those that are too long for one left out."""
        forms: dict[str, dict[str, Any]] = {}
        for name in shipped_scenarios():
            with contextlib.suppress(OwnScenarioError):
                forms[name] = msgspec.to_builtins(form_of(load_scenario(name)))
        return forms

    def _find(self, scenario: str) -> str:
        """A name only, of a shipped one or of a lesson: the page must not open files."""
        if scenario in shipped_scenarios():
            return scenario
        lesson = self._lessons.find(scenario) if self._lessons is not None else None
        if lesson is None or lesson.scenario is None:
            allowed = " | ".join(shipped_scenarios())
            raise ConfigError("scenario", scenario[:100], f"{allowed}, or a lesson that has one")
        return str(lesson.scenario)

    def fork(
        self, trace: Trace, stream: str, knobs: dict[str, Any], at_step: int
    ) -> tuple[TraceLog, dict[str, int]]:
        """Run a recorded run again, with other knobs from a step on; also returns how many tokens
        of which request were never recorded. Raises ConfigError, ReplayError."""
        self._check(knobs)
        if len(trace.events) > MOST_EVENTS:
            raise ReplayError(
                f"the run has {len(trace.events):,} events; the page forks up to {MOST_EVENTS:,}. "
                "On the command line: minivllm fork"
            )
        _check_that_classes_are_shipped(trace)
        made = fork(read_recording(trace, stream), knobs, at_step, max_more_steps=MORE_STEPS)
        if made.log.first_seq(stream) > 1:
            raise ReplayError("the fork became too long to be kept; try a smaller change")
        return made.log, made.placeholders

    def _check(self, knobs: dict[str, Any]) -> None:
        allowed = {knob["name"]: knob["choices"] for knob in self.knobs()}
        for name, value in knobs.items():
            if name not in allowed:
                raise ConfigError(name, value, f"one of {', '.join(allowed)}")
            if allowed[name] and value not in allowed[name]:
                raise ConfigError(name, value, " | ".join(allowed[name]))
        blocks = knobs.get("num_kv_blocks")
        if isinstance(blocks, int) and blocks > MOST_BLOCKS:
            raise ConfigError("num_kv_blocks", blocks, f"up to {MOST_BLOCKS:,} on the page")


def _check_that_classes_are_shipped(trace: Trace) -> None:
    """A trace names its engine's classes. Those of somebody's own would be loaded and run: that is
    for who types the command, never for a click on a file that may be anybody's."""
    for event in trace.events:
        if event.kind != "run.config":
            continue
        for field, shipped in (("scheduler_cls", ("default",)), ("kv_manager_cls", KV_MANAGERS)):
            given = getattr(event.data, field)
            if given not in shipped:
                allowed = f"{' | '.join(shipped)} for a fork from the page; use minivllm fork"
                raise ConfigError(field, given, allowed)


def _choices(field: str, metavar: str | None) -> list[str]:
    if field == "kv_manager_cls":
        return list(KV_MANAGERS)
    return metavar.split("|") if metavar and "|" in metavar else []
