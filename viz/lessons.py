"""The lessons by HTTP, for the page's lesson rail.

    GET /api/lessons           which there are, and how far this machine's reader is
    GET /api/lessons/SLUG      one: its text and hints as trees (prose.py), its walk, its knobs

A lesson's recorded run is one of the catalogue's, marked with the lesson's name. Nothing but what
``minivllm/learn/lessons.py`` lists can be asked for.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Flask, Response, abort, jsonify, request

from minivllm.errors import LessonError
from minivllm.learn.lessons import Lesson, Lessons
from minivllm.learn.progress import LessonProgress, Progress, progress_path, read_progress
from viz.access import Access
from viz.problem import problem
from viz.prose import headed, tree_of
from viz.runs import Catalogue


def add_lesson_pages(
    app: Flask, catalogue: Catalogue, access: Access, lessons: Lessons | None
) -> None:
    known = lessons.all() if lessons is not None else []
    runs = {
        lesson.slug: catalogue.add_file(lesson.recording, lesson.slug)
        for lesson in known
        if lesson.recording is not None
    }

    def check_access() -> None:
        if not access.may_look(request):
            abort(problem(403, "this dashboard needs its join code: open /?code=CODE"))

    @app.get("/api/lessons")
    def list_lessons() -> Response:
        check_access()
        progress, trouble = _progress()
        found = lessons.all() if lessons is not None else []
        rows = [_row(lesson, runs, progress.lessons.get(lesson.slug)) for lesson in found]
        return jsonify({"lessons": rows, "trouble": trouble})

    @app.get("/api/lessons/<slug>")
    def lesson(slug: str) -> Response:
        check_access()
        found = lessons.find(slug) if lessons is not None else None
        if found is None:
            abort(problem(404, f"there is no lesson {slug[:100]!r}"))
        progress, trouble = _progress()
        return jsonify(
            {
                **_row(found, runs, progress.lessons.get(slug)),
                "text": tree_of(found.text()),
                "hints": headed(found.hints()),
                "tour": found.tour(),
                "scenario": found.slug if found.scenario is not None else None,
                "trouble": trouble,
            }
        )

    @app.errorhandler(LessonError)
    def broken_lesson(error: LessonError) -> Response:
        return problem(422, str(error))


def _progress() -> tuple[Progress, str]:
    """A broken file is told, and nothing else of the lesson suffers."""
    try:
        return read_progress(progress_path()), ""
    except LessonError as error:
        return Progress(), str(error)


def _row(lesson: Lesson, runs: dict[str, str], progress: LessonProgress | None) -> dict[str, Any]:
    return {
        "slug": lesson.slug,
        "number": lesson.number,
        "title": lesson.title,
        "run": runs.get(lesson.slug),
        "exercise": lesson.has_exercise,
        "progress": msgspec.to_builtins(progress) if progress is not None else None,
    }
