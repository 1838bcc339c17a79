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
        said = "".join(answer.plain.rstrip() + "\n" for answer in session.execute(line).lines)
        assert re.fullmatch(as_pattern(quoted), said), (line, quoted, said)
    session.close()


def as_pattern(quoted: list[str]) -> str:
    """What is quoted stands so in the answer, all of it, but for what … stands for: a line … for
    one or more lines, within a line for a piece of it."""
    return "".join(
        r"(?:.+\n)+?" if line == "…" else re.escape(line).replace("…", ".+") + r"\n"
        for line in quoted
    )


def test_an_omission_that_is_not_marked_is_found() -> None:
    assert re.fullmatch(as_pattern(["a", "…", "d:… e"]), "a\nb\nc\nd:5 e\n")
    for quoted in (["a", "d:… e"], ["a", "…"], ["…", "d:5"]):
        said = "a\nb\nc\nd:5 e\n" if quoted != ["a", "…"] else "a\n"
        assert not re.fullmatch(as_pattern(quoted), said)
