"""Lesson 0: the questions are graded from the trace, the way is told from it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import RunPython

ROOT = Path(__file__).resolve().parents[2]
LESSON = ROOT / "lessons/00-life-of-a-request"


@pytest.fixture(scope="module")
def lesson() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lesson_00", LESSON / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lesson_00"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def run(lesson: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return int(lesson.main())


def test_right_answers_are_right(
    lesson: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lesson, monkeypatch, "--answers", "3 R4 7") == 0
    out = capsys.readouterr().out
    assert "3 of 3 predicted." in out
    assert "Right: r4." in out and "r3 needs 1 more block; 0 are free." in out


def test_wrong_answers_are_told_what_was(
    lesson: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lesson, monkeypatch, "--answers", "11 r1")
    out = capsys.readouterr().out
    assert "3, not 11." in out and "r4, not r1." in out
    assert "0 of 3 predicted." in out


def test_answers_are_asked_for_before_anything_has_run(
    lesson: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    given = iter(["3", "r3", "7"])

    def answer(prompt: str) -> str:
        assert "finishes" not in capsys.readouterr().out
        return next(given)

    monkeypatch.setattr("builtins.input", answer)
    run(lesson, monkeypatch)
    assert "2 of 3 predicted." in capsys.readouterr().out


def test_the_way_names_every_decision_about_r4(
    lesson: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lesson, monkeypatch)
    way = capsys.readouterr().out.split("The way of r4")[1]
    for told in (
        "step   4  5 the border",
        "not now: no_budget (need 8, have 0)",
        "gives way to r3, loses 10 computed tokens",
        "not now: no_free_blocks (need 3, have 2)",
        "takes [10, 5] from the free queue",
        "runs 7 from position 4 (resume)",
        "finishes: length",
    ):
        assert told in way
    for file, line in re.findall(r"(minivllm/[\w/]+\.py):(\d+)", way):
        source = (ROOT / file).read_text().splitlines()
        near = "\n".join(source[int(line) - 3 : int(line) + 2])
        assert "emit" in near, f"{file}:{line}"


def test_hops_are_numbered_as_the_text_numbers_them(lesson: ModuleType) -> None:
    text = (LESSON / "README.md").read_text()
    numbered = dict(re.findall(r"^\| (\d+) ([^|]+?) \|", text, re.M))
    assert list(numbered) == [str(n) for n in range(1, 16)]
    for hop, _ in lesson.HOPS.values():
        number, name = hop.split(" ", 1)
        assert numbered[number] == name


def test_hints_belong_to_the_questions(lesson: ModuleType) -> None:
    hints = re.findall(r"^## (.+)$", (LESSON / "hints.md").read_text(), re.M)
    assert len(hints) == len(lesson.QUESTIONS)
    for hint, question in zip(hints, lesson.QUESTIONS, strict=True):
        assert re.findall(r"\br\d\b|\d+", hint)[-1] in question.words + f" step {question.step}"


def test_the_lesson_runs_without_the_engine(python_without: RunPython) -> None:
    code = (
        "import runpy\n"
        f"sys.argv = ['run.py', '--answers', '3 r4 7']\n"
        f"try: runpy.run_path({str(LESSON / 'run.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code)\n"
        "print('imported', [m for m in ('torch', 'numpy') if sys.modules.get(m)])\n"
    )
    done = python_without(code)
    assert "3 of 3 predicted." in done.stdout, done.stderr
    assert "status 0\nimported []" in done.stdout


def test_without_the_engine_the_model_part_says_what_is_missing(python_without: RunPython) -> None:
    code = (
        "import runpy\n"
        f"sys.argv = ['run.py', '--answers', '3 r4 7', '--model']\n"
        f"try: runpy.run_path({str(LESSON / 'run.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: print('status', end.code)\n"
    )
    done: subprocess.CompletedProcess[str] = python_without(code)
    assert "status 1" in done.stdout
    assert "the model did not run: " in done.stderr and "minivllm[engine]" in done.stderr
