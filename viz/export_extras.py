"""What an exported file takes along besides its runs: the lessons' texts, a run's worksheet.

Both are made when the file is, since a page without a server can make neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from minivllm.errors import MiniVLLMError
from minivllm.learn.lessons import Lesson, Lessons
from minivllm.trace.events import Header
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.worksheet import asked_columns, make_sheet
from minivllm.trace.worksheet_page import sheet_page
from viz.prose import headed, tree_of
from viz.runs import Run

MAX_SHEET_BYTES = 200_000
MAX_LESSON_BYTES = 200_000
"""Of all lessons together; the later ones stay out."""


def lessons_inside(lessons: Lessons, runs: Sequence[Run]) -> dict[str, Any]:
    """As ``viz/lessons.py`` answers the list and each lesson. A lesson whose run is not in the file
    can be read, but not walked; how far its reader is, is nobody else's business."""
    given = {run.lesson or _lesson_of(run): run.id for run in runs}
    packed: list[dict[str, Any]] = []
    size = 0
    for lesson in lessons.all():
        try:
            row = _lesson(lesson, given.get(lesson.slug))
        except MiniVLLMError:
            continue  # the served page tells what is wrong with it
        size += len(msgspec.json.encode(row))
        if size > MAX_LESSON_BYTES:
            break
        packed.append(row)
    rows = ("slug", "number", "title", "run", "exercise", "progress")
    return {
        "lessons": [{name: each[name] for name in rows} for each in packed],
        "texts": {each["slug"]: each for each in packed},
    }


def _lesson(lesson: Lesson, run: str | None) -> dict[str, Any]:
    return {
        "slug": lesson.slug,
        "number": lesson.number,
        "title": lesson.title,
        "run": run,
        "exercise": lesson.has_exercise,
        "progress": None,
        "text": tree_of(lesson.text()),
        "hints": headed(lesson.hints()),
        "tour": lesson.tour() if run is not None else None,
        "scenario": None,  # to run it anew takes a server
        "trouble": "",
    }


def _lesson_of(run: Run) -> str:
    """A lesson's recording that was given by its path."""
    path = getattr(run, "path", None)
    return path.parent.name if path is not None and path.name == "golden.trace.jsonl" else ""


def worksheet_inside(run: Run, lines: Sequence[bytes]) -> str | None:
    """The blank and the filled sheet of an engine's events as a page; None where it is too large
    for one page of paper, or for a file to take along."""
    header = msgspec.convert(run.header(), Header)
    try:
        sheet = make_sheet(Trace(header, [decode_event(line) for line in lines], run.id))
        page = sheet_page(sheet, [True, False], asked_columns("", "ask"))
    except MiniVLLMError:
        return None
    return page if len(page) <= MAX_SHEET_BYTES else None
