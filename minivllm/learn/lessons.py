"""The lessons: folders ``lessons/NN-slug`` beside the package, and what is in each.

    README.md            five minutes of text; its first line is the title
    tour.json            the walk on the dashboard, its questions, the knobs to turn
                         (viz/static/core/tour.js tells its fields)
    golden.trace.jsonl   the run that the walk is made on: ``minivllm trace record scenario.toml``
    scenario.toml        who arrives when; run anew with other knobs
    hints.md             under each heading a numbered list, a hint an item
    exercise.py          what the reader writes, where the lesson has an exercise

They are found by name among the folders that are there; no name from outside becomes a path. What
stands in a lesson is read when it is asked for, so a text can be written with the page open.
No counterpart in vLLM.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minivllm
from minivllm.errors import LessonError

_NAME = re.compile(r"(\d\d)-[a-z0-9]+(?:-[a-z0-9]+)*")
_DIRECTORY = Path(minivllm.__file__).parents[1] / "lessons"


@dataclass(frozen=True, slots=True)
class Lesson:
    slug: str
    directory: Path

    @property
    def number(self) -> int:
        return int(self.slug[:2])

    @property
    def title(self) -> str:
        """The text's first heading, without the number in front of it."""
        first = self.text().splitlines()[0] if self.text() else ""
        return re.sub(r"^#\s*(\d+\s*·\s*)?", "", first).strip() or self.slug

    def text(self) -> str:
        return self._read("README.md") or ""

    def hints(self) -> str:
        return self._read("hints.md") or ""

    def tour(self) -> dict[str, Any] | None:
        """Raises LessonError where it is broken."""
        text = self._read("tour.json")
        if text is None:
            return None
        try:
            tour = json.loads(text)
        except ValueError as error:
            raise LessonError(f"lesson {self.slug}: tour.json is no JSON: {error}") from error
        if not isinstance(tour, dict) or not isinstance(tour.get("stops"), list):
            raise LessonError(f"lesson {self.slug}: tour.json has no list of stops")
        return tour

    @property
    def recording(self) -> Path | None:
        return self._file("golden.trace.jsonl")

    @property
    def scenario(self) -> Path | None:
        return self._file("scenario.toml")

    @property
    def has_exercise(self) -> bool:
        return self._file("exercise.py") is not None

    def _file(self, name: str) -> Path | None:
        """One of the files above; a link that leads out of the folder is none of them."""
        path = self.directory / name
        is_here = path.resolve().parent == self.directory.resolve()
        return path if path.is_file() and is_here else None

    def _read(self, name: str) -> str | None:
        """Raises LessonError."""
        path = self._file(name)
        try:
            return None if path is None else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LessonError(f"lesson {self.slug}: {name} cannot be read: {error}") from error


class Lessons:
    """Those of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def all(self) -> list[Lesson]:
        """In order of their numbers."""
        if not self.directory.is_dir():
            return []
        folders = sorted(p for p in self.directory.iterdir() if _NAME.fullmatch(p.name))
        return [Lesson(p.name, p) for p in folders if p.is_dir() and not p.is_symlink()]

    def find(self, slug: str) -> Lesson | None:
        return next((lesson for lesson in self.all() if lesson.slug == slug), None)


def find_lessons() -> Lessons:
    """Those beside the package; it has none where it was installed without its repository."""
    return Lessons(_DIRECTORY)
