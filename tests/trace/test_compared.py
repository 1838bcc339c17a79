"""What two of the vectors come to is what the code gives now; the page's twins are held to it."""

from __future__ import annotations

from tests.vectors.compared import COMPARED, make_compared


def test_what_two_vectors_come_to_is_up_to_date() -> None:
    committed = COMPARED.read_text(encoding="utf-8")
    assert committed == make_compared(), "run: python -m tests.vectors.compared"
