"""A breakpoint in the engine's own code: a student's scheduler stops, and somebody may ask it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minivllm.debug import Stepper
from minivllm.scenario import load_scenario, start
from minivllm.terminal.runs import open_run
from minivllm.terminal.session import Session
from tests.conftest import ROOT
from tests.terminal.screens import Terminal

MINE = """
import minivllm.debug
from minivllm.core.scheduler import Scheduler

class Mine(Scheduler):
    def schedule(self):
        if self.current_step in (6, 9):
            minivllm.debug.set_trace({commands!r})
        return super().schedule()
"""


def own_class(tmp_path: Path, commands: str | None = None) -> str:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE).format(commands=commands), encoding="utf-8")
    return f"{file}:Mine"


def test_with_commands_it_answers_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = own_class(tmp_path, "requests running; until finish r1; until step 9; where")
    run = start(load_scenario("tiny-pressure"), scheduler_cls=name)
    run.run()
    said = capsys.readouterr().out
    assert run.core.scheduler.current_step == 17
    assert "r4  running" in said
    # The second set_trace, in step 10, came first; its debugger is this one.
    assert "not reached: finish r1 (held by mine.py:8 Mine.schedule; clear" in said
    assert "not reached: step 9" not in said


def test_an_open_debugger_stops_there(tmp_path: Path) -> None:
    run = start(load_scenario("tiny-pressure"), scheduler_cls=own_class(tmp_path))
    with Stepper(run) as s:
        assert s.go() is None and (s.step, s.last) == (7, 7)
        assert s.event is not None and s.event.kind == "step.begin"
        assert not s.until("finish r5") and s.step == 10
        assert s.until("finish r5")
        s.next()
        assert s.step == 17


def test_where_nobody_can_type_it_says_so_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    with caplog.at_level(logging.WARNING):
        run = start(load_scenario("tiny-pressure"), scheduler_cls=own_class(tmp_path)).run()
    assert run.core.scheduler.current_step == 17
    assert "nobody can type here; give commands=" in caplog.text


def test_outside_an_engine_there_is_nothing_to_look_at(caplog: pytest.LogCaptureFixture) -> None:
    from minivllm.debug import set_trace

    with caplog.at_level(logging.WARNING):
        set_trace()
    assert "no engine is stepping here" in caplog.text


def test_at_a_terminal_it_asks_line_by_line(tmp_path: Path) -> None:
    code = (
        "from minivllm.scenario import load_scenario, start\n"
        f"run = start(load_scenario('tiny-pressure'), scheduler_cls={own_class(tmp_path)!r})\n"
        "run.run(); print('ran', run.core.scheduler.current_step)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    with Terminal(tmp_path, program=[sys.executable, str(program)], columns=100) as terminal:
        terminal.wait_for("(minivllm)")
        terminal.type("requests running")
        terminal.wait_for("r4  running")
        terminal.press("unt", "tab")
        terminal.wait_for("(minivllm) until")
        terminal.press("ctrl-c")  # the line is cleared, nothing else happens
        terminal.type("bogus")
        terminal.wait_for("'bogus' is no verb")
        terminal.type("next")
        terminal.wait_for("3 requests decode one token each")
        terminal.type("why r4")
        terminal.wait_for("Runs token 10 in this step")
        terminal.type("continue")
        terminal.wait_for("  10  the step begins")
        terminal.type("quit")
        terminal.wait_for("ran 17")
        assert terminal.status() == 0


def test_breakpoint_goes_there_if_it_is_told_to(tmp_path: Path) -> None:
    name = own_class(tmp_path)
    file = Path(name.rpartition(":")[0])
    text = file.read_text(encoding="utf-8").replace(
        "minivllm.debug.set_trace(None)", "breakpoint()"
    )
    file.write_text(text, encoding="utf-8")
    arguments = ["step", "--scheduler-cls", name, "-c", "continue; next"]
    with Terminal(
        tmp_path, *arguments, env={"PYTHONBREAKPOINT": "minivllm.debug.set_trace"}
    ) as terminal:
        terminal.wait_for("   7  the step begins")
        terminal.wait_for("3 requests decode one token each")
        assert terminal.status() == 0


def test_a_verb_lets_the_breakpoint_be_and_until_is_reached(tmp_path: Path) -> None:
    session = Session(open_run("tiny-pressure", {"scheduler_cls": own_class(tmp_path)}))
    with contextlib.closing(session):
        said = [line.plain for line in session.execute("until finish r5").lines]
        assert said[0].startswith("not reached: finish r5 (held by mine.py:8 Mine.schedule; ")
        assert "clear code lets it be" in said[0] and said[1].startswith("   7  the step begins")
        session.execute("clear code")
        assert "is let be" in session.execute("breaks").lines[-1].plain
        assert session.execute("until finish r5").reached and session.step == 17
    again = Session(open_run("tiny-pressure", {"scheduler_cls": own_class(tmp_path)}))
    with contextlib.closing(again):
        again.execute("clear code")
        assert again.execute("goto 9").reached is None and again.step == 9
        again.execute("break code")
        assert again.execute("next 5").lines[0].plain.startswith("break code: ")
        assert again.step == 10 and not again.view.whole


def test_goto_next_and_event_tell_who_holds_the_engine(tmp_path: Path) -> None:
    session = Session(open_run("tiny-pressure", {"scheduler_cls": own_class(tmp_path)}))
    with contextlib.closing(session):
        reply = session.execute("goto 9")
        assert reply.reached is False and session.step == 7
        assert reply.lines[0].plain.startswith("not reached: step 9 (held by mine.py:8 Mine.")
        session.execute("next 3")
        assert session.execute("event").lines[0].plain.startswith("  10  the step begins")
        assert session.execute("event").lines[0].plain.startswith("break code: ")
        assert session.execute("event").lines[0].plain.startswith("  10  block 15 is evicted")
        assert session.execute("continue").data["break"] is None and session.step == 17


def test_through_a_pipe_each_step_is_told_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minivllm", "step", "--scheduler-cls", own_class(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = [int(line.split()[0]) for line in done.stdout.splitlines() if line[:3].strip()]
    assert steps == list(range(1, 18))


GENERATES = """
from minivllm.config import make_config
from minivllm.engine.llm import LLM
from minivllm.engine.parts import build
from minivllm.sampling_params import SamplingParams
from tests.serve.fakes import FakeTokenizer
from tests.serving.scripted_server import executor

llm = LLM.__new__(LLM)
config = make_config(num_kv_blocks=12, block_size=4, live=True, scheduler_cls={!r})
llm._start(build(config, executor_factory=executor, tokenizer=FakeTokenizer()))
with llm:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    print("said", llm.generate("hello", params)[0].outputs[0].text)
"""


def test_no_progress_bar_is_drawn_while_it_asks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(GENERATES.format(own_class(tmp_path)), encoding="utf-8")
    with Terminal(tmp_path, program=[sys.executable, str(program)], columns=100) as terminal:
        terminal.wait_for("(minivllm)")
        terminal.type("requests running")
        terminal.wait_for("r1  running")
        drawn = terminal.raw.count(b"requests done")
        for _ in range(5):
            terminal.read()
        assert terminal.raw.count(b"requests done") == drawn
        assert not any("requests done" in line and "(minivllm)" in line for line in terminal.lines)
        terminal.type("quit")
        terminal.wait_for("said " + "a" * 20)
        assert any("requests done" in line and "1/1" in line for line in terminal.lines)
        assert terminal.status() == 0


EVERY = """
import minivllm.debug
from minivllm.core.scheduler import Scheduler

class Every(Scheduler):
    def schedule(self):
        minivllm.debug.set_trace()
        return super().schedule()
"""


def every(tmp_path: Path) -> str:
    file = tmp_path / "every.py"
    file.write_text(EVERY, encoding="utf-8")
    return f"{file}:Every"


def test_that_nobody_can_type_is_said_once_an_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    with caplog.at_level(logging.WARNING):
        start(load_scenario("tiny-pressure"), scheduler_cls=every(tmp_path)).run()
        assert caplog.text.count("nobody can type here") == 1
        start(load_scenario("tiny-pressure"), scheduler_cls=every(tmp_path)).run()
        assert caplog.text.count("nobody can type here") == 2


@pytest.mark.parametrize("typed", [False, True])
def test_it_holds_nobody_while_a_fork_is_run_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, typed: bool
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("minivllm.debug.hook.Shell.open", opened.append)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    session = Session(open_run("tiny-pressure", {"scheduler_cls": every(tmp_path)}))
    with contextlib.closing(session):
        session.execute("clear code")
        session.execute("next 3")
        if typed:
            session.execute("set max_num_seqs 3")  # the fork is then made of the history
        session.execute("next 3")
        session.execute("back 2")
        session.execute("fork max_num_seqs 2")
        assert session.step == 4 and not opened and "set_trace" not in caplog.text
        session.execute("next")
        assert session.step == 5 and session.view.whole
        session.execute("break code")
        session.execute("next")
        assert session.step == 6 and session.is_held_by_code, "the fork goes on: it holds again"
