"""The shared vectors are what the code gives now; the page's twins are tested on the same files."""

from __future__ import annotations

import pytest

from tests.vectors.make import FRONT, HERE, TRACES, VECTORS, WAYS, make, make_front, make_ways


@pytest.mark.parametrize("name", [*VECTORS, *TRACES])
def test_vector_is_up_to_date(name: str) -> None:
    committed = (HERE / f"{name}.json").read_text(encoding="utf-8")
    assert committed == make(name), "run: python -m tests.vectors.make, and look at the difference"


def test_front_ends_vector_is_up_to_date() -> None:
    assert FRONT.read_text(encoding="utf-8") == make_front(), "run: python -m tests.vectors.make"


def test_vector_of_the_ways_is_up_to_date() -> None:
    assert WAYS.read_text(encoding="utf-8") == make_ways(), "run: python -m tests.vectors.make"
