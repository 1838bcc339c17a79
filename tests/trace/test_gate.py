"""The gate alone: who may pass, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minivllm.errors import ConfigError
from minivllm.trace import events as ev
from minivllm.trace.gate import Gate
from minivllm.trace.until import parse


def passes(gate: Gate, tries: int = 5) -> int:
    return sum(gate.may_step(timeout=0) for _ in range(tries))


def test_open_gate_lets_everybody_pass() -> None:
    assert passes(Gate()) == 5


def test_paused_gate_lets_nobody_pass() -> None:
    gate = Gate(paused=True)
    assert passes(gate) == 0
    gate.resume()
    assert passes(gate) == 5
    gate.pause()
    assert passes(gate) == 0


def test_step_pauses_and_lets_exactly_so_many_pass() -> None:
    gate = Gate()
    gate.step(2)
    assert (gate.mode, passes(gate)) == ("pause", 2)


def test_steps_asked_for_while_others_are_due_add_up() -> None:
    gate = Gate(paused=True)
    gate.step()
    gate.step(2)
    assert passes(gate) == 3


def test_pause_takes_back_the_steps_that_are_left() -> None:
    gate = Gate()
    gate.step(100)
    assert gate.may_step(timeout=0)
    gate.pause()
    assert passes(gate) == 0


def test_steps_that_were_left_do_not_outlive_a_resume() -> None:
    gate = Gate()
    gate.step(100)
    gate.resume()
    gate.pause()
    assert passes(gate) == 0


def test_change_of_pace_keeps_the_steps_that_are_left() -> None:
    gate = Gate(paused=True)
    gate.step(2)
    gate.rate = 5
    assert passes(gate) == 2


def test_rate_holds_the_next_step_back() -> None:
    gate = Gate(rate=0.01)  # one step in 100 seconds
    assert passes(gate) == 1
    gate.rate = 0
    assert passes(gate) == 5


def test_listeners_hear_of_changes_only() -> None:
    gate = Gate()
    heard: list[tuple[str, float]] = []
    gate.on_change(lambda mode, rate: heard.append((mode, rate)))
    gate.resume()
    gate.rate = 2
    gate.rate = 2
    gate.step()
    gate.step()
    gate.resume()
    assert heard == [("run", 2), ("pause", 2), ("run", 2)]


@pytest.mark.parametrize("rate", [-1, 1001, float("nan"), float("inf")])
def test_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="gate rate"):
        Gate(rate=rate)
    gate = Gate()
    with pytest.raises(ConfigError, match=r"full speed.*0\.01 to 1000 steps"):
        gate.rate = rate
    assert gate.rate == 0


def test_fewer_than_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more steps"):
        Gate().step(0)


@pytest.mark.parametrize("verb", [Gate.next_phase, Gate.next_event])
def test_fewer_than_one_place_is_refused(verb: Callable[[Gate, int], None]) -> None:
    with pytest.raises(ConfigError, match=r"gate next (phase|event).*1 or more"):
        verb(Gate(), 0)


# --- until -------------------------------------------------------------------------------------


def event(kind: str, data: ev.Data, req: str | None = "r4", step: int = 7) -> ev.Event:
    return ev.Event(
        stream="engine0",
        seq=1,
        step=step,
        phase="schedule",
        kind=kind,
        t_ns=0,
        src=1,
        req=req,
        data=data,
    )


SKIP = event(
    "sched.skip", ev.SchedSkip(reason=ev.Reason.NO_FREE_BLOCKS, need=2, have=1, hit=0), "r4"
)
HIT = event("kv.hit", ev.KvHit(tokens=8, blocks=[1, 2]), "r4")
BEGIN = event(
    "step.begin",
    ev.StepBegin(budget=1, max_num_seqs=1, waiting=0, running=0, free_blocks=1),
    None,
)
PLACE = ("minivllm/core/scheduler.py", 210)


@pytest.mark.parametrize(
    ("words", "at", "matches"),
    [
        ("skip", SKIP, True),
        ("skip no_free_blocks", SKIP, True),
        ("skip no_budget", SKIP, False),
        ("skip r4", SKIP, True),
        ("skip no_free_blocks r3", SKIP, False),
        ("no_free_blocks", SKIP, True),
        ("no_budget", SKIP, False),
        ("r4", SKIP, True),
        ("r40", SKIP, False),
        ("sched", SKIP, True),
        ("sched.skip", SKIP, True),
        ("sched.stop", SKIP, False),
        ("prefix hit", HIT, True),
        ("  prefix   hit ", HIT, True),
        ("eviction", HIT, False),
        ("preemption", HIT, False),
        ("step 7", BEGIN, True),
        ("step 6", BEGIN, True),
        ("step 8", BEGIN, False),
        ("scheduler.py:210", SKIP, True),
        ("core/scheduler.py:210", SKIP, True),
        ("minivllm/core/scheduler.py:210", SKIP, True),
        ("scheduler.py:211", SKIP, False),
        ("duler.py:210", SKIP, False),
        ("scheduler.py:210 r4", SKIP, True),
        ("scheduler.py:210 r5", SKIP, False),
    ],
)
def test_words_name_events(words: str, at: ev.Event, matches: bool) -> None:
    assert parse(words).matches(at, PLACE) is matches


@pytest.mark.parametrize(
    "words", ["", " ", "preemtion", "skip no_luck", "step x", "finish q4", "x.rs:3"]
)
def test_words_that_name_nothing_are_refused_with_what_is_allowed(words: str) -> None:
    with pytest.raises(ConfigError, match=r"until: got .*preemption, eviction.*FILE:LINE"):
        parse(words)
