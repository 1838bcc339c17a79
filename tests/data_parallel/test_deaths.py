"""An engine dies: before it was ready, idle, with queued requests, in mid-stream, while it drains.

What happens to its requests, who hears of it, and that it comes back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minivllm.engine.client import EngineStatus
from minivllm.engine.retry import DIED
from minivllm.errors import EngineDeadError, EngineUnavailableError, ModelError
from minivllm.trace.events import EngineWhy, Reason, RouteWhy
from tests.data_parallel.lives import FakeLife, Fleet, eventually, quick, request


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    made: list[Fleet] = []
    yield made
    for fleet in made:
        for life in fleet.lives:
            life.may_start.set()
        fleet.client.shutdown()


@pytest.fixture
def two(fleets: list[Fleet]) -> Fleet:
    """Two engines, requests by turn; a second life of either starts when the test says so."""
    fleets.append(Fleet(2, hold_starts_from=2))
    return fleets[0]


def test_an_idle_engine_that_dies_costs_nothing_and_comes_back(two: Fleet) -> None:
    two[0].die("out of memory")
    two.wait_states("starting", "ready")
    (dead,) = two.events.of("engine.dead")
    assert (dead.engine, dead.epoch, dead.retried, dead.failed) == (0, 1, 0, 0)
    assert dead.message == "out of memory"
    two.client.add_request(request("a"))
    assert two[1].added == ["a"]
    two.life(0, 2).may_start.set()
    two.wait_states("ready", "ready")
    starts = [(e.engine, e.epoch, e.why) for e in two.events.of("engine.start")]
    assert sorted(starts[:2]) == [(0, 1, EngineWhy.SERVER_START), (1, 1, EngineWhy.SERVER_START)]
    assert starts[2] == (0, 2, EngineWhy.DEATH)
    assert [e.epoch for e in two.events.of("engine.ready") if e.engine == 0] == [1, 2]


def test_a_request_that_has_said_nothing_begins_anew_elsewhere(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two[0].say("a", prefill=2)  # a step ran for it, and gave no token
    two[0].die()
    eventually(lambda: two[1].added == ["a"])
    two[1].say("a", 7, finish="length")
    assert two.next().new_token_ids == [7]
    pick = two.events.of("route.pick")[-1]
    assert (pick.request_id, pick.engine, pick.why) == ("a", 1, RouteWhy.RETRY)
    assert [(d.retried, d.failed) for d in two.events.of("engine.dead")] == [(1, 0)]


def test_a_request_in_mid_stream_ends_with_an_error_that_says_why(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two[0].say("a", 7)
    two[0].die("killed by signal 9")
    assert two.next().new_token_ids == [7]  # what it said before is not lost
    last = two.next()
    assert (last.request_id, last.finish_reason) == ("a", "error")
    assert "killed by signal 9" in two.events.of("engine.dead")[0].message
    assert two[1].added == []
    assert [(d.retried, d.failed) for d in two.events.of("engine.dead")] == [(0, 1)]


def test_a_death_touches_nobody_elses_requests(two: Fleet) -> None:
    for name in ("a", "b"):
        two.client.add_request(request(name))
    two[1].say("b", 1)
    assert two.next().request_id == "b"
    two[0].die()
    eventually(lambda: two[1].added == ["b", "a"])
    two[1].say("b", 2, finish="stop")
    assert (two.next().finish_reason, two[1].aborted) == ("stop", [])


def test_without_another_engine_all_its_requests_fail_at_once(fleets: list[Fleet]) -> None:
    fleets.append(alone := Fleet(1, hold_starts_from=2))
    alone.client.add_request(request("a"))
    alone[0].die()
    assert alone.next().finish_reason == "error"
    with pytest.raises(EngineUnavailableError, match="engine 0 is"):
        alone.client.add_request(request("b"))
    with pytest.raises(EngineUnavailableError):
        alone.client.check_ready()
    alone.life(0, 2).may_start.set()
    alone.wait_states("ready")
    alone.client.add_request(request("a"))  # the name is free again
    alone.client.check_ready()
    assert alone[0].added == ["a"]


def test_a_request_that_kills_engines_kills_two_and_no_more(fleets: list[Fleet]) -> None:
    fleets.append(three := Fleet(3, hold_starts_from=2))
    three.client.add_request(request("poison"))
    three[0].die()
    eventually(lambda: three[1].added == ["poison"])
    three[1].die()
    last = three.next()
    assert (last.request_id, last.finish_reason) == ("poison", "error")
    assert three.states()[2] == "ready" and three[2].added == []


def test_an_aborted_request_is_not_begun_anew(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two.client.abort_requests(["a"], Reason.STOP_STRING)
    assert two[0].aborted == [("a", Reason.STOP_STRING)]
    two[0].die()
    assert two.next().finish_reason == "abort"
    assert two[1].added == []


def test_an_abort_finds_the_engine_to_which_a_request_was_moved(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two[0].die()
    eventually(lambda: two[1].added)
    two.client.abort_requests(["a", "unknown"])
    assert two[1].aborted == [("a", Reason.CLIENT)]


def test_an_engine_that_refuses_since_it_just_died_is_passed_over(two: Fleet) -> None:
    two[0].refuses = EngineDeadError("gone")
    two.client.add_request(request("a"))
    assert two[1].added == ["a"]


def test_samples_of_one_parent_are_moved_together(fleets: list[Fleet]) -> None:
    fleets.append(three := Fleet(3, hold_starts_from=2))
    for i in range(3):
        three.client.add_request(request(f"{i}_p", parent="p"))
    three[0].die()
    eventually(lambda: three[1].added == ["0_p", "1_p", "2_p"])
    whys = [pick.why for pick in three.events.of("route.pick")][-3:]
    assert whys == [RouteWhy.RETRY] * 3


def test_a_draining_engine_that_dies_comes_back_drained(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two.client.drain(0)
    two[0].die()
    eventually(lambda: two[1].added == ["a"])
    two.life(0, 2).may_start.set()
    two.wait_states("drained", "ready")
    two.client.resume(0)
    assert two.states() == ["ready", "ready"]


def test_an_engine_that_dies_before_it_is_ready_is_started_again(two: Fleet) -> None:
    two[0].die()
    second = two.life(0, 2)
    second.start_error = EngineDeadError("died while it loaded the model")
    second.may_start.set()
    third = two.life(0, 3)
    eventually(lambda: two.states() == ["starting", "ready"])
    third.may_start.set()
    two.wait_states("ready", "ready")
    assert (two.client.engines()[0].epoch, two.client.engines()[0].message) == (3, "")


def test_while_it_waits_for_the_next_start_it_says_what_failed(fleets: list[Fleet]) -> None:
    fleets.append(slow := Fleet(2, settings=quick(first=60)))
    slow[0].die("no memory left")
    slow.wait_states("dead", "ready")
    eventually(lambda: "next start in 60 s" in slow.client.engines()[0].message)
    assert slow.client.engines()[0].message.startswith("no memory left")
    slow.client.restart(0, timeout=10)  # whoever asks for a restart need not wait
    assert slow.client.engines()[0].state == "ready"
    assert slow.events.of("engine.start")[-1].why is EngineWhy.ADMIN


def test_a_first_start_that_fails_is_the_callers_error_and_is_not_tried_again() -> None:
    lives: list[FakeLife] = []

    def second_cannot(life: FakeLife) -> None:
        lives.append(life)
        if life.index == 1:
            life.start_error = ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        Fleet(3, prepare=second_cannot)
    assert sorted((life.index, life.epoch) for life in lives) == [(0, 1), (1, 1), (2, 1)]
    assert all(life.was_shut_down for life in lives)


def test_an_engine_without_a_sign_of_life_is_killed_and_its_requests_begin_nowhere_anew(
    fleets: list[Fleet],
) -> None:
    fleets.append(fleet := Fleet(2, settings=quick(stall_timeout=0.001)))
    fleet.client.add_request(request("a"))
    stuck = fleet[0]
    stuck.stalled_s, stuck.responsive = 6.0, False
    assert fleet.next().finish_reason == "error"
    assert stuck.was_killed and fleet[1].added == []
    (dead,) = fleet.events.of("engine.dead")
    assert (dead.retried, dead.failed) == (0, 1)
    assert "no sign of life for 6 s (--engine-stall-timeout 0.001)" in dead.message


def test_what_one_engine_could_not_finish_in_a_step_does_not_kill_the_next(
    fleets: list[Fleet],
) -> None:
    fleets.append(fleet := Fleet(2, settings=quick(step_timeout=500)))
    fleet.client.add_request(request("endless"))
    fleet[0].stalled_s = 501.0
    assert fleet.next().finish_reason == "error"
    assert fleet[1].added == []
    assert "in one step for 501 s" in fleet.events.of("engine.dead")[0].message


def test_a_long_step_of_an_engine_that_gives_signs_of_life_is_no_stall(
    fleets: list[Fleet],
) -> None:
    fleets.append(fleet := Fleet(1, settings=quick(stall_timeout=5)))
    fleet[0].stalled_s = 400.0
    eventually(lambda: fleet.client.engines()[0].stalled_s == 400.0)
    assert fleet.states() == ["ready"] and not fleet[0].was_killed


def test_a_silent_engine_gets_nothing_while_another_one_is_there(fleets: list[Fleet]) -> None:
    fleets.append(fleet := Fleet(3))
    fleet[1].stalled_s, fleet[1].responsive = 3.0, False
    eventually(lambda: not fleet.client.engines()[1].responsive)
    for name in "abcd":
        fleet.client.add_request(request(name))
    assert (fleet[1].added, len(fleet[0].added)) == ([], 2)
    for pick in fleet.events.of("route.pick"):
        assert [candidate.engine for candidate in pick.candidates] == [0, 2]
    fleet[1].stalled_s, fleet[1].responsive = 0.0, True  # it is back
    eventually(lambda: fleet.client.engines()[1].responsive)
    fleet.client.add_request(request("e"))
    fleet.client.add_request(request("f"))
    assert fleet[1].added


def test_where_all_are_silent_one_of_them_is_better_than_none(fleets: list[Fleet]) -> None:
    fleets.append(fleet := Fleet(1))
    fleet[0].stalled_s, fleet[0].responsive = 3.0, False
    eventually(lambda: not fleet.client.engines()[0].responsive)
    fleet.client.add_request(request("a"))
    assert fleet[0].added == ["a"]


def test_outputs_that_cannot_be_read_end_an_engine_and_not_the_server(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two[0]._outputs.put("no output at all")  # type: ignore[arg-type]
    eventually(lambda: two[1].added == ["a"])
    assert "cannot be read" in two.events.of("engine.dead")[0].message


def test_the_end_of_the_server_ends_open_requests_and_is_no_death(fleets: list[Fleet]) -> None:
    fleets.append(fleet := Fleet(2))
    fleet.client.add_request(request("a"))
    fleet.client.shutdown()
    assert fleet.next().finish_reason == "abort"
    with pytest.raises(EngineDeadError):
        while fleet.client.get_output(timeout=1):
            pass  # that engine 1 does nothing any more
    with pytest.raises(EngineDeadError):
        fleet.client.check_ready()
    with pytest.raises(EngineDeadError):
        fleet.client.add_request(request("b"))
    assert fleet.events.of("engine.dead") == []
    assert all(life.was_shut_down for life in fleet.lives)


def test_the_end_of_the_server_waits_for_no_start(fleets: list[Fleet]) -> None:
    fleets.append(fleet := Fleet(2, hold_starts_from=2))
    fleet[0].die()
    fleet.wait_states("starting", "ready")
    fleet.client.shutdown()
    assert fleet.states() == ["dead", "dead"]


def test_status_tells_what_admin_and_load_show(two: Fleet) -> None:
    two.client.add_request(request("a"))
    assert two.client.engines() == [
        EngineStatus(engine=0, state="ready", pid=100, open_requests=1),
        EngineStatus(engine=1, state="ready", pid=101),
    ]


def test_a_request_that_nobody_listens_to_before_its_end_begins_anew_though_it_spoke(
    two: Fleet,
) -> None:
    two.client.add_request(request("a", final_only=True))
    two[0].say("a", 7, 8)
    assert two.next().new_token_ids == [7, 8]
    two[0].die()
    eventually(lambda: two[1].added == ["a"])
    two[1].say("a", 7, 8, 9, finish="length")
    while not (marker := two.client.get_output(10)) or not marker.outputs:
        pass  # that engine 0 does nothing any more
    assert (marker.engine, [o.begins_anew for o in marker.outputs]) == (1, [True])
    assert two.next().new_token_ids == [7, 8, 9]
    assert [(d.retried, d.failed) for d in two.events.of("engine.dead")] == [(1, 0)]


def test_who_sent_a_request_hears_that_its_engine_died_and_no_more(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two[0].say("a", 7)
    two[0].die("engine 0 (process 4711) was ended by SIGKILL")
    two.next()
    last = two.next()
    assert last.engine_died and last.stop_reason == DIED
    assert "4711" in two.events.of("engine.dead")[0].message
