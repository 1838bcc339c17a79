"""Scripts: text or JSON, and a status that says whether each ``until`` was reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minivllm.terminal.line_prompt import run_lines
from minivllm.terminal.runs import open_run
from minivllm.terminal.verbs import VERBS, Session, Verb, script
from tests.conftest import RunPython
from tests.terminal.test_commands import Run, minivllm

__all__ = ["minivllm"]  # a fixture


def objects(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("target", ["tiny-pressure", "tiny-pressure.trace.jsonl"])
def test_status_says_whether_each_until_was_reached(minivllm: Run, target: str) -> None:
    assert minivllm("step", target, "-c", "until preempt; until finish r5").returncode == 0
    done = minivllm("step", target, "-c", "until preempt r1; requests")
    assert done.returncode == 3 and "not reached: preempt r1" in done.stdout
    assert "finished (length)" in done.stdout  # the rest was carried out
    assert minivllm("step", target, "-c", "until bogus; requests").returncode == 1


def test_json_is_one_object_for_each_command(minivllm: Run) -> None:
    script = "until preempt; why r4; request r4; next; blocks 6; until preempt; nonsense; next"
    done = minivllm("step", "--json", "-c", script)
    told = objects(done.stdout)
    assert [one["command"] for one in told] == script.split("; ")[:7]
    assert [one["ok"] for one in told] == [True] * 6 + [False]
    assert told[0]["reached"] is True and told[0]["event"] == told[0]["data"]["event"]["seq"]
    assert told[1]["data"][0]["reason"] == "preempted" and "0 are free" in str(told[1]["data"])
    assert told[2]["data"]["life"][-1]["event"] == "preempt"
    assert (told[3]["step"], told[3]["event"]) == (8, None)
    assert told[4]["data"]["6"]["owners"] == ["r3"]
    assert told[5]["reached"] is False and told[5]["step"] == 17
    assert "no verb" in told[6]["error"] and done.returncode == 1


def test_every_verb_that_asks_answers_in_json(minivllm: Run) -> None:
    from minivllm.terminal.verbs import GROUPS, VERBS

    asks = [VERBS[name].example for title in ("ASK WHY", "LOOK AT") for name in GROUPS[title]]
    lines = [line for line in asks if line not in ("topk r4", "locals")]
    told = objects(minivllm("step", "--json", "-c", "next 8", "-c", "; ".join(lines)).stdout)
    assert len(told) == 1 + len(lines)
    assert all(one["ok"] and one["data"] for one in told), told


def test_commands_come_from_a_file_before_those_of_the_line(minivllm: Run, tmp_path: Path) -> None:
    file = tmp_path / "homework.txt"
    file.write_text("# who gives way?\nuntil preempt\n\nwhy r4\n", encoding="utf-8")
    done = minivllm("step", "--commands", str(file), "-c", "next; back", "--json")
    told = objects(done.stdout)
    assert [one["command"] for one in told] == ["until preempt", "why r4", "next", "back"]
    assert minivllm("step", "--commands", str(tmp_path / "none.txt")).returncode == 2
    file.write_bytes(b"\xff\xfe")
    done = minivllm("step", "--commands", str(file))
    assert done.returncode == 2 and "a text file" in done.stderr


def test_a_script_is_not_asked_but_told_what_to_write(minivllm: Run) -> None:
    done = minivllm("step", "-c", "goto 8; back 3; continue")
    assert done.returncode == 1
    assert 'In a script, write "live; continue" or "fork; continue"' in done.stderr
    for before in ("live", "fork"):
        done = minivllm("step", "-c", f"goto 8; back 3; {before}; continue; requests finished")
        assert done.returncode == 0 and "r5  finished (length)" in done.stdout


def test_json_wants_commands_and_one_source_of_steps(minivllm: Run) -> None:
    assert minivllm("step", "--json").returncode == 2
    for arguments in (
        ["--prompt", "x", "--attach", "http://x"],
        ["tiny-pressure", "--attach", "x"],
    ):
        done = minivllm("step", *arguments)
        assert done.returncode == 2 and "only one" in done.stderr


def test_a_scheduler_that_raises_is_told_in_a_line_with_its_place(
    minivllm: Run, tmp_path: Path
) -> None:
    own = tmp_path / "raises.py"
    own.write_text(
        "from minivllm.core.scheduler import Scheduler\n"
        "class Raises(Scheduler):\n"
        "    def schedule(self):\n"
        "        if self.current_step == 2:\n"
        "            raise KeyError('boom')\n"
        "        return super().schedule()\n"
    )
    flags = ["--scheduler-cls", f"{own}:Raises", "--json", "-c", "next 9"]
    run = minivllm("step", "tiny-pressure", *flags)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["ok"] is False
    assert told["error"] == f"the engine has ended: KeyError: 'boom' ({own}:5)"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb with a fault of its own."""

    def run(*_: object) -> Any:
        raise LookupError("a fault")

    monkeypatch.setitem(VERBS, "blocks", Verb(run, "", "", ""))


def test_a_fault_of_any_kind_is_a_line_and_an_object(minivllm: Run, broken: None) -> None:
    done = minivllm("step", "--json", "-c", "next; blocks; next")
    told = objects(done.stdout)
    assert [one["ok"] for one in told] == [True, False] and done.returncode == 1
    assert told[1]["error"] == "LookupError: a fault"
    assert done.stderr.strip() == "minivllm step: LookupError: a fault"


def step_after(monkeypatch: pytest.MonkeyPatch, *typed: str) -> int:
    """These lines at a line prompt: the step they lead to."""
    lines = iter(typed)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    session = Session(open_run("tiny-pressure", {}))
    assert run_lines(session) is True
    session.close()
    return session.step


def test_a_fault_of_any_kind_ends_no_prompt(
    broken: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step_after(monkeypatch, "blocks", "next", "quit") == 1
    assert "LookupError: a fault" in capsys.readouterr().out


def test_lines_pasted_at_a_line_prompt_are_carried_out_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert step_after(monkeypatch, "next\n\nnext 2\n", "", "quit") == 4


def test_half_a_character_ends_no_script(minivllm: Run) -> None:
    done = minivllm("step", "--json", "-c", 'submit "a \udcff"; nonsense \udcff')
    told = objects(done.stdout)
    assert told[0]["ok"] and told[1]["command"] == "nonsense ?" and done.returncode == 1


def test_what_an_output_cannot_show_is_replaced(python_without: RunPython) -> None:
    code = "from minivllm.cli.main import main; main(['step', '-c', 'next 8; blocks; why'])"
    done = python_without(code, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "?" in done.stdout and "r4" in done.stdout, done.stderr


def test_a_commands_file_may_begin_with_a_byte_order_mark(minivllm: Run, tmp_path: Path) -> None:
    file = tmp_path / "notepad.txt"
    file.write_bytes(b"\xef\xbb\xbfnext\r\nnext 2\r\n")
    assert minivllm("step", "--commands", str(file)).returncode == 0


def test_a_comment_runs_nothing_and_an_apostrophe_is_no_quote() -> None:
    assert script("goto 8; why r4\n  # go; next 5\nnext # then") == [
        "goto 8",
        "why r4",
        "next # then",
    ]
    assert script("submit don't stop; next; submit it's 2") == [
        "submit don't stop",
        "next",
        "submit it's 2",
    ]
    assert script('submit "a; b"; next') == ['submit "a; b"', "next"]
