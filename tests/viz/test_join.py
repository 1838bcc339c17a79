"""Joining: a code that is typed, guesses that are counted, and what the browser keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from minivllm.cli.serving import Room
from viz.access import Access, join_link
from viz.join import ALPHABET, DEAF_FROM, GUESSES, WINDOW_S, Guesses, new_join_code, reachable
from viz.server import create_app

ELSEWHERE: dict[str, Any] = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
NEIGHBOUR: dict[str, Any] = {"environ_base": {"REMOTE_ADDR": "192.0.2.8"}}


class HandClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def guess(access: Access, code: str, address: str = "192.0.2.7") -> bool:
    environ = EnvironBuilder(environ_overrides={"REMOTE_ADDR": address}).get_environ()
    return access.joins(Request(environ), code)


def test_a_code_can_be_read_from_afar_and_typed_as_people_type() -> None:
    codes = {new_join_code() for _ in range(200)}
    assert len(codes) == 200
    assert all(len(code) == 6 and set(code) <= set(ALPHABET) for code in codes)
    assert not set("01OIL") & set(ALPHABET)
    assert guess(Access("KQ73XA"), " kq7-3xa ")


def test_one_who_guesses_locks_out_others_of_the_address_only_far_too_late() -> None:
    clock = HandClock()
    access = Access("KQ73XA", guesses=Guesses(clock))
    for number in range(DEAF_FROM - 1):
        assert not guess(access, f"WRONG{number}")
    assert access.guesses.is_barred("192.0.2.7") and guess(access, "KQ73XA")
    assert not guess(access, "WRONG")
    assert not guess(access, "KQ73XA")
    assert guess(access, "KQ73XA", "192.0.2.8")  # a neighbour is not held up
    clock.now = WINDOW_S + 1
    assert guess(access, "KQ73XA")


def test_the_same_wrong_code_again_is_one_guess_and_a_network_of_ipv6_one_address() -> None:
    access = Access("KQ73XA")
    for number in range(3 * GUESSES):
        guess(access, "OLD222", f"2001:db8::{number:x}")
    assert guess(access, "KQ73XA", "2001:db8::1")
    for number in range(DEAF_FROM):
        guess(access, f"NEW{number}", f"2001:db8::{number:x}")
    assert not guess(access, "KQ73XA", "2001:db8::ffff")
    assert guess(access, "KQ73XA", "2001:db8:0:1::1")


def test_who_has_not_joined_gets_a_form_that_leads_to_the_page(tiny_pressure: Path) -> None:
    http = create_app([tiny_pressure], access=Access("KQ73XA")).test_client()
    asked = http.get("/", **ELSEWHERE)
    assert 'name="code"' in asked.text and "<script" not in asked.text
    policy = asked.headers["Content-Security-Policy"]
    assert "form-action 'self'" in policy and "script-src" not in policy
    wrong = http.get("/?code=%3Cb%3Ex", **ELSEWHERE)
    assert wrong.status_code == 403 and "not the code" in wrong.text and "<b>x" not in wrong.text
    right = http.get("/?code=kq73xa", **ELSEWHERE)
    assert right.status_code == 302 and right.headers["Location"] == "/"
    assert "KQ73XA" not in right.headers["Set-Cookie"].upper()
    assert 'id="app"' in http.get("/", **ELSEWHERE).text
    assert http.get("/api/runs", **ELSEWHERE).status_code == 200


def test_too_many_guesses_are_told_when_to_come_again(tiny_pressure: Path) -> None:
    http = create_app([tiny_pressure], access=Access("KQ73XA")).test_client()
    for number in range(GUESSES):
        barred = http.get(f"/?code=WRONG{number}", **ELSEWHERE)
    assert barred.status_code == 429 and barred.headers["Retry-After"] == "60"
    assert "Set-Cookie" not in barred.headers
    assert http.get("/?code=KQ73XA", **ELSEWHERE).status_code == 302  # of the same room
    assert http.get("/?code=KQ73XA", **NEIGHBOUR).status_code == 302


def test_a_drivers_link_of_an_earlier_start_is_said_to_be_that_and_overwrites_nothing(
    tiny_pressure: Path,
) -> None:
    access = Access("KQ73XA", driver_code="drive")
    http = create_app([tiny_pressure], access=access).test_client()
    wrong = http.get("/?driver=WRONG&lead", **ELSEWHERE)
    assert wrong.status_code == 403 and "not the driver's link of this server" in wrong.text
    assert "Set-Cookie" not in wrong.headers
    right = http.get("/?driver=drive&lead", **ELSEWHERE)
    assert right.headers["Location"] == "/?lead" and "drive" in right.headers["Set-Cookie"]
    again = http.get("/?driver=WRONG", **ELSEWHERE)
    assert again.status_code == 302 and "Set-Cookie" not in again.headers


def test_a_cookie_is_good_for_its_code_alone() -> None:
    ours = Access("KQ73XA", driver_code="secret")
    assert ours.ticket == Access("KQ73XA", driver_code="secret").ticket  # a worker started anew
    assert ours.ticket != Access("KQ73XB", driver_code="secret").ticket
    assert ours.ticket != Access("KQ73XA").ticket


@pytest.mark.parametrize(
    ("host", "shown"), [("192.0.2.7", "192.0.2.7"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_a_link_names_the_address_that_is_listened_on(host: str, shown: str) -> None:
    assert reachable(host) == shown
    assert reachable("0.0.0.0") not in ("0.0.0.0", "")


def test_the_drivers_page_shows_an_address_that_others_can_type() -> None:
    access = Access("KQ73XA")
    assert join_link(Access(), "127.0.0.1", "localhost:8000") is None
    assert join_link(access, "0.0.0.0", "class.example:8000") == {
        "url": "http://class.example:8000/",
        "code": "KQ73XA",
    }
    assert join_link(access, "192.0.2.7", "127.0.0.1:8000") == {
        "url": "http://192.0.2.7:8000/",
        "code": "KQ73XA",
    }
    assert "localhost" not in str(join_link(access, "0.0.0.0", "localhost"))


def test_a_class_listens_on_every_network_and_its_links_are_in_the_terminal() -> None:
    here, words = Room.of(None, leads=True).links(8000)
    assert here == "http://127.0.0.1:8000/?lead"
    assert "join code: " in words and "?driver=" in words and "&lead" in words
    assert Room.of(None, leads=False).links(8000) == ("http://127.0.0.1:8000/",) * 2
    assert Room.of("127.0.0.1", leads=False).access.join_code is None
    elsewhere, words = Room.of("192.0.2.7", leads=False).links(8000)
    assert elsewhere.startswith("http://192.0.2.7:8000/?driver=") and "lead" not in words
