"""What changes something: knobs, forks, prompts, aborts; and what is written to a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minivllm.terminal.runs import RecordedRun, open_run
from minivllm.terminal.verbs import Session, VerbError
from minivllm.trace.structural import structural
from tests.two_engines import write_two_engines


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session(open_run("tiny-pressure", {}))
    yield session
    session.close()


@pytest.fixture
def recorded() -> Iterator[Session]:
    session = Session(open_run("tiny-pressure.trace.jsonl", {}))
    yield session
    session.close()


def headline(session: Session) -> str:
    return session.view.story.headline


def test_a_knob_holds_from_the_next_step_on(session: Session) -> None:
    session.execute("goto 3")
    session.execute("set max_num_seqs 2")
    session.execute("next")
    assert session.step == 4 and headline(session).startswith("From here on max_num_seqs is 2.")
    session.execute("next")
    assert session.view.state.requests["r4"].status == "waiting"
    assert session.view.state.config is not None
    assert session.view.state.config["max_num_seqs"] == 2


def test_a_knob_in_a_recording_makes_a_fork_and_leave_comes_back(recorded: Session) -> None:
    recorded.execute("goto 7")
    reply = recorded.execute("set max_num_batched_tokens=1")
    assert "a fork from step 8 on with max_num_batched_tokens=1" in reply.lines[-1].plain
    assert recorded.run.label == "FORK max_num_batched_tokens=1" and recorded.step == 7
    recorded.execute("next")
    assert "max_num_batched_tokens is 1" in headline(recorded)
    recorded.execute("leave")
    assert (recorded.run.label, recorded.step) == ("RECORDED", 7)
    recorded.execute("next")
    assert headline(recorded).startswith("r4 is preempted")
    with pytest.raises(VerbError, match="this is no fork"):
        recorded.execute("leave")


def test_leave_comes_back_to_the_event_that_was_looked_at(recorded: Session) -> None:
    for line in ("goto 7", "back", "event 3"):
        recorded.execute(line)
    event = recorded.view.event
    assert event is not None and recorded.step == 7
    for line in ("fork", "next 3", "leave"):
        recorded.execute(line)
    assert recorded.view.event == event


def test_a_knob_of_the_pool_makes_a_fork_from_the_start(recorded: Session) -> None:
    recorded.execute("goto 8")
    reply = recorded.execute("set num_kv_blocks 24")
    assert "a fork from the start with num_kv_blocks=24" in reply.lines[-1].plain
    assert recorded.step == 8 and headline(recorded) == "3 requests decode one token each."
    assert recorded.execute("until preempt").reached is False
    assert recorded.history.last == 13


def test_a_fork_without_a_knob_is_the_same_run_again(session: Session) -> None:
    session.execute("goto 9")
    session.execute("goto 5")
    session.execute("fork")
    session.execute("next 99")
    again = [event for step in range(1, 18) for event in session.history.steps[step]]
    session.execute("leave")
    session.execute("live")
    session.execute("next 99")
    first = [event for step in range(1, 18) for event in session.history.steps[step]]
    assert structural(again) == structural(first)


def test_forks_of_forks_keep_what_was_changed_before(session: Session) -> None:
    session.execute("goto 3")
    session.execute("set max_num_seqs 2")
    session.execute("next 3")
    session.execute("fork max_num_batched_tokens 4")
    session.execute("next")
    config = session.view.state.config
    assert config is not None
    assert (config["max_num_seqs"], config["max_num_batched_tokens"]) == (2, 4)


def test_a_prompt_of_ones_own_joins_the_run(session: Session) -> None:
    session.execute("goto 2")
    reply = session.execute('submit "hello out there; you" 2')
    assert reply.data == {"req": "r3"}
    request = session.view.state.requests["r3"]
    assert request.texts == ["hello", " out", " there;", " you"] and request.max_tokens == 2
    session.execute("until finish r3")
    assert session.view.event is not None and session.view.event.req == "r3"


def test_the_same_words_are_the_same_tokens_so_that_a_prefix_is_hit(session: Session) -> None:
    words = "one two three four five six seven eight nine"
    session.execute(f"submit {words} 1")
    session.execute("next 2")
    session.execute(f"submit {words} 1")
    assert session.execute("until hit r3").reached
    assert session.view.event is not None and session.view.event.data.tokens == 8


def test_an_abort_is_applied_at_the_steps_boundary(session: Session) -> None:
    session.execute("until preempt")
    session.execute("abort r1")
    assert session.view.state.requests["r1"].status == "running"  # held in the middle of step 8
    session.execute("next 2")
    assert session.view.state.requests["r1"].finish_reason == "abort"
    with pytest.raises(VerbError, match="abort r1: it has finished already"):
        session.execute("abort r1")


def test_a_run_that_has_ended_goes_on_with_a_new_prompt(session: Session) -> None:
    session.execute("next 99")
    with pytest.raises(VerbError, match="nothing is left to run; submit a prompt"):
        session.execute("next")
    session.execute("submit and now 2")
    session.execute("next 99")
    assert session.view.state.requests["r6"].status == "finished" and session.step == 19


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("set", "such as set max_num_batched_tokens 64"),
        ("set max_num_seqs", "takes knobs and their values"),
        ("set max_num_sequences 2", "did you mean max_num_seqs"),
        ("set max_num_seqs many", "allowed: a whole number"),
        ("set max_num_seqs 0", "max_num_seqs"),
        ("submit", "takes a prompt, such as"),
        ("abort", "abort: which request?"),
        ("abort r9", "no such request at step 3; there are: r1, r2, r3"),
        ("export", "takes a file"),
        ("export run.pdf", "a trace is .jsonl"),
        ("export /no/such/place/run.jsonl", "No such file"),
        ("pin", ""),
        ("pin next", "pin next: can pin why, where"),
        ("zoom far", "takes in, out, auto, map"),
    ],
)
def test_bad_input_changes_nothing(session: Session, line: str, says: str) -> None:
    session.execute("goto 3")
    if not says:
        session.execute(line)
        return
    with pytest.raises(Exception) as error:  # a named error of ours, whichever
        session.execute(line)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert session.step == 3 and session.history.last == 3 and not session.originals


def test_nothing_can_be_sent_to_a_recording(recorded: Session) -> None:
    recorded.execute("goto 3")
    for line in ("submit hello", "abort r1"):
        with pytest.raises(VerbError, match="nothing runs behind a recording; fork makes a run"):
            recorded.execute(line)


@pytest.mark.parametrize("name", ["run.trace.jsonl", "run.jsonl.gz"])
def test_the_run_so_far_is_exported_as_a_trace(session: Session, tmp_path: Path, name: str) -> None:
    session.execute("goto 8")
    assert session.execute(f"export {tmp_path / name}").data["what"] == "180 events"
    again = RecordedRun(tmp_path / name)
    assert again.history.seq == session.history.seq
    assert again.history.view(8).state == session.view.state


def test_of_a_step_that_has_not_ended_nothing_is_exported(session: Session, tmp_path: Path) -> None:
    session.execute("until preempt")
    told = session.execute(f"export {tmp_path / 'run.jsonl'}").data["what"]
    assert told == "163 events; step 8 has not ended and is left out"
    again = RecordedRun(tmp_path / "run.jsonl").history
    assert again.last == 7 and again.view(7).state == session.history.view(7).state


def test_an_export_says_what_it_leaves_out(tmp_path: Path) -> None:
    both, one = tmp_path / "two.jsonl", tmp_path / "one.jsonl"
    write_two_engines(both)
    session = Session(open_run(str(both), {}))
    told = session.execute(f"export {one}").data["what"]
    assert told.endswith("events of engine0 of 2 engines, without the others")


def test_the_board_is_exported_as_picture_page_and_text(session: Session, tmp_path: Path) -> None:
    session.execute("goto 8")
    for name in ("board.svg", "board.html", "board.txt"):
        session.execute(f"export {tmp_path / name}")
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "WAITING" in text and ("<" in text) == (name != "board.txt")


def test_export_writes_over_nothing(session: Session, tmp_path: Path) -> None:
    there = tmp_path / "run.jsonl"
    there.write_text("precious")
    with pytest.raises(VerbError, match="it is there already"):
        session.execute(f"export {there}")
    assert there.read_text() == "precious"
