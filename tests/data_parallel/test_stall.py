"""When standing still is the end of an engine, by a clock that the test turns."""

from __future__ import annotations

from minivllm.engine.client import EngineStatus
from minivllm.engine.stall import StallWatch


def status(stalled_s: float, responsive: bool = True) -> EngineStatus:
    return EngineStatus(engine=0, state="ready", stalled_s=stalled_s, responsive=responsive)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def watch_for(clock: Clock, watch: StallWatch, seconds: float, responsive: bool) -> list[str]:
    """Ten looks a second, at one that stands still from now on."""
    verdicts = []
    for tenth in range(1, round(seconds * 10) + 1):
        clock.now += 0.1
        verdicts.append(watch.why_end_it(status(tenth / 10, responsive)))
    return verdicts


def test_a_frozen_process_has_the_stall_timeout_and_one_long_step_the_other() -> None:
    for responsive, limit, words in ((False, 15, "no sign of life"), (True, 600, "in one step")):
        clock = Clock()
        *before, last = watch_for(clock, StallWatch(15, 600, clock), limit, responsive)
        assert set(before) == {""} and words in last


def test_zero_means_never() -> None:
    clock = Clock()
    watch = StallWatch(0, 0, clock)
    clock.now += 0.1
    assert watch.why_end_it(status(1e9, responsive=False)) == ""
    assert watch.why_end_it(status(1e9)) == ""


def test_who_has_stood_still_himself_first_reads_what_was_sent_meanwhile() -> None:
    """Front end and engine are stopped for a minute, by Ctrl-Z: the front end wakes up first."""
    clock = Clock()
    watch = StallWatch(15, 600, clock)
    assert watch.why_end_it(status(0.0)) == ""
    clock.now += 60
    for eighth in range(8):
        assert watch.why_end_it(status(60 + eighth / 8, responsive=False)) == ""
        clock.now += 0.125
    assert "no sign of life" in watch.why_end_it(status(61.1, responsive=False))
