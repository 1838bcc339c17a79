"""A lesson tells the truth about the code: names exist, quoted lines stand there, commands run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted(path for path in (ROOT / "lessons").iterdir() if path.is_dir())
WORDS_A_MINUTE, MINUTES = 220, 5


@dataclass(frozen=True)
class Block:
    """A fenced block of a lesson's text."""

    lesson: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.lesson}: {self.text.splitlines()[0][:40]}"


def prose(lesson: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(lesson.glob("*.md")))


def blocks(kind: str) -> list[Block]:
    found = []
    for lesson in LESSONS:
        for info, text in re.findall(r"^```(\w[^\n]*)\n(.*?)^```", prose(lesson), re.M | re.S):
            if info.split()[0] == kind:
                found.append(Block(lesson.name, info, text))
    return found


def named(lesson: Path) -> list[str]:
    """``path#symbol`` of this project, wherever the text has it."""
    return sorted(set(re.findall(r"\b(?:minivllm|viz)/[\w/.]+\.py#[\w.]+", prose(lesson))))


def source_of(reference: str) -> str:
    """The text of ``path#Class.method``. Raises LookupError when it does not exist."""
    path, _, symbol = reference.partition("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for name in symbol.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        inside = [n for n in ast.iter_child_nodes(node) if isinstance(n, kinds)]
        node = next((n for n in inside if n.name == name), None)  # type: ignore[assignment]
        if node is None:
            raise LookupError(f"{path} has no {symbol}")
    return ast.get_source_segment(text, node) or ""


@pytest.mark.parametrize("reference", [r for lesson in LESSONS for r in named(lesson)])
def test_every_name_in_a_lesson_exists(reference: str) -> None:
    assert source_of(reference)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_every_file_a_lesson_names_exists(lesson: Path) -> None:
    for path in re.findall(r"\b(?:minivllm|viz|tests|lessons)/[\w/.-]+\.\w+", prose(lesson)):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_quoted_code_stands_in_the_source(block: Block) -> None:
    source = [line.strip() for line in source_of(block.info.split()[1]).splitlines()]
    at = 0
    for line in block.text.splitlines():
        assert line.strip() in source[at:], f"{block.info}: {line}"
        at = source.index(line.strip(), at) + 1


def run(block: Block, home: Path) -> None:
    """Each line of a console block, with this Python in the place of the environment's."""
    for line in block.text.splitlines():
        words = shlex.split(line)
        assert words[0].startswith(".venv/bin/"), f"{line}: a command of the environment"
        tool = words[0].removeprefix(".venv/bin/")
        program = {"python": [sys.executable], "minivllm": [sys.executable, "-m", "minivllm"]}[tool]
        done = subprocess.run(
            [*program, *words[1:]],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            timeout=280,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


ON_ITS_OWN = [block for block in blocks("console") if block.info == "console"]
WITH_MODEL = [block for block in blocks("console") if block.info == "console model"]


@pytest.mark.parametrize("block", ON_ITS_OWN, ids=str)
def test_commands_of_a_lesson_run(block: Block, tmp_path: Path) -> None:
    run(block, tmp_path)


@pytest.mark.model
@pytest.mark.parametrize("block", WITH_MODEL, ids=str)
def test_commands_of_a_lesson_run_on_the_model(block: Block, tmp_path: Path) -> None:
    run(block, tmp_path)


def test_no_console_block_is_passed_over() -> None:
    assert len(ON_ITS_OWN) + len(WITH_MODEL) == len(blocks("console")) > 0


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_a_lesson_is_read_in_five_minutes(lesson: Path) -> None:
    text = (lesson / "README.md").read_text(encoding="utf-8")
    told = re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    words = re.findall(r"\w+", told)
    assert len(words) <= WORDS_A_MINUTE * MINUTES


def test_the_check_finds_what_is_not_there() -> None:
    for wrong in ("minivllm/core/scheduler.py#Scheduler.nope", "minivllm/core/scheduler.py#nope"):
        with pytest.raises(LookupError):
            source_of(wrong)
