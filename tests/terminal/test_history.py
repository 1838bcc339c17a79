"""Every step's state is the fold's, whichever way one came to it."""

from __future__ import annotations

import pytest

from minivllm.engine.messages import EngineCoreRequest
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import ScenarioRun, load_scenario, start
from minivllm.terminal.history import History
from minivllm.terminal.steered import SteeredRun
from minivllm.terminal.stepped import ScenarioSteps
from minivllm.trace.events import Reason
from minivllm.trace.fold import apply, new_state, to_json
from minivllm.trace.lives import request_life
from tests.helpers import engine_view, fold_view, trace_of


def long_run() -> ScenarioRun:
    """Over 64 steps, so that there are snapshots; 90 of them decode."""
    scenario = load_scenario("tiny-pressure")
    for request in scenario.request:
        request.output_tokens, request.output_token_ids = 90, []
    return start(scenario, num_kv_blocks=200, max_model_len=256)


def history_of(run: ScenarioRun) -> History:
    history = History(run.recorder.log.header)
    history.extend(trace_of(run).engine_events)
    history.close()
    return history


@pytest.fixture(scope="module")
def run() -> ScenarioRun:
    return long_run().run()


def test_state_after_each_step_is_the_fold_of_all_events_so_far(run: ScenarioRun) -> None:
    trace, history = trace_of(run), history_of(run)
    state = new_state()
    assert history.last > 64
    for step in sorted(trace.steps):
        assert to_json(history.state_before(step)) == to_json(state)
        for event in trace.steps[step]:
            apply(state, event)
        assert to_json(history.view(step).state) == to_json(state)


def test_looking_back_and_forth_changes_nothing(run: ScenarioRun) -> None:
    history = history_of(run)
    first = {step: to_json(history.view(step).state) for step in (0, 5, 63, 64, 65, 90)}
    for step in (90, 64, 5, 65, 0, 63, 90, 5):
        assert to_json(history.view(step).state) == first[step]


def test_state_equals_the_engines_own_after_each_live_step() -> None:
    run = start(load_scenario("tiny-pressure"))
    steps = SteeredRun(ScenarioSteps(run))
    while steps.step():
        view = steps.history.view(steps.history.last)
        assert fold_view(view.state) == engine_view(run.core)


def test_an_abort_after_the_last_step_is_shown_as_a_step_of_its_own() -> None:
    run = start(load_scenario("tiny-pressure"))
    params = SamplingParams(max_tokens=5)
    message = EngineCoreRequest(request_id="a", prompt_token_ids=[1, 2], sampling_params=params)
    run.core.add_request(message)
    run.core.step()
    run.core.abort_request("a", Reason.CLIENT)
    history = history_of(run)
    assert history.last == 2
    assert "r1 is aborted" in history.view(2).story.headline
    assert history.view(2).state.finished == ["r1"]


def test_of_a_run_without_end_the_newest_steps_are_kept_and_their_states(run: ScenarioRun) -> None:
    trace, whole = trace_of(run), history_of(run)
    cut = History(run.recorder.log.header, keep=20)
    cut.extend(trace.engine_events)
    assert (cut.first, cut.last) == (63, whole.last)
    for step in range(64, cut.last + 1):
        assert to_json(cut.view(step).state) == to_json(whole.view(step).state)
    req = whole.view(80).state.running[0]
    assert request_life(cut.steps, req) == [
        row for row in request_life(whole.steps, req) if row.step >= 64
    ]
    assert cut.view(63).story.headline == "The trace begins here; earlier steps were not kept."
