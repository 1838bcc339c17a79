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
    "presence_penalty": [-2.1, 2.1, NAN, INF, True, None, "1"],
    "frequency_penalty": [-2.1, 2.1, NAN, -INF, True, None, "1"],
    "repetition_penalty": [0, 0.0, -1, NAN, INF, 1e31, 10**400, True, None, "1"],
    "logit_bias": [
        None,
        [1],
        "1",
        {"5": 1.0},
        {-1: 1.0},
        {1.5: 1.0},
        {True: 1.0},
        {5: None},
        {5: "1"},
        {5: True},
        {5: NAN},
        {5: INF},
        dict.fromkeys(range(1025), 1.0),
    ],
    "allowed_token_ids": [[], 3, "3", [-1], [1.5], [True], (1,)],
    "bad_words": ["word", None, 3, ["a"] * 129, [""], ["a", 3]],
    "bad_words_token_ids": [None, 3, [3], [[]], [[1], []], [[-1]], [["a"]], [[True]]],
    "logprobs": [-1, 21, True, 1.5],
    "prompt_logprobs": [-1, 21, True, 1.5],
    "structured_outputs": ["regex", {"regex": "a"}, True],
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
        {"prompt_logprobs": 0},
        {"prompt_logprobs": 20},
        {"presence_penalty": -2, "frequency_penalty": 2},
        {"repetition_penalty": 0.001},
        {"repetition_penalty": 2},
        {"logit_bias": {}},
        {"logit_bias": {0: -100, 7: 100}},
        {"allowed_token_ids": [0]},
        {"bad_words": ["a"] * 128},
        {"bad_words_token_ids": [[0], [1, 2]]},
    ],
)
def test_ends_of_the_ranges_are_allowed(good: dict[str, Any]) -> None:
    SamplingParams(**good)


def test_every_parameter_has_bad_values_above() -> None:
    assert set(SamplingParams.__struct_fields__) == set(BAD)


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (1e-6, True), (0.01, False)])
def test_temperature_of_nothing_is_greedy(temperature: float, greedy: bool) -> None:
    assert SamplingParams(temperature=temperature).greedy is greedy


def test_a_bias_is_cut_to_a_hundred() -> None:
    bias = SamplingParams(logit_bias={1: 1e6, 2: -(10**400), 3: 5}).logit_bias
    assert bias == {1: 100.0, 2: -100.0, 3: 5.0}
    assert all(isinstance(value, float) for value in bias.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None, "temperature": 0.5, "stop": ["a"], "seed": 3},
        {"logit_bias": {5: 200.0, 0: -1.5}, "allowed_token_ids": [5, 0]},
        {"bad_words": ["a b"], "bad_words_token_ids": [[1, 2]], "prompt_logprobs": 0},
        {"presence_penalty": 1, "frequency_penalty": -0.5, "repetition_penalty": 1.1},
    ],
)
def test_parameters_survive_the_wire(fields: dict[str, Any]) -> None:
    params = SamplingParams(**fields)
    assert msgspec.json.decode(msgspec.json.encode(params), type=SamplingParams) == params
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
    as_in_a_trace = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(params)))
    assert msgspec.convert(as_in_a_trace, SamplingParams, str_keys=True) == params


def test_what_is_not_asked_for_is_not_written() -> None:
    assert msgspec.to_builtins(SamplingParams()) == {}


def test_greedy_samples_would_all_be_equal_so_there_is_one() -> None:
    with pytest.raises(SamplingParamsError, match="n must be 1 at temperature 0"):
        SamplingParams(n=2, temperature=0.0)
    assert SamplingParams(n=2, temperature=0.01).n == 2
