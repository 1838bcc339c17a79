"""The list of broken lines is up to date, and breaking them is noticed (here, three of them)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutations.catalogue import MUTATIONS, ROOT, Mutation
from tests.mutations.run import copy_tree, first_failure


def test_every_line_stands_where_it_is_said_to_and_still_compiles_when_broken() -> None:
    for mutation in MUTATIONS:
        ast.parse(mutation.applied())
        assert mutation.old != mutation.new


def test_every_actor_of_the_core_is_broken_somewhere() -> None:
    broken = {mutation.file for mutation in MUTATIONS}
    core = {f"core/{path.name}" for path in (ROOT / "minivllm/core").glob("*.py")}
    without_decisions = {"__init__.py", "checked.py", "interfaces.py", "own_class.py"}
    without_decisions |= {"scheduler_output.py"}
    assert core - broken == {f"core/{name}" for name in without_decisions}


def test_a_line_that_is_gone_is_named() -> None:
    gone = Mutation("core/step.py", "no such line", "pass", "nothing")
    with pytest.raises(LookupError, match=r"core/step\.py has 'no such line' 0 times"):
        gone.applied()


@pytest.mark.parametrize(
    ("breaks", "test"),
    [
        ("the watermark holds up who is alone", "test_admission.py"),
        ("heads are evicted before tails", "test_block_pool.py"),
        ("all free blocks are one gap", "test_contiguous.py"),
    ],
)
def test_a_broken_line_is_noticed(tmp_path: Path, breaks: str, test: str) -> None:
    (mutation,) = [m for m in MUTATIONS if m.breaks == breaks]
    failure = first_failure(copy_tree(tmp_path), mutation, [f"tests/core/{test}"])
    assert failure is not None and failure.startswith(f"core/{test}::test_")


def test_a_line_that_breaks_nothing_is_reported(tmp_path: Path) -> None:
    harmless = Mutation("core/step.py", "budget: int  # tokens left", "budget: int", "nothing")
    tests = ["tests/core/test_block_pool.py"]
    assert first_failure(copy_tree(tmp_path), harmless, tests) is None
