"""The dashboard's workbench: scenarios on the real scheduler and pool, with given tokens.

The page asks for it in the shape of ``viz.commands.Workbench``. It needs no torch. Which knobs
there are, and what they do, comes from the flags' own table.
"""

from __future__ import annotations

from typing import Any

from minivllm.cli.options import FLAGS, defaults
from minivllm.config import KV_MANAGERS, STEP_KNOBS
from minivllm.errors import ConfigError
from minivllm.scenario import load_scenario, shipped_scenarios, start
from minivllm.trace.events import RunConfig
from minivllm.trace.recorder import TraceLog

MOST_BLOCKS = 100_000
"""What a page may ask for: a larger pool takes seconds and memory, and shows nothing more."""
NOT_FROM_THE_PAGE = ("scheduler_cls",)
"""A class path runs code: it is for who starts the engine, never for who sends a message."""


class ScenarioBench:
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

    def simulate(self, scenario: str, knobs: dict[str, Any]) -> tuple[TraceLog, dict[str, Any]]:
        """Run it to its end; also returns the knobs that are not as the scenario has them. Raises
        ScenarioError, ConfigError."""
        if scenario not in shipped_scenarios():  # a name only: the page must not open files
            raise ConfigError("scenario", scenario, " | ".join(shipped_scenarios()))
        allowed = {knob["name"]: knob["choices"] for knob in self.knobs()}
        for name, value in knobs.items():
            if name not in allowed:
                raise ConfigError(name, value, f"one of {', '.join(allowed)}")
            if allowed[name] and value not in allowed[name]:
                raise ConfigError(name, value, " | ".join(allowed[name]))
        blocks = knobs.get("num_kv_blocks")
        if isinstance(blocks, int) and blocks > MOST_BLOCKS:
            raise ConfigError("num_kv_blocks", blocks, f"up to {MOST_BLOCKS:,} on the page")
        usual = start(load_scenario(scenario)).core.facts()
        run = start(load_scenario(scenario), **knobs).run()
        changed = {name: v for name, v in run.core.facts().items() if v != usual[name]}
        return run.recorder.log, changed


def _choices(field: str, metavar: str | None) -> list[str]:
    if field == "kv_manager_cls":
        return list(KV_MANAGERS)
    return metavar.split("|") if metavar and "|" in metavar else []
