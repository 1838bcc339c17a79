"""What the pool view and the drawers are made of; ``views.test.mjs`` holds the page to it."""

from __future__ import annotations

import json

from tests.viz import kinds, make_lens
from tests.viz.make_views import FILE, all_views


def test_views_on_file_are_what_python_makes_of_the_vectors() -> None:
    """Otherwise: ``python -m tests.viz.make_views``."""
    assert json.loads(FILE.read_text()) == all_views()


def test_kinds_on_the_page_are_what_the_events_say_of_themselves() -> None:
    """Otherwise: ``python -m tests.viz.kinds``."""
    assert kinds.FILE.read_text(encoding="utf-8") == kinds.written()


def test_lens_answers_on_file_are_what_python_answers() -> None:
    """Otherwise: ``python -m tests.viz.make_lens``."""
    assert json.loads(make_lens.FILE.read_text()) == make_lens.answers()
