"""A form of lengths: exact structure, every mistake with its field, and the way back to a form."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from minivllm.errors import ScenarioError
from minivllm.own_scenario import (
    Form,
    OwnScenarioError,
    Row,
    form_of,
    form_of_file,
    id_of,
    read_form,
    run_form,
)
from minivllm.scenario import load_scenario, shipped_scenarios, start
from minivllm.scenario_file import scenario_from
from minivllm.trace.worksheet import make_sheet
from tests.conftest import RunPython
from tests.helpers import trace_of

EXPECTED = json.loads((Path(__file__).parent.parent / "data/tiny-pressure.json").read_text())


def rows_of(run: Any) -> list[dict[str, Any]]:
    return [asdict(row) for row in make_sheet(trace_of(run)).rows]


def test_tiny_pressure_as_a_form_has_the_same_table() -> None:
    rows = rows_of(run_form(form_of(load_scenario("tiny-pressure"))))
    expected = [{k: v for k, v in row.items() if k != "headline"} for row in EXPECTED["steps"]]
    assert rows == expected


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_preset_runs_as_its_scenario_does(name: str) -> None:
    assert rows_of(run_form(form_of(load_scenario(name)))) == rows_of(
        start(load_scenario(name)).run()
    )


def test_the_same_form_has_the_same_name_everywhere() -> None:
    one = read_form({"request": [{}], "engine": {"block_size": 4, "max_num_seqs": 2}})
    other = read_form({"engine": {"max_num_seqs": 2, "block_size": 4}, "request": [{"own": 8}]})
    assert id_of(one) == id_of(other) == "own-" + id_of(one)[4:] and len(id_of(one)) == 12
    assert id_of(read_form({"request": [{"own": 9}]})) != id_of(one)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (None, "", "a form has requests"),
        ({"request": {}}, "", "a form has requests"),
        ({"request": []}, "", "0 requests; allowed: 1 to 32"),
        ({"request": [{}] * 33}, "", "33 requests; allowed: 1 to 32"),
        ({"request": [{"prompt": "x"}]}, "", "row 1: a row has arrives, prefix, own"),
        ({"request": [{"arrives": 0}]}, "request.1.arrives", "arrival step: got 0; allowed: 1 to"),
        ({"request": [{}, {"own": 1025}]}, "request.2.own", "row 2, own length: got 1025"),
        ({"request": [{"own": True}]}, "request.1.own", "got True"),
        ({"request": [{"own": "x" * 99}]}, "request.1.own", "…; allowed: 0 to 1024"),
        ({"request": [{"own": 0}]}, "request.1.own", "no shared prefix; a prompt has 1 or more"),
        ({"request": [{"outputs": 2.5}]}, "request.1.outputs", "got 2.5; allowed: 1 to 256"),
        ({"request": [{"priority": 101}]}, "request.1.priority", "allowed: -100 to 100"),
        ({"request": [{}], "engine": [1]}, "", "engine: knobs by name"),
        ({"request": [{}], "engine": {"block_size": []}}, "", "engine: knobs by name"),
        ({"request": [{}], "engine": {"block_size": 0}}, "block_size", "got 0; allowed:"),
        ({"request": [{}], "engine": {"block_sise": 1}}, "block_sise", "did you mean block_size?"),
        ({"request": [{}], "engine": {"num_kv_blocks": 5000}}, "num_kv_blocks", "up to 4096"),
        ({"request": [{}], "engine": {"policy": "lifo"}}, "policy", "fcfs | priority"),
        (
            {"request": [{"own": 60}], "engine": {"max_model_len": 62}},
            "request.1.outputs",
            "row 1: 60 prompt tokens and 4 outputs; max_model_len allows 62 together",
        ),
    ],
)
def test_a_mistake_is_told_with_its_field(given: Any, field: str, words: str) -> None:
    with pytest.raises(OwnScenarioError) as refused:
        run_form(read_form(given))
    assert words in refused.value.fields[field]


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(OwnScenarioError) as refused:
        read_form({"request": [{"arrives": 0, "outputs": 0}, {"own": -1}]})
    assert list(refused.value.fields) == ["request.1.arrives", "request.1.outputs", "request.2.own"]


def test_a_run_that_is_too_long_is_refused() -> None:
    slow = {"request": [{"own": 1024, "outputs": 256}] * 4, "engine": {"max_num_batched_tokens": 1}}
    with pytest.raises(OwnScenarioError, match="has not ended after 3000 steps"):
        run_form(read_form(slow))


def test_what_a_form_cannot_say_is_refused_when_a_file_is_opened() -> None:
    text_only = {"name": "t", "request": [{"arrives": 1, "prompt": "hello", "output_tokens": 2}]}
    with pytest.raises(OwnScenarioError, match="prompts as text only"):
        form_of(scenario_from(text_only, "t"))
    many = "[[request]]\narrives = 1\nprompt_tokens = 4\noutput_tokens = 2\ncount = 40\n"
    with pytest.raises(OwnScenarioError, match="a has 40 requests; a form has up to 32"):
        form_of_file(f'name = "a"\n{many}')
    with pytest.raises(ScenarioError, match=r"the file, line 2.*request 1"):
        form_of_file('name = "a"\n[[request]]\narrives = "x"\noutput_tokens = 1')
    with pytest.raises(ScenarioError, match="the file is not TOML"):
        form_of_file("= 3")
    with pytest.raises(OwnScenarioError, match="allowed: 100000"):
        form_of_file("#" * 100_001)


def test_a_form_has_the_bounds_that_its_fields_are_told() -> None:
    assert set(Row.__struct_fields__) == {"arrives", "prefix", "own", "outputs", "priority"}
    assert Form(request=[Row()]) == read_form({"request": [{}]})


def test_it_needs_no_torch(python_without: RunPython) -> None:
    code = "from minivllm.own_scenario import *; run_form(read_form({'request': [{}]}))"
    done = python_without(code)
    assert done.returncode == 0, done.stderr
