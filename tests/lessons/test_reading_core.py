"""The readers' self-test: each question has an answer, and each answer a place that exists."""

from __future__ import annotations

import re

import pytest

from tests.lessons.test_prose import ROOT, named, source_of

TEXT = (ROOT / "docs/reading-core.md").read_text(encoding="utf-8")
QUESTIONS, ANSWERS = (
    dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", part, re.M | re.S))
    for part in TEXT.split("## Answers")
)


def test_each_question_has_an_answer_that_names_a_place() -> None:
    assert len(QUESTIONS) >= 10 and list(QUESTIONS) == list(ANSWERS)
    for number, answer in ANSWERS.items():
        assert re.search(r"`minivllm/[\w/]+\.py#[\w.]+`", answer), number


@pytest.mark.parametrize("place", named(ROOT / "docs"))
def test_every_place_exists(place: str) -> None:
    assert source_of(place)


def test_questions_do_not_give_the_place_away() -> None:
    assert not any(".py" in question for question in QUESTIONS.values())
