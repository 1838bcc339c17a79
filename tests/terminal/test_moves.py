"""Moving: by events and phases, until something happens, past breaks; the question asked back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from minivllm.terminal.board import board
from minivllm.terminal.places import PLACES
from minivllm.terminal.runs import open_run
from minivllm.terminal.verbs import Session, VerbError
from tests.helpers import fold_view


def opened(target: str) -> Session:
    return Session(open_run(target, {}))


@pytest.fixture(params=["tiny-pressure", "tiny-pressure.trace.jsonl"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A scenario whose engine runs as one goes on, and its recording."""
    session = opened(request.param)
    yield session
    session.close()


@pytest.fixture
def scenario() -> Iterator[Session]:
    session = opened("tiny-pressure")
    yield session
    session.close()


def place(session: Session) -> tuple[int, str | None]:
    event = session.view.event
    return session.step, event.kind if event is not None else None


def test_event_by_event_through_a_step_gives_the_state_behind_each(session: Session) -> None:
    session.execute("next 7")
    session.execute("event")
    kinds = []
    while session.step == 8 and session.view.event is not None:
        kinds.append(session.view.event.kind)
        session.execute("event")
    assert kinds[:6] == [
        "step.begin",
        "sched.grant",
        "sched.victim",
        "kv.free",
        "req.preempt",
        "kv.alloc",
    ]
    session.execute("goto 8")
    at_the_end = fold_view(session.view.state)
    session.execute("back")
    session.execute("event 4")
    assert place(session) == (8, "kv.free")
    assert session.view.state.requests["r4"].table == []
    assert "r4" in session.view.state.running  # the queues come next
    session.execute("event -1")
    assert place(session) == (8, "sched.victim")
    assert session.view.state.requests["r4"].table == [14, 15, 6]
    session.execute("next")
    assert place(session) == (8, None) and fold_view(session.view.state) == at_the_end


def test_phases_stop_before_execute_and_before_update(session: Session) -> None:
    session.execute("next 4")
    seen = []
    for _ in range(3):
        session.execute("phase")
        view = session.view
        seen.append((session.step, view.events[-1].phase, view.whole))
    assert seen == [(5, "schedule", False), (5, "execute", False), (5, "update", True)]


@pytest.mark.parametrize(
    ("where", "step", "kind"),
    [
        ("preempt", 8, "sched.victim"),
        ("evict", 6, "kv.evict"),
        ("hit", 2, "kv.hit"),
        ("skip:no_budget", 4, "sched.skip"),
        ("finish r3", 13, "req.finish"),
        ("evict r1 or finish r5", 10, "kv.evict"),
        ("step 9", 9, "step.begin"),
        ("line ends.py:49", 5, "req.finish"),
    ],
)
def test_until_stands_right_behind_the_event(
    session: Session, where: str, step: int, kind: str
) -> None:
    reply = session.execute(f"until {where}")
    assert reply.reached is True and place(session) == (step, kind)
    assert reply.data["event"]["kind"] == kind


def test_until_that_never_comes_says_so_and_stands_at_the_end(session: Session) -> None:
    reply = session.execute("until preempt r1")
    assert reply.reached is False
    assert "not reached: preempt r1" in reply.lines[0].plain
    assert session.step == 17 and session.view.whole


def test_until_goes_on_from_where_one_stands(session: Session) -> None:
    steps = []
    while session.execute("until evict").reached:
        steps.append(session.step)
    assert steps == [6, 10, 12, 12, 14]


def test_breaks_stop_what_goes_on_and_can_be_taken_away(session: Session) -> None:
    session.execute("break preempt")
    session.execute("break evict r1")
    assert "1  preempt" in session.execute("breaks").lines[0].plain
    reply = session.execute("until finish r3")
    assert reply.reached is False and reply.data["break"] == 1 and session.step == 8
    assert "break 1 came first" in reply.lines[0].plain
    reply = session.execute("continue")
    assert reply.lines[0].plain == "break 2: evict r1" and session.step == 10
    session.execute("clear 2")
    with pytest.raises(VerbError, match="clear 2: there is no such break; there are: 1"):
        session.execute("clear 2")
    session.execute("clear")
    session.execute("continue")
    assert session.step == 17


@pytest.mark.parametrize("verb", ["until", "break"])
def test_places_that_name_nothing_are_refused_with_what_there_is(
    scenario: Session, verb: str
) -> None:
    for line in (f"{verb} bogus", f"{verb} skip:nothing", f"{verb} evict or bogus"):
        with pytest.raises(VerbError) as refused:
            scenario.execute(line)
        told, listed = str(refused.value), scenario.execute(f"help {verb}")
        words = [word for line in PLACES for word in line]
        assert all(f"{word}," in told for word in words)
        assert all(word in "\n".join(map(str, listed.lines)) for word in words)
        assert all(scenario.execute(f"break {word}") for word in words)  # and each can be asked for
    with pytest.raises(VerbError, match=f"{verb}: which place"):
        scenario.execute(verb)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("finish r99", r"no r99 is (here|in this recording).*; there are: "),
        ("evict r9 or preempt", r"no r9 is (here|in this recording).*; there are: "),
        ("line nofile.py:1", r"no event comes from such a file; .*ends\.py.*scheduler\.py"),
        ("line scheduler.py:1", r"this line tells of nothing; of its file these do: 68, 95, .*217"),
        ("line handlers.py:75", "no event comes from such a file"),  # Python's own, logging's
        ("line scheduler.py:1 r4", "this line tells of nothing"),
        ("preempt or ends.py:50", "this line tells of nothing; of its file these do: 49"),
    ],
)
def test_a_place_that_will_not_come_is_refused_before_anything_runs(
    session: Session, where: str, says: str
) -> None:
    for verb in ("until", "break"):
        with pytest.raises(VerbError, match=says):
            session.execute(f"{verb} {where}")
    assert session.step == 0 and not session.breaks


def test_a_request_that_is_still_to_come_and_a_line_not_run_so_far_can_be_asked_for(
    scenario: Session,
) -> None:
    assert scenario.execute("until line ends.py:49 r1").reached
    assert scenario.execute("until r5").reached
    with pytest.raises(VerbError, match="no r6 is here, and none is to come"):
        scenario.execute("until finish r6")
    scenario.execute("submit one more 2")
    assert scenario.execute("until finish r6").reached


def test_going_on_from_the_past_asks_whether_live_or_fork(scenario: Session) -> None:
    scenario.execute("goto 9")
    scenario.execute("back 4")
    for line in ("continue", "until finish r5", "set max_num_seqs 2", "abort r1", "submit hello"):
        reply = scenario.execute(line)
        assert reply.question is not None
        assert set(reply.question.answers) == {"live", "fork"}
        assert "the engine stands at 9" in reply.question.words
        assert scenario.step == 5 and scenario.history.last == 9
    for line in scenario.execute("continue").question.answers["live"]:  # type: ignore[union-attr]
        scenario.execute(line)
    assert scenario.step == 17


@pytest.mark.parametrize("answer", ["live", "fork"])
@pytest.mark.parametrize("line", ["goto 12", "next 7", "event 150", "phase 17"])
def test_moving_past_the_newest_place_asks_and_comes_to_the_same(line: str, answer: str) -> None:
    with contextlib.closing(opened("tiny-pressure")) as straight:
        straight.execute("goto 4")
        straight.execute(line)
        there = place(straight)
    with contextlib.closing(opened("tiny-pressure")) as session:
        session.execute("until preempt")
        session.execute("goto 4")
        question = session.execute(line).question
        assert question is not None and "the engine stands at 8" in question.words
        assert place(session) == (4, None) and session.history.head == 8
        for one in question.answers[answer]:
            session.execute(one)
        assert place(session) == there
        assert session.run.label == ("FORK" if answer == "fork" else "NO MODEL")


def test_up_to_the_newest_place_nothing_is_asked_and_no_engine_goes(scenario: Session) -> None:
    scenario.execute("until preempt")
    for line in ("goto 8", "next 4", "event 56", "phase 10"):
        scenario.execute("goto 4")
        assert scenario.execute(line).question is None
        assert place(scenario) == (8, "sched.victim")
    scenario.execute("next")
    assert place(scenario) == (8, None)


def test_a_run_that_has_ended_asks_nobody_how_to_go_on(scenario: Session) -> None:
    scenario.execute("next 99")
    scenario.execute("goto 4")
    assert scenario.execute("next 99").question is None and scenario.step == 17


def test_what_is_known_already_is_found_without_a_question(scenario: Session) -> None:
    scenario.execute("goto 12")
    scenario.execute("goto 3")
    assert scenario.execute("until preempt").reached
    assert (scenario.step, scenario.history.last) == (8, 12)


def test_stepping_back_never_moves_the_engine(scenario: Session) -> None:
    scenario.execute("until preempt")
    assert scenario.steered is not None
    held = scenario.steered.source.gate.held
    assert held is not None and held.event is not None and held.event.kind == "sched.victim"
    for line in ("back 3", "event", "phase", "next", "goto 2", "until evict"):
        scenario.execute(line)
    assert scenario.steered.source.gate.held == held
    scenario.execute("live")
    assert place(scenario) == (8, "sched.victim")


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"batching": "static", "num_kv_blocks": 24, "policy": "priority"},
        {"kv_manager_cls": "contiguous", "enable_prefix_caching": False, "num_kv_blocks": 40},
        {"speculative_ngram": 3, "max_num_seqs": 2, "enable_chunked_prefill": False}
        | {"max_num_batched_tokens": 64},
    ],
)
def test_every_place_in_a_step_can_be_shown_and_asked_about(engine: dict[str, Any]) -> None:
    session = Session(open_run("tiny-pressure", engine))
    session.execute("next 6")
    session.execute("next 99")
    last = session.history.last
    session.execute(f"goto {min(3, last)}")
    places = 0
    while session.event(1 if not engine else 3):
        view = session.view
        assert view.story.headline
        if places % 3 == 0:
            assert len(board(view, 200, 60)) == 60
        for req in [*view.state.requests, "", "budget", "6"]:
            assert session.execute(f"why {req}").lines
        places += 1
    assert places > 50
    session.close()


def test_a_step_that_has_begun_is_no_goal_any_more(session: Session) -> None:
    session.execute("goto 9")
    for line, at in (("until step 5", 5), ("until step 9", 9), ("until preempt or step 2", 2)):
        with pytest.raises(VerbError, match=f"step {at} has begun; goto {at} looks at it"):
            session.execute(line)
        assert place(session) == (9, None)
    assert session.execute("until step 10").reached and place(session) == (10, "step.begin")
    with pytest.raises(VerbError, match="step 10 has begun"):
        session.execute("until step 10")
    session.execute("goto 4")
    assert session.execute("until step 5").reached and place(session) == (5, "step.begin")


def test_a_break_at_a_step_stops_at_that_step_alone(session: Session) -> None:
    session.execute("break step 3")
    session.execute("break step 5 or preempt")
    seen = []
    for _ in range(4):
        reply = session.execute("continue")
        seen.append((*place(session), reply.data["break"]))  # type: ignore[index]
    assert seen == [
        (3, "step.begin", 1),
        (5, "step.begin", 2),
        (8, "sched.victim", 2),
        (17, None, None),
    ]
    session.execute("goto 2")
    session.execute("continue")
    assert place(session) == (3, "step.begin"), "it is passed again"
    session.execute("goto 6")
    session.execute("clear")
    session.execute("break step 4")  # it lies behind, and lets all that comes go by
    assert session.execute("until finish r5").reached


def test_a_break_behind_lets_no_engine_go_without_a_question(scenario: Session) -> None:
    scenario.execute("break step 2")
    scenario.execute("goto 6")
    scenario.execute("goto 4")
    assert scenario.execute("continue").question is not None and scenario.history.last == 6


def test_of_a_request_that_will_not_come_it_says_who_will(scenario: Session) -> None:
    none = r"there are: none; to come: r1, r2, r3, r4, r5$"
    with pytest.raises(VerbError, match=none):
        scenario.execute("until finish r99999999")
    scenario.execute("goto 5")
    with pytest.raises(VerbError, match=r"there are: r1, r2, r3, r4; to come: r5$"):
        scenario.execute("until finish r99")
    scenario.execute("goto 17")
    with pytest.raises(VerbError, match=r"there are: r1, r2, r3, r4, r5$"):
        scenario.execute("until finish r99")
