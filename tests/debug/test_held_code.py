"""Held by set_trace, a student sees the line that asked for it, and its locals, before all else."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from minivllm.debug import Stepper
from minivllm.terminal.board import board
from minivllm.terminal.runs import open_run
from minivllm.terminal.session import Session
from minivllm.terminal.verbs import VerbError
from tests.terminal.screens import Terminal

MINE = """
import minivllm.debug
from minivllm.core.scheduler import Scheduler

class Shy:
    def __repr__(self):
        raise ValueError("do not look")

class Mine(Scheduler):
    def schedule(self):
        head, shy, long = len(self.running), Shy(), list(range(10_000))
        words = "x" * 9000 + "\\x1b[31m"
        if self.current_step == 6:
            minivllm.debug.set_trace()
        if self.current_step in (6, 9):
            breakpoint()
        return super().schedule()
"""
FIRST, SECOND = 14, 16
"""The lines of set_trace and breakpoint."""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PYTHONBREAKPOINT", "minivllm.debug.set_trace")
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE), encoding="utf-8")
    return f"{file}:Mine"


@pytest.fixture
def session(mine: str) -> Iterator[Session]:
    made = Session(open_run("tiny-pressure", {"scheduler_cls": mine}), width=100)
    with contextlib.closing(made):
        yield made


def plain(session: Session, line: str) -> list[str]:
    return [text.plain.rstrip() for text in session.execute(line).lines]


def test_where_begins_with_the_line_that_asked_for_it(session: Session) -> None:
    assert plain(session, "next 7")[0] == (
        f"break code: held by mine.py:{FIRST} Mine.schedule; clear code lets it be"
    )
    lines = plain(session, "where")
    assert lines[0] == f"mine.py:{FIRST} Mine.schedule, where the code asked to be held"
    here = next(line for line in lines if line.startswith("▸"))
    assert f" {FIRST}  " in here and "minivllm.debug.set_trace()" in here
    assert any("locals: self, head, shy, long, words" in line for line in lines)
    assert any("engine_core.py" in line and "step.begin" in line for line in lines)
    data = session.execute("where").data
    assert (data["file"], data["line"], data["function"]) == ("mine.py", FIRST, "Mine.schedule")
    assert data["locals"]["head"] == "3" and data["event"]["kind"] == "step.begin"
    assert plain(session, "next")[0].startswith(f"break code: held by mine.py:{SECOND} Mine.sch")
    assert session.execute("where").data["line"] == SECOND, "breakpoint() is told by its own line"
    assert "locals" not in session.execute("where step.begin").data, "what was named is meant"


def test_its_locals_are_cut_and_what_repr_raises_is_told(session: Session) -> None:
    assert plain(session, "locals")[0].startswith("no code holds the engine here")
    assert session.execute("locals").data == {}
    session.execute("next 7")
    lines = plain(session, "locals")
    assert "head   3" in lines and "long   [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...]" in lines
    assert "shy    <Shy: its repr raises ValueError>" in lines
    assert all(len(line) <= 100 and "\x1b" not in line for line in lines)
    reply = session.execute("locals")
    assert json.loads(json.dumps(reply.data)) == reply.data
    assert list(reply.data) == ["self", "head", "shy", "long", "words"]
    assert len(reply.data["words"]) <= 400
    assert list(session.execute("locals head").data) == ["head"]
    with pytest.raises(VerbError, match="locals tail: there are: self, head, shy, long, words"):
        session.execute("locals tail")
    session.execute("back")
    assert session.execute("locals").data == {}


@pytest.mark.parametrize(("width", "height"), [(120, 40), (200, 60), (100, 30)])
def test_the_boards_source_shows_that_line(session: Session, width: int, height: int) -> None:
    session.execute("next 7")
    lines = [line.plain for line in board(session.view, width, height)]
    at = next(i for i, line in enumerate(lines) if "SOURCE" in line)
    assert f"mine.py:{FIRST} Mine.schedule" in lines[at + 1]
    assert any("▸" in line and "minivllm.debug.set_trace()" in line for line in lines[at:])
    assert height < 60 or any("head   3" in line for line in lines[at:])
    assert any(f"held by mine.py:{FIRST} Mine.schedule" in line for line in lines[:4])
    session.execute("clear code")
    session.execute("next 2")
    assert not any("mine.py" in line.plain for line in board(session.view, width, height))


def test_a_stepper_has_it_and_the_screen_says_it(mine: str, tmp_path: Path) -> None:
    with Stepper("tiny-pressure", scheduler_cls=mine) as s:
        assert s.held is None and s.go() is None
        assert s.held is not None and s.held.line == FIRST and s.held.locals["head"] == "3"
        s.next()
        s.next()
        assert s.held is None
    with Terminal(tmp_path, "step", "--scheduler-cls", mine) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("c")
        terminal.wait_for(f"break code: held by mine.py:{FIRST} Mine.schedule; clear code lets")
        terminal.type("where")
        terminal.wait_for(f"▸         {FIRST}          minivllm.debug.set_trace()")
        terminal.type("locals")
        terminal.wait_for("shy    <Shy: its repr raises ValueError>")
        terminal.type("pin locals")
        terminal.wait_for("── pinned: the locals of mine.py:14 Mine.schedule")
        terminal.type("quit")
        assert terminal.status() == 0
