"""The class on the server: who leads, who follows, one vote each. By the socket's test client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask_socketio import SocketIOTestClient

from tests.viz.test_hub import Received, connect, named
from tests.viz.test_server import PROXIED
from viz.access import Access
from viz.classroom import AWAY_SECONDS, CURSOR_SECONDS
from viz.server import BoardApp, create_app

HERE = {"op": "cursor", "place": "#/run/tiny-pressure/step/8"}
ASK = {
    "op": "ask",
    "ask": "Who gives way?",
    "choices": [{"id": "r1", "text": "r1"}, {"id": "r4", "text": "r4"}],
}


class Class:
    """An app whose publisher and clock are turned by hand."""

    def __init__(self, tiny_pressure: Path) -> None:
        self.app: BoardApp = create_app([tiny_pressure], access=Access("KQ73XA"))
        self.now = 0.0
        self.app.hub.classroom._now = lambda: self.now

        self.voters: dict[str, str] = {}

    def page(self, ticket: str | None = None) -> SocketIOTestClient:
        client = connect(self.app)
        self.say(client, op="hello", ticket=ticket)
        return client

    def viewer(self, browser: str) -> SocketIOTestClient:
        """A page of this browser."""
        voter = self.voters.setdefault(browser, self.app.access.new_voter())
        cookie = f"minivllm_join={self.app.access.ticket}; minivllm_voter={voter}"
        client = self.app.socketio.test_client(self.app, headers={**PROXIED, "Cookie": cookie})
        self.say(client, op="hello")
        return client

    def leader(self) -> SocketIOTestClient:
        client = self.page()
        self.say(client, op="take")
        return client

    def say(self, client: SocketIOTestClient, **message: Any) -> None:
        client.emit("class", message)
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.app.hub.work(block=False)


@pytest.fixture
def room(tiny_pressure: Path) -> Class:
    return Class(tiny_pressure)


def last(received: Received, name: str) -> Any:
    return named(received, name)[-1][0]


def test_a_cursor_leads_all_and_who_comes_late_has_it_at_once(room: Class) -> None:
    early, teacher = room.viewer("a"), room.leader()
    assert last(early.get_received(), "class")["led"]
    assert last(teacher.get_received(), "class")["leads"]
    room.say(teacher, **HERE)
    assert last(early.get_received(), "cursor")["place"] == HERE["place"]
    late = room.viewer("b")
    received = late.get_received()
    assert last(received, "class") == {
        "leads": False, "led": True, "gone": False, "ticket": None, "note": ""
    }  # fmt: skip
    assert last(received, "cursor")["place"] == HERE["place"]
    assert not named(teacher.get_received(), "cursor")


def test_a_fast_cursor_is_sent_ten_times_a_second_and_its_last_place_last(room: Class) -> None:
    student, teacher = room.viewer("a"), room.leader()
    for step in range(50):
        room.say(teacher, op="cursor", place=f"#/run/tiny-pressure/step/{step}")
        room.turn(0.01)
    room.turn(CURSOR_SECONDS)
    places = [args[0]["place"] for args in named(student.get_received(), "cursor")]
    assert len(places) <= 7 and places[-1].endswith("/49")
    assert room.app.hub.classroom.due_in() is None or room.app.hub.classroom.due_in() <= 0.25


def test_the_leader_is_told_how_many_follow_and_how_many_have_let_go(room: Class) -> None:
    teacher, students = room.leader(), [room.viewer(str(n)) for n in range(5)]
    room.say(students[0], op="follow", on=False)
    room.say(students[1], op="follow", on=False)
    students[2].disconnect()
    room.turn(1)
    received = teacher.get_received()
    crowd = last(received, "crowd")
    assert (crowd["following"], crowd["free"]) == (2, 2)
    room.say(teacher, **HERE)
    students[0].get_received()
    room.say(students[0], op="follow", on=True)
    assert last(students[0].get_received(), "cursor")["place"] == HERE["place"]


def test_a_viewer_may_neither_lead_nor_ask(room: Class) -> None:
    teacher, student = room.leader(), room.viewer("a")
    room.say(teacher, **HERE)
    teacher.get_received(), student.get_received()
    for message in ({"op": "take"}, HERE | {"place": "#/run/other"}, ASK, {"op": "drop"}):
        room.say(student, **message)
        room.turn(1)
    assert not named(student.get_received(), "class")
    received = teacher.get_received()
    assert not named(received, "class") and not named(received, "question")


def test_of_two_drivers_the_last_leads_and_both_are_told(room: Class) -> None:
    first, student = room.leader(), room.viewer("a")
    room.say(first, **HERE)
    second = room.page()
    first.get_received()
    room.say(second, op="take")
    told = last(first.get_received(), "class")
    assert not told["leads"] and told["led"] and "Somebody else" in told["note"]
    assert "from another page" in last(second.get_received(), "class")["note"]
    student.get_received()
    room.say(first, op="cursor", place="#/run/x")
    room.turn(1)
    assert not named(student.get_received(), "cursor")


def test_a_leader_that_reloads_goes_on_and_one_that_was_replaced_meanwhile_does_not(
    room: Class,
) -> None:
    student, teacher = room.viewer("a"), room.leader()
    room.say(teacher, **HERE)
    ticket = last(teacher.get_received(), "class")["ticket"]
    teacher.disconnect()
    room.turn()
    told = last(student.get_received(), "class")
    assert not told["led"] and told["gone"]
    again = room.page(ticket)
    assert last(again.get_received(), "class")["leads"]
    assert last(student.get_received(), "class")["led"]
    other = room.page()
    room.say(other, op="take")
    again.disconnect()
    late = room.page(ticket)
    told = last(late.get_received(), "class")
    assert not told["leads"] and told["note"] == "Somebody else leads now."


def test_the_tally_counts_each_voter_once_and_is_shown_to_all_at_the_end(room: Class) -> None:
    teacher, students = room.leader(), [room.viewer(str(n)) for n in range(4)]
    room.say(teacher, **ASK)
    question = last(students[0].get_received(), "question")
    assert question["choices"] == ASK["choices"] and question["yours"] is None
    number = question["id"]
    for student, choice in zip(students, ["r1", "r4", "r4", "r9"], strict=True):
        room.say(student, op="vote", id=number, choice=choice)
    room.say(students[0], op="vote", id=number, choice="r4")  # changed
    students[1].disconnect()
    back = room.viewer("1")  # reloads, and does not vote twice
    assert last(back.get_received(), "question")["yours"] == "r4"
    room.say(back, op="vote", id=number, choice="r4")
    room.turn(1)
    crowd = last(teacher.get_received(), "crowd")
    assert crowd["tally"] == {"r1": 0, "r4": 3} and crowd["votes"] == 3
    assert not named(students[2].get_received(), "crowd")  # the driver's alone until then
    room.say(teacher, op="reveal", answer=["r4"], told="r4 came last.")
    for page in (teacher, students[3], back):
        reveal = last(page.get_received(), "reveal")
        assert reveal["tally"] == {"r1": 0, "r4": 3} and reveal["answer"] == ["r4"]
    room.say(students[3], op="vote", id=number, choice="r1")  # too late
    assert not named(room.viewer("late").get_received(), "question")


def test_whatever_a_page_says_it_has_one_vote_and_silences_nobody(
    room: Class, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viz.classroom.VOTERS_KEPT", 4)
    teacher, cheat, honest = room.leader(), room.viewer("a"), room.viewer("b")
    room.say(teacher, **ASK)
    number = last(honest.get_received(), "question")["id"]
    for n in range(60):  # another name, and now and then another page, for each vote
        room.say(cheat, op="hello", me=f"x{n}")
        room.say(cheat, op="vote", id=number, choice="r4")
        if n % 10 == 0:
            cheat.disconnect()
            cheat = room.viewer(f"a{n}")
    second_tab = room.viewer("b")
    for page in (honest, second_tab):
        room.say(page, op="vote", id=number, choice="r1")
    room.turn(1)
    crowd = last(teacher.get_received(), "crowd")
    assert crowd["votes"] == 2 <= crowd["following"] + crowd["free"]
    room.say(teacher, op="reveal", answer=["r4"])
    assert last(honest.get_received(), "reveal")["tally"] == {"r1": 1, "r4": 1}


def test_a_cookie_that_this_server_has_not_signed_makes_no_voter(room: Class) -> None:
    teacher = room.leader()
    room.say(teacher, **ASK)
    room.voters = {"forged": "me.0123", "other": room.app.access.new_voter() + "0"}
    for name in list(room.voters):
        assert room.viewer(name)
    assert {m.voter for m in room.app.hub.classroom._members.values()} == set(
        room.app.hub.classroom._members
    )  # each page for itself


def test_a_leader_that_does_not_come_back_ends_the_class_and_may_begin_it_anew(
    room: Class,
) -> None:
    student, teacher = room.viewer("a"), room.leader()
    room.say(teacher, **HERE)
    room.say(teacher, **ASK)
    ticket = last(teacher.get_received(), "class")["ticket"]
    teacher.disconnect()
    room.turn()
    room.turn(AWAY_SECONDS - 1)
    received = student.get_received()
    assert last(received, "class")["gone"] and last(received, "question")
    room.turn(2)
    received = student.get_received()
    told = last(received, "class")
    assert not told["led"] and not told["gone"] and "not come back" in told["note"]
    assert last(received, "question") is None
    assert not last(room.viewer("late").get_received(), "class")["gone"]
    assert last(room.page(ticket).get_received(), "class")["leads"]
    assert last(student.get_received(), "class")["led"]


def test_who_led_on_the_server_before_this_one_leads_on_if_nobody_else_does(room: Class) -> None:
    student = room.viewer("a")
    teacher = room.page("a ticket of the server before this one")
    told = last(teacher.get_received(), "class")
    assert told["leads"] and not told["asked"]
    assert last(student.get_received(), "class")["led"]
    other = room.page("another old ticket")
    assert last(other.get_received(), "class")["note"] == "Somebody else leads now."


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        "take",
        {"op": "steal"},
        {"op": "cursor"},
        {"op": "cursor", "place": "x" * 3000},
        {"op": "cursor", "place": "#/", "speed": float("nan")},
        {"op": "cursor", "place": "#/", "upto": 2**70},
        {"op": "ask", "ask": "?", "choices": [{"id": "one", "text": "one"}]},
        {"op": "ask", "ask": "?", "choices": [{"id": "x" * 400, "text": ""}] * 2},
        {"op": "vote", "id": "1", "choice": "r1"},
    ],
)
def test_what_is_of_no_known_form_changes_nothing(room: Class, message: Any) -> None:
    student, teacher = room.viewer("a"), room.leader()
    room.say(teacher, **HERE)
    student.get_received()
    teacher.emit("class", message)
    room.turn(1)
    assert [name["name"] for name in student.get_received()] == []
    assert room.app.hub.classroom._cursor is not None
