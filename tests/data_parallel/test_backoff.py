"""How long a dead engine waits for its next start, by a clock that the test turns."""

from __future__ import annotations

from minivllm.engine.backoff import Backoff


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_death_in_a_row_doubles_the_wait_up_to_the_longest() -> None:
    backoff = Backoff(clock=Clock())
    assert [backoff.next_delay() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_life_that_was_too_short_forgives_nothing() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock)
    backoff.next_delay()
    backoff.is_up()
    clock.now += 59
    assert backoff.next_delay() == 1


def test_a_healthy_life_begins_the_count_anew() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock)
    for _ in range(5):
        backoff.next_delay()
    backoff.is_up()
    clock.now += 60
    assert [backoff.next_delay(), backoff.next_delay()] == [0.5, 1]


def test_time_spent_dead_is_no_health() -> None:
    clock = Clock()
    backoff = Backoff(clock=clock)
    backoff.is_up()
    clock.now += 60
    backoff.next_delay()
    clock.now += 600  # it could not be started for ten minutes
    assert backoff.next_delay() == 1
