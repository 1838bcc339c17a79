"""Our scheduler decides what vLLM's decided: the same plans, compared step by step.

vLLM itself is not needed here; ``vectors.json.gz`` holds what it did (README.md).
"""

from __future__ import annotations

import collections
import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.faithful.compare import compare
from tests.faithful.coverage import WANTED, labels
from tests.faithful.drive_minivllm import drive
from tests.faithful.intended import INTENDED, IntendedDifference
from tests.faithful.plans import Plan, random_plan
from tests.faithful.records import Record, first_difference

HERE = Path(__file__).parent
SHARES = 8


@lru_cache
def vectors() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress((HERE / "vectors.json.gz").read_bytes()))
    return content


def plans_of(share: int) -> list[tuple[Plan, list[Record]]]:
    some = vectors()["plans"][share::SHARES]
    return [(Plan.from_json(one["plan"]), one["steps"]) for one in some]


@pytest.mark.parametrize("share", range(SHARES))
def test_every_step_is_vllms(share: int) -> None:
    for plan, theirs in plans_of(share):
        parted = compare(plan, theirs, collections.Counter())
        assert parted is None, f"{plan.name}: {parted}"


def test_vectors_have_every_knob_and_every_event() -> None:
    had: collections.Counter[str] = collections.Counter()
    for share in range(SHARES):
        for plan, _ in plans_of(share):
            had.update(labels(plan, drive(plan)))
    assert {label for label in WANTED if had[label] < 5} == set()


@pytest.mark.parametrize("one", INTENDED, ids=lambda one: one.name)
def test_intended_difference_shows_where_it_is_said_to(one: IntendedDifference) -> None:
    parted = first_difference(vectors()["intended"][one.name], drive(one.plan).steps)
    assert parted is not None, "no difference any more: strike it from the list"
    assert (parted.step, parted.field) == one.parts_at, parted
    assert f"**{one.name}**" in (HERE / "README.md").read_text(), "README.md does not list it"


def test_a_plan_can_be_made_again_from_its_seed() -> None:
    for plan, _ in plans_of(0):
        assert random_plan(int(plan.name.split()[1])) == plan


def test_a_changed_decision_is_noticed() -> None:
    plan, theirs = plans_of(0)[0]
    for step, record in enumerate(theirs):
        for field in record:
            altered = [*theirs[:step], {**record, field: "otherwise"}, *theirs[step + 1 :]]
            parted = first_difference(altered, drive(plan).steps)
            assert parted is not None and (parted.step, parted.field) == (step + 1, field)
