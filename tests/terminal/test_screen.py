"""The debugger in a real terminal: typed at, read off, resized, interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from minivllm.terminal.board import board
from minivllm.terminal.runs import open_run
from minivllm.terminal.verbs import Session
from tests.terminal.screens import Terminal

HEADLINE_8 = "r4 is preempted: r3 needs 1 block, 0 are free, r4 came last."
SIZES = [(80, 24), (200, 60)]


def drawn(step: int, columns: int, rows: int, ran: int) -> list[str]:
    """The board as it must stand above message and prompt, when ``ran`` steps have run."""
    session = Session(open_run("tiny-pressure", {}))
    session.forward(ran)
    session.execute(f"goto {step}")
    lines: list[Text] = board(session.view, columns, rows - 2, label=session.run.label)
    session.close()
    return [without_times(line.plain.rstrip()) for line in lines]


def without_times(line: str) -> str:
    return line if "_ns=" not in line and " ns=" not in line else line[:40]


def board_on(lines: list[str]) -> list[str]:
    return [without_times(line) for line in lines[:-2]]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_every_step_is_on_the_screen_as_the_fold_has_it(
    tmp_path: Path, columns: int, rows: int
) -> None:
    with Terminal(tmp_path, "step", columns=columns, rows=rows) as terminal:
        terminal.wait_for("Nothing has run yet")
        for step in range(1, 18):
            terminal.press("enter")
            expected = drawn(step, columns, rows, ran=step)
            terminal.wait(lambda lines, expected=expected: board_on(lines) == expected)  # type: ignore[misc]
        terminal.type("quit")
        assert terminal.status() == 0


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_back_then_forward_gives_the_same_screen(tmp_path: Path, columns: int, rows: int) -> None:
    with Terminal(tmp_path, "step", columns=columns, rows=rows) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 17")
        terminal.wait_for("step 17 of 17")
        for step in (9, 8):
            terminal.type(f"goto {step}")
            terminal.wait_for(f"step {step} of 17")
        before = terminal.settle()
        terminal.type("back 3")
        terminal.wait_for("step 5 of 17")
        terminal.type("next 3")
        terminal.wait_for("step 8 of 17")
        assert terminal.settle() == before


def test_why_answers_over_the_board_and_escape_closes_it(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("goto 9")
        terminal.wait_for("r4 waits: it needs 3 blocks")
        before = terminal.settle()
        terminal.type("why r4")
        lines = terminal.wait_for("Its 11 tokens need 3 blocks; 2 are free.")
        assert any("no_free_blocks" in line for line in lines)
        assert any("scheduler.py:" in line for line in lines)
        assert any("r4 waits: it needs 3 blocks" in line for line in lines[:3])
        terminal.press("escape")
        terminal.wait(lambda lines: lines == before)


def test_bad_input_is_told_in_the_message_line(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        before = terminal.settle()
        terminal.type("frobnicate")
        lines = terminal.wait_for("'frobnicate' is no verb")
        assert lines[:-2] == before[:-2]
        terminal.type("why r9")
        terminal.wait_for("no such request at step 0; there are: none yet")


def test_resize_redraws_for_the_new_size(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 8")
        terminal.wait_for(HEADLINE_8)
        for columns, rows in [(200, 60), (50, 16), (80, 24)]:
            terminal.resize(columns, rows)
            expected = drawn(8, columns, rows, ran=8)
            terminal.wait(lambda lines, expected=expected: board_on(lines) == expected)  # type: ignore[misc]


def test_a_tiny_terminal_still_tells_the_story(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", columns=30, rows=8) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 4")
        terminal.wait_for("4: r4 waits")


def test_no_color_sends_no_colour_and_shows_the_same(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 8")
        terminal.wait(lambda lines: board_on(lines) == drawn(8, 80, 24, ran=8))
        coloured = (b"\x1b[38;", b";38;5", b";38;2", b"48;5", b"48;2")
        assert not any(code in terminal.raw for code in coloured)


def test_colours_are_there_without_no_color(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", env={"COLORTERM": "truecolor"}) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 8")
        terminal.wait_for(HEADLINE_8)
        assert b"38;5;" in terminal.settle_raw() or b"38;2;" in terminal.raw


def test_ctrl_c_clears_the_line_then_leaves_a_sane_terminal(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.press("goto 8")
        terminal.wait_for("step> goto 8")
        terminal.press("ctrl-c")
        terminal.wait(lambda lines: lines[-1] == "step>")
        terminal.press("ctrl-c")
        assert terminal.status() == 130


def test_ctrl_d_leaves_a_sane_terminal(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.press("ctrl-d")
        assert terminal.status() == 0


def test_history_and_completion(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("goto 8")
        terminal.wait_for(HEADLINE_8)
        terminal.press("up")
        terminal.wait_for("step> goto 8")
        terminal.press("ctrl-c", "req", "tab")
        terminal.wait_for("step> request")
    with Terminal(tmp_path, "step") as terminal:  # kept for the next time
        terminal.wait_for("Nothing has run yet")
        terminal.press("up")
        terminal.wait_for("step> goto 8")


def test_long_answers_scroll(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("goto 12")
        terminal.wait_for("r4 resumes")
        terminal.type("events")
        terminal.wait_for("PageUp and PageDown scroll")
        terminal.press(*["pagedown"] * 4)
        terminal.wait_for("step.end")
