"""The debugger in a real terminal: typed at, read off, resized, interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.text import Text

from minivllm.terminal.board import board
from minivllm.terminal.runs import open_run
from minivllm.terminal.screen import Screen
from minivllm.terminal.verbs import Session
from tests.terminal.screens import HANG_S, ROOT, Terminal

HEADLINE_8 = "r4 is preempted: r3 needs 1 block, 0 are free, r4 came last."
SIZES = [(80, 24), (200, 60)]


def drawn(step: int, columns: int, rows: int, ran: int) -> list[str]:
    """The board as it must stand above message and prompt, when ``ran`` steps have run."""
    session = Session(open_run("tiny-pressure", {}))
    session.forward(ran)
    session.execute(f"goto {step}")
    label = session.run.label
    lines: list[Text] = board(session.view, columns, rows - 2, label=label, below=2)
    session.close()
    return [without_times(line.plain.rstrip()) for line in lines]


def without_times(line: str) -> str:
    return line if "_ns=" not in line and " ns=" not in line else line[:40]


def board_on(lines: list[str]) -> list[str]:
    return [without_times(line) for line in lines[:-2]]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_the_screen_is_what_the_fold_says_forward_and_back(
    tmp_path: Path, columns: int, rows: int
) -> None:
    with Terminal(tmp_path, "step", columns=columns, rows=rows) as terminal:
        terminal.wait_for("Nothing has run yet")
        for step in range(1, 18) if columns == 80 else (1, 2, 3):
            terminal.press("enter")
            expected = drawn(step, columns, rows, ran=step)
            terminal.wait(lambda lines, expected=expected: board_on(lines) == expected)  # type: ignore[misc]
        terminal.type("n 17")
        terminal.wait_for("step 17 of 17")
        terminal.type("goto 8")
        terminal.wait_for("step 8 of 17")
        before = terminal.settle()
        terminal.type("back 3")
        terminal.wait_for("step 5 of 17")
        terminal.type("next 3")
        terminal.wait_for("step 8 of 17")
        assert terminal.settle() == before
        terminal.type("quit")
        assert terminal.status() == 0


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_pasted_lines_are_carried_out_one_by_one(tmp_path: Path, end: str) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        pasted = end.join(["next", "", "next 2", "queue", "why r1"])
        terminal.press(f"\x1b[200~{pasted}\x1b[201~")
        terminal.wait_for("who waits, step 3")
        terminal.wait_for("step> why r1")  # its end was not pasted
        terminal.press(" now", "enter")
        terminal.wait_for("why takes one of")
        terminal.type("quit")
        assert terminal.status() == 0


def test_event_by_event_it_shows_the_state_right_behind_each(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", columns=200, rows=60) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("until preempt")
        terminal.wait_for("r4 gives way to r3, which needs 1 block (0 free)")
        lines = terminal.settle()
        assert "schedule, event 167 · step 8" in lines[0]
        assert any(line.startswith("RUNNING 3") or "RUNNING 3," in line for line in lines)
        assert any("▸" in line and "self.trace.emit(" in line for line in lines)  # the source
        terminal.type("event 3")
        terminal.wait_for("r3 takes block 6")
        terminal.wait_for("RUNNING 2,")
        terminal.type("phase")
        terminal.wait_for("TENSORS of the flat batch: 2 tokens")
        terminal.press("enter")
        terminal.wait_for(HEADLINE_8)


def test_why_answers_over_the_board_and_escape_closes_it(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("goto 9")
        terminal.wait_for("r4 waits: it needs 3 blocks")
        before = terminal.settle()
        terminal.type("why r4")
        lines = terminal.wait_for("scheduler.py:217")
        assert any("Its 11 tokens need 3 blocks; 2 are free." in line for line in lines)
        assert any("no_free_blocks" in line for line in lines)
        assert any("scheduler.py:" in line for line in lines)
        assert any("r4 waits: it needs 3 blocks" in line for line in lines[:3])
        terminal.press("escape")
        terminal.wait(lambda lines: lines == before)


def test_what_is_typed_wrongly_and_what_asks_back(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        before = terminal.settle()
        terminal.type("frobnicate")
        lines = terminal.wait_for("'frobnicate' is no verb; help lists what there is")
        assert lines[:-2] == before[:-2]
        terminal.type("why r9")
        terminal.wait_for("no such request at step 0; there are: none yet")
        terminal.type("goto 9")
        terminal.wait_for("step 9")
        terminal.type("back 4")
        terminal.wait_for("step 5 of 9")
        terminal.type("continue")
        terminal.wait_for("the engine stands at 9: go on there, or fork?")
        terminal.wait(lambda lines: lines[-1] == "live or fork?")
        terminal.press("ctrl-c")  # takes the question back, and leaves nothing
        terminal.wait(lambda lines: lines[-1] == "step>" and "nothing was done" in lines[-2])
        terminal.type("set max_num_seqs 1")
        terminal.wait(lambda lines: lines[-1] == "live or fork?")
        terminal.type("f")
        terminal.wait_for("FORK max_num_seqs=1  tiny-pressure")
        told = "a fork from step 6 on with max_num_seqs=1: next runs it, leave goes back"
        terminal.wait(lambda lines: lines[-2] == told)
        terminal.press("enter")
        terminal.wait_for("From here on max_num_seqs is 1.")
        terminal.type("leave")
        terminal.wait_for("step 5 of 9")
        terminal.type("continue")
        terminal.wait(lambda lines: lines[-1] == "live or fork?")
        terminal.type("live")
        terminal.wait_for("step 17 of 17")
        terminal.press("ctrl-c")
        assert terminal.status() == 130


def test_pin_and_zoom_and_a_resize_with_them(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 8")
        terminal.wait_for(HEADLINE_8)
        terminal.type("pin tables")
        lines = terminal.wait_for("── pinned: the block tables, step 8")
        assert any("r3   7 8 9 11 12 13 6+" in line.replace("  7", "   7") for line in lines)
        terminal.press("enter")
        terminal.wait_for("── pinned: the block tables, step 9")
        terminal.resize(120, 40)
        terminal.wait(lambda lines: len(lines) == 40 and any("pinned" in x for x in lines[20:]))
        assert all(len(line) <= 120 for line in terminal.lines)
        terminal.type("pin")
        terminal.wait(lambda lines: not any("── pinned" in line for line in lines))
        terminal.type("zoom map")
        terminal.wait(lambda lines: any("│ ■■■■■■■■■■■■■▒▒" in line for line in lines))
        for columns, rows in [(200, 60), (50, 16), (80, 24)]:
            terminal.resize(columns, rows)
            terminal.type("zoom auto")
            expected = drawn(9, columns, rows, ran=9)
            terminal.wait(lambda lines, expected=expected: board_on(lines) == expected)  # type: ignore[misc]


def test_what_is_pinned_is_shown_once_and_takes_no_blank_lines(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", columns=200, rows=60) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 8")
        terminal.wait_for(HEADLINE_8)
        terminal.type("pin tables")
        terminal.wait_for("── pinned: the block tables, step 8")
        for columns, rows in ((80, 24), (80, 30), (80, 24)):
            terminal.resize(columns, rows)
            terminal.wait(lambda lines, rows=rows: len(lines) == rows and lines[-1] == "step>")  # type: ignore[misc]
            lines = terminal.settle()
            at = next(i for i, line in enumerate(lines) if "── pinned" in line)
            below = lines[at + 1 : -2]
            assert not any("lines more" in line for line in below), below
            assert below[0].startswith("BLOCK TABLES") and all(below), below
            assert sum(line.startswith(" r1 ") for line in below) == 1


def test_the_place_of_what_is_pinned_does_not_go_back_and_forth(tmp_path: Path) -> None:
    screen = Screen(Session(open_run("tiny-pressure", {})))
    session = screen.session
    with contextlib.closing(session):
        session.execute("pin requests")
        heights = []
        for _ in range(17):
            screen.execute("next")
            heights.append(len(screen._pinned(80, 22)))
        assert heights == sorted(heights) and heights[0] < heights[-1]
        screen.execute("goto 1")
        assert len(screen._pinned(80, 22)) == heights[-1]
        screen.execute("pin queue")
        assert len(screen._pinned(80, 22)) < heights[-1]


WIDE = r"""
name = "wide"
[engine]
num_kv_blocks = 12
block_size = 4
[[request]]
arrives = 1
prompt = "你好，世界 👩‍👩‍👧 é"
prompt_token_ids = [1, 2, 3, 4]
prompt_texts = ["你好", "，世界", " 👩‍👩‍👧", " é"]
output_token_ids = [5, 6, 7]
output_texts = [" 日本語", "🙂", "\u001b[31m red"]
output_tokens = 3
"""


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_wide_characters_push_nothing_aside(tmp_path: Path, columns: int, rows: int) -> None:
    file = tmp_path / "wide.toml"
    file.write_text(WIDE, encoding="utf-8")
    with Terminal(tmp_path, "step", str(file), columns=columns, rows=rows) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 3")
        terminal.wait_for("r1 finishes after 3 tokens")
        terminal.type("back")
        terminal.wait_for("日本語🙂")
        lines = terminal.settle()
        session = Session(open_run(str(file), {}))
        session.execute("next 3")
        session.execute("back")
        expected = board(session.view, columns, rows - 2, label=session.run.label)
        session.close()
        assert board_on(lines) == [without_times(line.plain.rstrip()) for line in expected]
        if columns == 200:  # the columns' rules stand one below the other
            rules = {
                tuple(terminal.screen.buffer[y][x].data for x in (43, 132)) for y in range(4, 20)
            }
            assert rules == {("│", "│")}
        assert b"\x1b[31m red" not in terminal.raw


@pytest.mark.parametrize("typed", [[], ["n 3"], ["n 3", "back"], ["n 3", "back", "continue"]])
def test_a_terminal_that_goes_away_ends_it(tmp_path: Path, typed: list[str]) -> None:
    file = tmp_path / "wide.toml"
    file.write_text(WIDE, encoding="utf-8")
    with Terminal(tmp_path, "step", str(file)) as terminal:
        terminal.wait_for("Nothing has run yet")
        for line in typed:
            terminal.type(line)
            terminal.settle()
        assert len(terminal.still_running()) == 2  # the shell and it
    deadline = time.monotonic() + HANG_S
    while terminal.still_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not terminal.still_running()


LONG = """
name = "long"
[engine]
num_kv_blocks = 4000
[[request]]
arrives = 1
prompt_token_ids = [1, 2, 3]
output_tokens = 30000
"""


def test_ctrl_c_stops_what_runs_then_clears_then_leaves(tmp_path: Path) -> None:
    file = tmp_path / "long.toml"
    file.write_text(LONG, encoding="utf-8")
    arguments = ["step", str(file), "--max-model-len", "40000"]
    with Terminal(tmp_path, *arguments) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("continue")
        terminal.wait_for("running …")
        terminal.press("ctrl-c")
        terminal.wait(lambda lines: lines[-1] == "step>" and "running …" not in lines[-2])
        assert "so far" in terminal.lines[0] or "next runs on" in terminal.lines[0]
        terminal.press("goto 8")
        terminal.wait_for("step> goto 8")
        terminal.press("ctrl-c")
        terminal.wait(lambda lines: lines[-1] == "step>")
        terminal.press("ctrl-c")
        assert terminal.status() == 130


def test_a_tiny_terminal_still_tells_the_story(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step", columns=30, rows=8) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("n 4")
        terminal.wait_for("4: r4 waits")
        terminal.wait_for("(the board needs 40×14,")
        terminal.resize(40, 14)
        terminal.wait_for("RUNNING 3")


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


def test_a_recording_opens_without_torch_and_ctrl_d_leaves_a_sane_terminal(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from minivllm.cli.main import app\n"
        "app(['step', 'tiny-pressure.trace.jsonl'], standalone_mode=False)\n"
        "bad = ('torch', 'transformers', 'flask', 'numpy', 'tokenizers', 'zmq')\n"
        "print('imported', [m for m in bad if m in sys.modules])\n"
    )
    with Terminal(tmp_path, program=[sys.executable, "-c", code]) as terminal:
        terminal.wait_for("RECORDED")
        terminal.type("until preempt")
        terminal.wait_for("r4 gives way to r3")
        terminal.press("ctrl-d")
        assert terminal.status() == 0
        assert any("imported []" in line for line in terminal.lines)


def test_history_and_completion(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("goto 8")
        terminal.wait_for(HEADLINE_8)
        terminal.press("up")
        terminal.wait_for("step> goto 8")
        terminal.press("ctrl-c", "unt", "tab")
        terminal.wait_for("step> until")
        terminal.press(" pre", "tab")
        terminal.wait_for("step> until preempt")
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


def test_what_is_pinned_shows_what_it_points_at(tmp_path: Path) -> None:
    with Terminal(tmp_path, "step") as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.type("until preempt")
        terminal.type("pin where")
        lines = terminal.wait_for("lines more: type where")
        here = next(i for i, line in enumerate(lines) if line.startswith("▸"))
        assert "self.trace.emit(" in lines[here] and "victim = " in lines[here - 1]
        assert "ev.SchedVictim" in lines[here + 1]
        assert "scheduler.py:152 Scheduler._allocate_or_preempt" in lines[here - 4]


def test_a_dumb_terminal_gets_lines_and_no_control_codes(tmp_path: Path) -> None:
    file = tmp_path / "long.toml"
    file.write_text(LONG, encoding="utf-8")
    arguments = ["step", str(file), "--max-model-len", "40000"]
    with Terminal(tmp_path, *arguments, columns=100, env={"TERM": "dumb"}) as terminal:
        terminal.wait_for("(minivllm)")
        terminal.type("next 2")
        terminal.wait_for("   2  r1 decodes one token.")
        terminal.type("back")
        terminal.wait_for("   1  r1 is admitted")
        terminal.type("continue")
        terminal.wait_for("live or fork?")
        terminal.type("live")
        terminal.read()
        terminal.press("ctrl-c")  # stops what runs, not the debugger
        terminal.wait(lambda lines: [line for line in lines if line][-1] == "(minivllm)")
        terminal.type("requests")
        terminal.wait_for("r1  running")
        terminal.type("quit")
        assert terminal.status() == 0
        assert b"\x1b" not in terminal.raw


@pytest.mark.parametrize("busy", [False, True])
def test_an_interrupt_from_outside_ends_it_in_order(tmp_path: Path, busy: bool) -> None:
    scenario, number = tmp_path / "long.toml", tmp_path / "pid"
    scenario.write_text(LONG, encoding="utf-8")
    command = f"{sys.executable} -m minivllm step {scenario} --max-model-len 40000"
    program = ["/bin/sh", "-c", f"echo $$ > {number}; exec {command}"]
    with Terminal(tmp_path, program=program) as terminal:
        terminal.wait_for("Nothing has run yet")
        terminal.press("half a line")
        terminal.wait_for("step> half a line")
        if busy:
            terminal.press("ctrl-c")
            terminal.type("continue")
            terminal.wait_for("running …")
        os.kill(int(number.read_text()), signal.SIGINT)
        assert terminal.status() == 130


def test_an_interrupt_while_it_is_imported_is_no_traceback(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import runpy; runpy.run_module('minivllm', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
