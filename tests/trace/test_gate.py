"""The gate alone: who may pass, and when."""

from __future__ import annotations

import pytest

from minivllm.errors import ConfigError
from minivllm.trace.gate import Gate


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
