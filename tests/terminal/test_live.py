"""Stepping a live engine: the model behind its gate, one step for each ``next``."""

from __future__ import annotations

from typing import Any

import pytest

from minivllm.errors import SamplingParamsError
from minivllm.terminal.live import live_engine
from minivllm.terminal.runs import open_run
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.verbs import Session

pytestmark = pytest.mark.model

SMALL: dict[str, Any] = {"block_size": 4, "num_kv_blocks": 20, "dtype": "float32"}
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 6}


def test_each_next_at_the_head_lets_one_step_pass() -> None:
    run = SteeredRun(live_engine(["Once upon a time", "One, two, three, four,"], GREEDY, SMALL))
    try:
        session = Session(run)
        session.execute("next")
        assert session.history.last == 1
        session.execute("back")
        session.execute("next")
        assert session.history.last == 1  # looking back ran nothing
        session.execute("next 100")
        assert session.history.ended and session.step == session.history.last == 6
        state = session.view.state
        assert state.finished == ["r1", "r2"]
        assert "".join(state.requests["r2"].texts).startswith("One, two, three, four, five")
    finally:
        run.close()


def test_a_stop_string_ends_the_request_before_the_next_step() -> None:
    run = SteeredRun(live_engine(["One, two, three, four,"], {**GREEDY, "stop": ["six"]}, SMALL))
    try:
        session = Session(run)
        session.execute("next 100")
        assert "its text contains one of its stop strings" in session.view.story.headline
        assert session.view.state.requests["r1"].finish_reason == "abort"
    finally:
        run.close()


def test_a_bad_parameter_ends_the_engine_again() -> None:
    with pytest.raises(SamplingParamsError):
        SteeredRun(live_engine(["hello"], {"temperature": -1.0, "max_tokens": 2}, SMALL))


def test_a_scenario_runs_on_the_model() -> None:
    run = open_run("tiny-pressure", {"dtype": "float32"}, with_model=True)
    try:
        session = Session(run)
        session.execute("goto 8")
        assert session.view.header.fidelity == "live"
        assert session.view.story.headline.startswith("r4 is preempted")
    finally:
        run.close()
