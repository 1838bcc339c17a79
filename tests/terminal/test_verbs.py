"""The verbs: what they do, and what they say to what they cannot do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minivllm.terminal.history import History
from minivllm.terminal.runs import open_run
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.stepped import ScenarioSteps
from minivllm.terminal.verbs import VERBS, Reply, Session, VerbError, script


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session(open_run("tiny-pressure", {}))
    yield session
    session.close()


def text(reply: Reply) -> str:
    return "\n".join(line.plain for line in reply.lines)


def test_next_runs_one_real_step_at_the_head_and_only_there(session: Session) -> None:
    assert session.history.last == 0
    session.execute("")
    session.execute("n")
    assert (session.step, session.history.last) == (2, 2)
    session.execute("back 2")
    session.execute("next")
    assert (session.step, session.history.last) == (1, 2)
    session.execute("next 1")
    session.execute("next 2")
    assert (session.step, session.history.last) == (4, 4)


def test_goto_runs_ahead_and_comes_back_without_the_engine(session: Session) -> None:
    assert "r4 is preempted" in text(session.execute("goto 8"))
    assert session.history.last == 8
    assert "r2 is admitted" in text(session.execute("g 2"))
    assert session.history.last == 8
    session.execute("goto last")
    assert session.step == 8


def test_a_step_beyond_the_end_leaves_the_reader_where_he_was(session: Session) -> None:
    session.execute("goto 3")
    with pytest.raises(VerbError, match="the run ended with step 17"):
        session.execute("goto 18")
    assert session.step == 3
    with pytest.raises(VerbError, match="goto 18: takes one number, 0 to 17"):
        session.execute("goto 18")


def test_next_at_the_end_says_that_it_is_the_end(session: Session) -> None:
    session.execute("next 99")
    assert session.step == 17
    with pytest.raises(VerbError, match="step 17 is the last"):
        session.execute("next")


def test_an_interrupted_next_stops_between_two_steps(session: Session) -> None:
    session.on_step = lambda: session.interrupt() if session.step == 4 else None
    session.execute("next 10")
    assert session.step == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nxt", "did you mean next"),
        ("bogus", "'bogus' is no verb; help lists what there is"),
        ("unitl preempt", "did you mean until?"),
        ("back", "step 0 is the first"),
        ("next x", "next x: takes one number, 1 to"),
        ("next 0", "takes one number, 1 to"),
        ("next 1 2", "takes one number"),
        ("next -1", "takes one number"),
        ("goto", "goto: takes one number"),
        ("goto ²", "takes one number"),
        ("why r1", "why r1: no such request at step 0; there are: none yet"),
        ("why block", "takes one number, 0 to 15"),
        ("why block 16", "takes one number, 0 to 15"),
        ("request", "request: which request?"),
        ("block x", "takes one number, 0 to 15"),
        ("events zz", "no such event in step 0; there are: run.config"),
        ("help zz", "help zz: no such verb"),
        ("help nex", "did you mean next?"),
        ("\x1b[2J", "'␛[2J' is no verb"),
    ],
)
def test_bad_input_gets_one_line_that_says_what_is_allowed(
    session: Session, line: str, says: str
) -> None:
    with pytest.raises(VerbError) as error:
        session.execute(line)
    assert says in str(error.value)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert session.step == 0


def test_questions_answer_about_the_step_on_the_screen(session: Session) -> None:
    session.execute("goto 12")
    session.execute("goto 8")
    assert "0 are free" in text(session.execute("why r4"))
    assert "preempted" in text(session.execute("why"))
    assert "10 are left" in text(session.execute("why budget"))
    assert "In use by r3" in text(session.execute("why block 6"))
    assert "In use by r3" in text(session.execute("why 6"))
    life = text(session.execute("request r4"))
    assert "▸     8    !" in life and "preempted once" in life
    assert "▸ step   8  taken by r3" in text(session.execute("block 6"))
    assert "tokens_lost=10" in text(session.execute("events req.preempt"))
    assert "kv.alloc" not in text(session.execute("events r4"))
    assert "kv.alloc" in text(session.execute("events kv"))


def test_a_request_that_has_not_arrived_yet_is_not_known_in_the_past(session: Session) -> None:
    session.execute("goto 12")
    session.execute("goto 8")
    with pytest.raises(VerbError, match="why r5: no such request at step 8"):
        session.execute("why r5")


def test_every_verb_has_help_with_an_example(session: Session) -> None:
    all_of_them = text(session.execute("help"))
    for name in VERBS:
        assert name in all_of_them
        assert "example: " in text(session.execute(f"help {name}"))


def test_scripts_split_at_semicolons_and_lines(session: Session) -> None:
    assert script("goto 8; why r4;\n\n n ;") == ["goto 8", "why r4", "n"]
    assert script('submit "a; b" 4; n\n# a remark; n') == ['submit "a; b" 4', "n"]


def test_a_long_life_folds_its_plain_decodes() -> None:
    from minivllm.scenario import Scenario, ScenarioRequest, start

    scenario = Scenario(
        name="long",
        engine={"num_kv_blocks": 50},
        request=[ScenarioRequest(arrives=1, output_tokens=100, prompt_token_ids=[1, 2, 3])],
    )
    session = Session(SteeredRun(ScenarioSteps(start(scenario))))
    session.execute("next 200")
    session.execute("goto 50")
    lines = session.execute("request r1").lines
    assert len(lines) == 5
    assert "▸  2–99" in lines[3].plain


def test_a_view_is_taken_anew_only_when_something_changed(session: Session) -> None:
    session.execute("next 5")
    calls: list[int] = []
    view_of = History.view

    def counted(history: History, step: int, at: int | None):  # type: ignore[no-untyped-def]
        calls.append(step)
        return view_of(history, step, at)

    session.history.view = counted.__get__(session.history)  # type: ignore[method-assign]
    for _ in range(3):
        assert session.view.step == 5
    session.execute("next")
    assert session.view.step == 6
    assert calls == [6]


def test_tensors_prints_the_flat_batch_token_by_token(session: Session) -> None:
    session.execute("goto 12")
    lines = text(session.execute("tensors")).splitlines()
    assert "r4  resume  query_start_loc 1 … 8  seq_len 11" in lines
    assert "    block_table   14 10 5 0 0 0 0 0" in lines
    assert "    slot_mapping     40   41   42   43   20  21   22" in lines
    session.width = 40
    assert any(line.endswith("more") for line in text(session.execute("t")).splitlines())


def test_where_shows_the_line_that_decided(session: Session) -> None:
    session.execute("goto 8")
    shown = text(session.execute("where"))
    assert shown.startswith("minivllm/core/scheduler.py:")
    assert "sched.victim r4" in shown
    lit = [line for line in shown.splitlines() if line.startswith("▸")]
    assert len(lit) == 1 and "1×" in lit[0] and "self.trace.emit(" in lit[0]
    assert "block_pool.py" in text(session.execute("where kv.alloc"))
    with pytest.raises(VerbError, match=r"no such event in step 8; there are: batch\.compose"):
        session.execute("where kv.evict")


def test_why_speaks_of_the_moment_that_is_looked_at(session: Session) -> None:
    """Between the choice of a victim and its preemption the board shows it running."""
    session.execute("goto 7")
    while session.view.event is None or session.view.event.kind != "sched.victim":
        session.execute("event")
    assert session.view.state.requests["r4"].status == "running"
    chosen = _text(session, "why r4")
    assert "it still runs" in chosen and "preempted" not in chosen
    session.execute("until req.preempt")
    assert "preempted: it was preempted in this step" in _text(session, "why r4")
    assert "it waits at the head of the queue" in _text(session, "why r4")


def _text(session: Session, line: str) -> str:
    return "\n".join(text.plain for text in session.execute(line).lines)


TOO_MANY = """
why budget x; why r1 r2; queue x; free x; tables x; batch x; tensors x; board x; live x; leave x
quit 3; breaks x; continue preempt; requests running x; request r1 r2; tokens r1 x; topk r1 x
blocks 1-3 x; abort r1 x; help why x; events kv bogus; where r1 bogus; zoom in out; pin tables x
next 1 2; diff 1 2 3
"""


@pytest.mark.parametrize("line", script(TOO_MANY))
def test_words_that_a_verb_does_not_take_are_refused(session: Session, line: str) -> None:
    session.execute("next 2")
    with pytest.raises(VerbError, match=r"takes? |no such event"):
        if session.execute(line).quit:
            raise AssertionError("it quit")
    assert (session.step, session.pinned) == (2, "")


@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_fits_the_usual_terminal(session: Session, name: str) -> None:
    session.width = 80
    assert all(line.cell_len <= 80 for line in session.execute(f"help {name}".strip()).lines)


def test_story_and_life_of_a_victim_that_still_runs_do_not_say_that_it_is_gone(
    session: Session,
) -> None:
    session.execute("until preempt")
    assert session.view.state.requests["r4"].status == "running"
    assert "preempted" not in session.view.story.headline + session.view.story.also
    life = text(session.execute("request r4"))
    assert "gives way to r3: need 1, have 0" in life and "preempted" not in life
    session.execute("until req.preempt")
    assert "r4 is preempted: r3 needs 1 block" in session.view.story.also
    assert "preempted for r3: need 1, have 0" in text(session.execute("request r4"))
