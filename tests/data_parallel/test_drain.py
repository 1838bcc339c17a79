"""Drain, resume, restart: an engine is taken out and renewed, and no request is lost."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from minivllm.engine.dp_client import DPClient
from minivllm.errors import (
    ConfigError,
    DuplicateRequestError,
    EngineBusyError,
    EngineUnavailableError,
)
from minivllm.trace.events import EngineWhy
from tests.data_parallel.lives import (
    QUICK,
    Events,
    FakeLife,
    Fleet,
    ThreadLife,
    eventually,
    no_knob,
    request,
    thread_config,
)


@pytest.fixture
def two() -> Iterator[Fleet]:
    fleet = Fleet(2)
    yield fleet
    fleet.client.shutdown()


def test_a_draining_engine_gets_nothing_new_and_finishes_what_it_has(two: Fleet) -> None:
    two.client.add_request(request("a"))
    assert two.client.drain(0).state == "draining"
    two.client.add_request(request("b"))
    two.client.add_request(request("c"))
    assert (two[0].added, two[1].added) == (["a"], ["b", "c"])
    two[0].say("a", 1, finish="length")
    two.wait_states("drained", "ready")
    (drain,) = two.events.of("engine.drain")
    assert (drain.engine, drain.open_requests) == (0, 1)


def test_resume_gives_it_requests_again(two: Fleet) -> None:
    two.client.drain(0)
    assert two.states() == ["drained", "ready"]
    assert two.client.resume(0).state == "ready"
    for name in "abc":
        two.client.add_request(request(name))
    assert two[0].added
    assert len(two.events.of("engine.resume")) == 1


def test_drain_and_resume_may_be_said_twice(two: Fleet) -> None:
    two.client.drain(0)
    two.client.drain(0)
    two.client.resume(0)
    two.client.resume(0)
    assert [len(two.events.of(f"engine.{kind}")) for kind in ("drain", "resume")] == [1, 1]


def test_without_a_ready_engine_new_requests_are_refused_and_open_ones_go_on(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two.client.drain(0)
    two.client.drain(1)
    with pytest.raises(EngineUnavailableError, match="engine 0 is draining, engine 1 is drained"):
        two.client.add_request(request("b"))
    two[0].say("a", 1, finish="stop")
    assert two.next().finish_reason == "stop"


def test_a_restart_waits_for_open_requests_and_ends_the_life_cleanly(two: Fleet) -> None:
    two.client.add_request(request("a"))
    old = two[0]
    with pytest.raises(EngineBusyError, match="1 open request"):
        two.client.restart(0, timeout=0.05)
    assert two.states() == ["draining", "ready"] and not old.was_shut_down
    old.say("a", 1, finish="length")
    two.wait_states("ready", "ready")
    assert old.was_shut_down and not old.was_killed
    assert two.client.engines()[0].epoch == 2
    assert two.events.of("engine.start")[-1].why is EngineWhy.ADMIN
    assert two.events.of("engine.dead") == []


def test_resume_calls_off_a_restart_that_still_drains(two: Fleet) -> None:
    two.client.add_request(request("a"))
    two.client.restart(0, timeout=0)
    two.client.resume(0)
    two[0].say("a", 1, finish="length")
    assert two.next().finish_reason == "length"
    assert two.client.engines()[0].epoch == 1
    assert two.states() == ["ready", "ready"]


def test_whoever_waits_for_a_restart_hears_that_it_was_called_off(two: Fleet) -> None:
    two.client.add_request(request("a"))
    threading.Thread(
        target=lambda: (two.wait_states("draining", "ready"), two.client.resume(0)), daemon=True
    ).start()
    with pytest.raises(EngineBusyError, match="it is ready"):
        two.client.restart(0)


def test_a_number_that_no_engine_has_is_refused_by_name(two: Fleet) -> None:
    for verb in (two.client.drain, two.client.resume, two.client.restart):
        with pytest.raises(ConfigError, match="0 to 1"):
            verb(2)


def test_an_id_is_taken_while_it_is_open_on_any_engine(two: Fleet) -> None:
    two.client.add_request(request("a"))
    with pytest.raises(DuplicateRequestError):
        two.client.add_request(request("a"))
    two[0].say("a", 1, finish="stop")
    assert two.next().finish_reason == "stop"
    two.client.add_request(request("a"))
    assert two[1].added == ["a"]


# --- what is told to all engines ------------------------------------------------------


def test_knobs_reach_all_engines_and_those_that_are_started_later(two: Fleet) -> None:
    two.client.set_knobs(max_num_seqs=3)
    assert [two[i].knobs for i in (0, 1)] == [{"max_num_seqs": 3}] * 2
    assert two.client.restart(0, timeout=10).state == "ready"
    assert two[0].epoch == 2 and two[0].knobs == {"max_num_seqs": 3}


def test_where_one_engine_refuses_a_knob_no_engine_has_it(two: Fleet) -> None:
    two[1].refuses = no_knob()
    with pytest.raises(ConfigError):
        two.client.set_knobs(max_num_seqs=3)
    assert two[0].knobs == {"max_num_seqs": 64}  # as it was
    two[1].refuses = None
    two.client.restart(1, timeout=10)
    assert two[1].knobs == {}


def test_where_one_engine_does_not_take_a_verb_of_the_gate_all_stand_as_before(
    two: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer() -> None:
        raise EngineUnavailableError("engine 1 has not answered")

    two.client.gate.rate = 5.0
    monkeypatch.setattr(two[1].gate, "pause", no_answer)
    with pytest.raises(EngineUnavailableError):
        two.client.gate.pause()
    assert [two[i].gate.mode for i in (0, 1)] == ["run", "run"]
    assert (two.client.gate.mode, two[0].gate.rate) == ("run", 5.0)
    two.client.restart(1, timeout=10)  # what did not come about does not hold for later lives
    assert two[1].gate.mode == "run"


def test_nothing_is_told_to_any_while_one_gives_no_sign_of_life(two: Fleet) -> None:
    two[1].stalled_s, two[1].responsive = 3.0, False
    calls = (
        lambda: two.client.set_knobs(max_num_seqs=3),
        lambda: two.client.gate.pause(),
        lambda: two.client.arm("next"),
        lambda: two.client.reset_prefix_cache(),
        lambda: setattr(two.client.gate, "rate", 7.0),
    )
    for call in calls:
        with pytest.raises(EngineUnavailableError, match="engine 1 has given no sign of life"):
            call()
    assert (two[0].knobs, two[0].armed, two[0].num_resets) == ({}, [], 0)
    assert (two[0].gate.mode, two[0].gate.rate, two.client.gate.rate) == ("run", 0, 0)
    two.client.set_knobs(engine=0, max_num_seqs=3)  # who is named alone may differ
    assert two[0].knobs == {"max_num_seqs": 3}


def test_an_engine_that_cannot_be_set_back_is_ended(two: Fleet) -> None:
    old, set_once = two[0], two[0].set_knobs

    def only_once(**knobs: int) -> None:
        set_once(**knobs)
        old.refuses = EngineUnavailableError("engine 0 has not answered")

    old.set_knobs = only_once  # type: ignore[method-assign]
    two[1].refuses = no_knob()
    with pytest.raises(ConfigError):
        two.client.set_knobs(max_num_seqs=3)
    assert old.was_killed
    eventually(lambda: two[0].epoch == 2 and two.states() == ["ready", "ready"])
    assert (two[0].knobs, two[1].knobs) == ({}, {})


def test_a_named_engine_alone_gets_what_is_for_it(two: Fleet) -> None:
    two.client.set_knobs(engine=1, max_num_seqs=3)
    two.client.arm(17, engine=1)
    two.client.reset_prefix_cache(engine=1)
    assert (two[0].knobs, two[0].armed, two[0].num_resets) == ({}, [], 0)
    assert (two[1].knobs, two[1].armed, two[1].num_resets) == ({"max_num_seqs": 3}, [17], 1)


def test_a_numbered_step_is_armed_on_a_named_engine_only(two: Fleet) -> None:
    with pytest.raises(ConfigError, match="name the engine"):
        two.client.arm(17)
    two.client.arm("next")
    assert [two[i].armed for i in (0, 1)] == [["next"]] * 2


def test_the_smallest_pool_decides_what_fits_everywhere() -> None:
    def smaller(life: FakeLife) -> None:
        life.num_kv_blocks -= life.index

    fleet = Fleet(3, prepare=smaller)
    assert fleet.client.facts()["num_kv_blocks"] == 63
    fleet.client.shutdown()


# --- with real cores ------------------------------------------------------


class Load:
    """Keeps ``width`` requests open until it is told to stop; counts how they end."""

    def __init__(self, client: DPClient, width: int) -> None:
        self.client, self.ended = client, Counter[str | None]()
        self.tokens: dict[str, list[int]] = {}
        self._width, self._stop, self._number = width, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        self._number += 1
        prompt = [1 + self._number % 3] * 9 + [self._number]
        self.tokens[f"r{self._number}"] = []
        self.client.add_request(request(f"r{self._number}", prompt, max_tokens=6))

    def _run(self) -> None:
        for _ in range(self._width):
            self._send()
        num_open = self._width
        while num_open:
            outputs = self.client.get_output(timeout=10)
            if outputs is None:
                self.ended["nothing came"] += 1
                return
            for output in outputs.outputs:
                self.tokens[output.request_id] += output.new_token_ids
                if output.finish_reason is not None:
                    self.ended[output.finish_reason] += 1
                    num_open -= 1
                    if not self._stop.is_set():
                        self._send()
                        num_open += 1

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def cores() -> Iterator[tuple[DPClient, list[ThreadLife]]]:
    lives: list[ThreadLife] = []

    def make(index: int, epoch: int) -> ThreadLife:
        lives.append(life := ThreadLife(index, thread_config()))
        return life

    client = DPClient(make, 2, "prefix_aware", settings=QUICK)
    yield client, lives
    client.shutdown()
    for life in lives:
        life.shutdown()


def test_a_rolling_restart_under_load_loses_no_request(
    cores: tuple[DPClient, list[ThreadLife]],
) -> None:
    client, _ = cores
    load = Load(client, width=6)
    for _ in range(2):
        for engine in (0, 1):
            client.restart(engine, timeout=20)
    ended_before = load.ended.total()
    eventually(lambda: load.ended.total() >= ended_before + 12)
    load.finish()
    assert set(load.ended) == {"length"}
    assert all(said == list(range(1000, 1006)) for said in load.tokens.values())
    assert [(s.epoch, s.open_requests) for s in client.engines()] == [(3, 0), (3, 0)]


def test_an_engine_killed_under_load_costs_only_requests_that_had_begun_to_speak(
    cores: tuple[DPClient, list[ThreadLife]],
) -> None:
    client, lives = cores
    load = Load(client, width=8)
    eventually(lambda: load.ended.total() >= 8)
    next(life for life in lives if life.index == 0).kill()
    eventually(lambda: client.engines()[0].epoch == 2 and client.engines()[0].state == "ready")
    ended_before = load.ended.total()
    eventually(lambda: load.ended.total() >= ended_before + 16)
    load.finish()
    assert set(load.ended) <= {"length", "error"}
    assert load.ended["error"] <= 8
    for name, said in load.tokens.items():
        assert said == list(range(1000, 1000 + len(said))), name  # never twice, never out of order


def test_what_the_router_reckons_as_cached_is_what_an_engine_then_finds(
    cores: tuple[DPClient, list[ThreadLife]],
) -> None:
    """One request after the other, in pools with room for all of them."""
    client, _ = cores
    told = client._router.trace = Events()
    rng = random.Random(1)
    for i in range(30):
        prompt = [rng.randrange(2) for _ in range(4)] * rng.randint(1, 4) + [i] * rng.randint(0, 3)
        client.add_request(request(f"r{i}", prompt, max_tokens=1))
        found = None
        while found is None:
            outputs = client.get_output(timeout=10)
            assert outputs is not None
            found = next((o.num_cached_tokens for o in outputs.outputs if o.finish_reason), None)
        pick = told.of("route.pick")[-1]
        assert found == next(c.cached_tokens for c in pick.candidates if c.engine == pick.engine)
    assert any(c.cached_tokens for pick in told.of("route.pick") for c in pick.candidates)
