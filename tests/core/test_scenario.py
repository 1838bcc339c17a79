"""Scenario files: what is in them runs; what does not hold together is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivllm.errors import ConfigError, ScenarioError
from minivllm.scenario import Scenario, ScenarioRequest, load_scenario, shipped_scenarios, start
from tests.helpers import engine_view, fold_view, trace_of

GOOD = """
name = "two"
[engine]
num_kv_blocks = 9
block_size = 4
max_model_len = 64
[[request]]
arrives = 2
prompt_token_ids = [1, 2, 3]
output_tokens = 2
output_token_ids = [8, 9]
output_texts = ["e", "f"]
[[request]]
arrives = 1
prompt_token_ids = [1, 2]
prompt_texts = ["a", "b"]
output_tokens = 3
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "it.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_scenario_runs_from_a_file(tmp_path: Path) -> None:
    run = start(load_scenario(write(tmp_path, GOOD))).run()
    assert run.done and run.core.scheduler.current_step == 3
    state = trace_of(run).state_before(99)
    assert state.requests["r1"].texts[:2] == ["a", "b"], "the first to arrive is r1"
    assert state.requests["r2"].tokens == [1, 2, 3, 8, 9]
    assert state.requests["r2"].texts[-2:] == ["e", "f"]
    assert [r.arrived_step for r in state.requests.values()] == [1, 2]
    assert fold_view(state) == engine_view(run.core)


def test_knobs_override_the_file(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, GOOD))
    assert start(scenario, block_size=8).config.cache.block_size == 8
    assert start(scenario).config.cache.block_size == 4


def test_same_step_keeps_the_order_of_the_file() -> None:
    requests = [
        ScenarioRequest(arrives=a, output_tokens=1, prompt_token_ids=[a, i])
        for i, a in enumerate([3, 1, 3, 1])
    ]
    scenario = Scenario(name="order", request=requests)
    assert [r.prompt_token_ids for r in scenario.request] == [[1, 1], [1, 3], [3, 0], [3, 2]]


REQUEST = '\n[[request]]\narrives = 1\noutput_tokens = 2\nprompt = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not TOML"),
        ('name = "x"', "missing required field `request`"),
        (REQUEST, "missing required field `name`"),
        ('name = "x"\nfoo = 1' + REQUEST, "unknown field `foo`"),
        ('name = "x"' + REQUEST + "colour = 1", "unknown field `colour`"),
        ('name = "x"\nengine = 3' + REQUEST, r"Expected `object`, got `int`.*engine"),
        (
            'name = "x"' + REQUEST.replace("1", '"one"'),
            r"Expected `int.*got `str`.*request 1, field `arrives`",
        ),
        ('name = "x"' + REQUEST.replace("arrives = 1", "arrives = 0"), "steps count from 1"),
        ('name = "x"' + REQUEST.replace("= 2", "= 0"), "request 1: output_tokens = 0; at least 1"),
        ('name = "x"' + REQUEST.replace('"a"', '""'), "needs a prompt or prompt_token_ids"),
        ('name = "x"' + REQUEST + "prompt_token_ids = [-1]", "-1 is no token id"),
        ('name = "x"' + REQUEST + "output_token_ids = [1, 9999999999]", "9999999999 is no token"),
        ('name = "x"' + REQUEST + 'prompt_texts = ["a"]', "1 prompt_texts for 0 prompt_token_ids"),
        ('name = "x"' + REQUEST + 'output_texts = ["a"]', "1 output_texts for 0 output_token_ids"),
        ('name = "x"' + REQUEST + "output_token_ids = [1]", "1 output_token_ids for output_tokens"),
    ],
)
def test_malformed_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ScenarioError, match=f"(?s)it.toml.*{message}"):
        load_scenario(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "it.toml"
    path.write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(ScenarioError, match=r"it\.toml is not TOML"):
        load_scenario(str(path))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read .*nowhere\.toml"):
        load_scenario(str(tmp_path / "nowhere.toml"))
    with pytest.raises(ScenarioError, match="cannot read"):
        (tmp_path / "folder.toml").mkdir()
        load_scenario(str(tmp_path / "folder.toml"))


def test_unknown_name_gets_the_list_of_those_shipped() -> None:
    with pytest.raises(ScenarioError, match=r"no scenario 'tiny'; shipped: .*tiny-pressure"):
        load_scenario("tiny")


@pytest.mark.parametrize("name", shipped_scenarios())
def test_shipped_scenario_is_well_formed(name: str) -> None:
    assert load_scenario(name).name == name


def test_knob_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean block_size"):
        start(load_scenario("tiny-pressure"), blok_size=4)


def test_prompt_as_text_needs_a_model() -> None:
    scenario = Scenario(
        name="x",
        engine={"num_kv_blocks": 9},
        request=[ScenarioRequest(arrives=1, output_tokens=1, prompt="a")],
    )
    with pytest.raises(ScenarioError, match="it runs with a model only"):
        start(scenario).run()


def test_run_without_an_end_is_given_up() -> None:
    with pytest.raises(ScenarioError, match="tiny-pressure has not ended after 10 steps"):
        start(load_scenario("tiny-pressure")).run(max_steps=10)


def test_later_arrivals_find_an_idle_engine() -> None:
    scenario = Scenario(
        name="late",
        engine={"num_kv_blocks": 9, "max_model_len": 64},
        request=[ScenarioRequest(arrives=5, output_tokens=1, prompt_token_ids=[1])],
    )
    run = start(scenario).run()
    assert run.core.scheduler.current_step == 5


def test_arrival_behind_the_last_step_of_a_run_is_named_before_it_runs() -> None:
    scenario = Scenario(
        name="late",
        engine={"num_kv_blocks": 9, "max_model_len": 64},
        request=[ScenarioRequest(arrives=30_000, output_tokens=1, prompt_token_ids=[1])],
    )
    run = start(scenario)
    with pytest.raises(ScenarioError, match=r"late: a request has arrives = 30000, .* 10000 steps"):
        run.run(max_steps=10_000)
    assert run.core.scheduler.current_step == 0
