"""The file that tells how far a reader is."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.errors import LessonError
from minivllm.learn.progress import (
    Check,
    LessonProgress,
    Progress,
    progress_path,
    read_progress,
    write_progress,
)


def test_progress_is_written_whole_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "progress.json"
    assert read_progress(path) == Progress()
    check = Check(at="2026-11-26T00:10:00Z", passed=False, message="first divergence", step=7)
    progress = Progress(lessons={"06-block-pool": LessonProgress(hints=2, check=check)})
    write_progress(path, progress)
    assert read_progress(path) == progress
    assert [file.name for file in path.parent.iterdir()] == ["progress.json"]


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"schema": "minivllm.progress/1.3", "new": 1, "lessons": {"00-a": {"x": 2}}}')
    assert read_progress(path).lessons == {"00-a": LessonProgress()}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"lessons": 3}', '{"schema": "minivllm.progress/2.0", "lessons": {}}']
)
def test_a_broken_file_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(LessonError, match=str(path)):
        read_progress(path)


def test_the_environment_may_say_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVLLM_PROGRESS", "/somewhere/p.json")
    assert progress_path() == Path("/somewhere/p.json")
    monkeypatch.delenv("MINIVLLM_PROGRESS")
    assert progress_path().name == "progress.json"
