"""The invariants: each kind of damage to a state is told, in the words that the page uses, too."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from minivllm.trace.fold import from_json, new_state, to_json
from minivllm.trace.invariants import step_violations, violations
from tests.trace.test_fold import engine

DAMAGED = msgspec.json.decode(
    Path(__file__).parents[1].joinpath("data", "broken-states.json").read_bytes()
)
"""A sound state, and cases that each change it at some paths; ``core.test.mjs`` reads it, too."""


def test_state_that_is_damaged_was_the_engines_own() -> None:
    assert to_json(engine().state()) == DAMAGED["state"]
    assert violations(from_json(DAMAGED["state"])) == []


@pytest.mark.parametrize("case", DAMAGED["cases"], ids=lambda case: case["name"])
def test_breach_is_told_in_a_sentence(case: dict[str, Any]) -> None:
    state = copy.deepcopy(DAMAGED["state"])
    for path, value in case["changes"]:
        at = state
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
    assert violations(from_json(state)) == case["breaches"]


def test_state_without_configuration_has_no_breach() -> None:
    assert violations(new_state()) == []


def ledger(*granted: int) -> Any:
    rows = [SimpleNamespace(req=f"r{i}", granted=n) for i, n in enumerate(granted, start=1)]
    return SimpleNamespace(rows=rows)


def test_step_grants_no_more_than_its_budget_and_the_configurations() -> None:
    config, begin = {"max_num_batched_tokens": 12}, SimpleNamespace(budget=12)
    assert step_violations(config, begin, ledger(8, 4)) == []
    told = ["the grants add up to 13 tokens, the budget is 12"]
    assert step_violations(config, begin, ledger(8, 5)) == told
    assert step_violations(config, SimpleNamespace(budget=99), ledger(13)) == told


def test_negative_grant_makes_no_room_for_another() -> None:
    config, begin = {"max_num_batched_tokens": 12}, SimpleNamespace(budget=12)
    told = ["r2 is granted -3 tokens"]
    assert step_violations(config, begin, ledger(12, -3)) == told
