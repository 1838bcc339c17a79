"""What a shipped scenario says of itself: its title, and the comment at the head of its file.

For a reader who chooses one: what happens in it, and what to compare it with.
"""

from __future__ import annotations

import re

import msgspec

from minivllm.scenario_file import SCENARIO_DIR, load_scenario
from minivllm.scenario_text import read_text


class About(msgspec.Struct, kw_only=True):
    """What a shipped scenario says of itself."""

    title: str
    note: str
    tries: list[str]
    """Flags to compare it with, as in ``--batching static``."""


def about_scenario(name: str) -> About:
    """Raises ScenarioError where there is no such one, or its file is broken."""
    scenario = load_scenario(name)
    note, commands = head_comment(read_text(SCENARIO_DIR / f"{name}.toml"))
    tries = [flags for line in commands for flags in re.findall(r'--b "([^"]+)"', line)]
    return About(title=scenario.title, note=note, tries=tries)


def head_comment(text: str) -> tuple[str, list[str]]:
    """What a file says of itself before anything else: its prose, and its indented commands."""
    prose: list[str] = []
    commands: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        said = line[1:].removeprefix(" ")
        if commands and commands[-1].endswith("\\"):
            commands[-1] = f"{commands[-1][:-1].strip()} {said.strip()}"
        elif said.startswith(" "):
            commands.append(said.strip())
        else:
            prose.append(said.strip())
    return " ".join(prose), commands
