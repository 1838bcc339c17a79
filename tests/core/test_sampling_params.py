"""SamplingParams: every range, with its ends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from minivllm.errors import SamplingParamsError
from minivllm.sampling_params import SamplingParams

NAN, INF = float("nan"), float("inf")

BAD: dict[str, list[Any]] = {
    "n": [0, -1, 129, 1.5, True, None, "2"],
    "max_tokens": [0, -1, 2.0, True, "16"],
    "min_tokens": [-1, 17, 0.5, None],
    "temperature": [-0.1, 2.1, NAN, INF, -INF, 10**400, True, None, "1"],
    "top_p": [0, 0.0, -0.5, 1.01, NAN, None],
    "top_k": [-2, 1.5, True, None],
    "min_p": [-0.1, 1.1, NAN, None],
    "seed": [2**63, -(2**63) - 1, 1.5, True],
    "stop": ["END", None, 3, ["a"] * 5, [""], ["a", 3]],
    "stop_token_ids": [None, 3, "3", [-1], [1.5], [True]],
    "ignore_eos": [1, None, "false"],
    "logprobs": [-1, 21, True, 1.5],
    "include_stop_str_in_output": [0, None],
    "skip_special_tokens": ["yes", None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_value_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(SamplingParamsError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert str(caught.value).startswith(f"{name} must be ") and ", got " in str(caught.value)


@pytest.mark.parametrize(
    "good",
    [
        {"n": 1},
        {"n": 128},
        {"max_tokens": None, "min_tokens": 500},
        {"max_tokens": 3, "min_tokens": 3},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"top_p": 1e-9},
        {"top_k": -1},
        {"top_k": 0},
        {"min_p": 0},
        {"min_p": 1},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"stop": ["a"] * 4},
        {"stop_token_ids": [0, 5]},
        {"logprobs": 0},
        {"logprobs": 20},
    ],
)
def test_ends_of_the_ranges_are_allowed(good: dict[str, Any]) -> None:
    SamplingParams(**good)


def test_every_parameter_has_bad_values_above() -> None:
    assert set(SamplingParams.__struct_fields__) == set(BAD)


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (1e-6, True), (0.01, False)])
def test_temperature_of_nothing_is_greedy(temperature: float, greedy: bool) -> None:
    assert SamplingParams(temperature=temperature).greedy is greedy


def test_parameters_survive_the_wire() -> None:
    params = SamplingParams(max_tokens=None, temperature=0.5, stop=["a"], seed=3)
    assert msgspec.json.decode(msgspec.json.encode(params), type=SamplingParams) == params
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
