"""The README's walk-through says what the debugger says."""

from __future__ import annotations

import re

from minivllm.terminal.runs import open_run
from minivllm.terminal.session import Session
from tests.conftest import ROOT

PROMPT = "    step> "


def walk_through() -> list[tuple[str, list[str]]]:
    """What is typed, and what of the answer is quoted."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## A debugger for the engine\n")[1].split("\n## ")[0]
    typed: list[tuple[str, list[str]]] = []
    for paragraph in section.split("\n\n"):
        for line in paragraph.splitlines() if PROMPT in paragraph else ():
            if line.startswith(PROMPT):
                typed.append((line.removeprefix(PROMPT), []))
            elif typed:
                typed[-1][1].append(line[4:])
    return typed


def test_walk_through_finds_the_cause_of_a_preemption() -> None:
    session = Session(open_run("tiny-pressure", {}), width=100)
    typed = walk_through()
    assert [line for line, _ in typed][:3] == ["until preempt", "why r4", "tables"]
    assert sum(len(quoted) for _, quoted in typed) >= 14
    for line, quoted in typed:
        said = [answer.plain.rstrip() for answer in session.execute(line).lines]
        for expected in quoted:
            pattern = re.escape(expected.rstrip()).replace("…", ".*")
            assert any(re.fullmatch(pattern, answer) for answer in said), (line, expected, said)
    session.close()
