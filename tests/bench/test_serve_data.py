"""``bench serve``: what is asked for, and when."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from minivllm.bench.serve_data import Ask, Lengths, arrivals, draw, read
from minivllm.errors import ConfigError


def test_the_same_seed_draws_the_same_requests_and_another_one_others():
    lengths = Lengths(input=20, output=5, range_ratio=0.5)
    assert draw("random", 8, lengths, seed=3) == draw("random", 8, lengths, seed=3)
    assert draw("random", 8, lengths, seed=3) != draw("random", 8, lengths, seed=4)


def test_lengths_are_words_and_stay_within_the_ratio():
    asks = draw("random", 200, Lengths(input=20, output=10, range_ratio=0.5), seed=0)
    assert {len(ask.prompt.split()) for ask in asks} == set(range(10, 31))
    assert {ask.output_tokens for ask in asks} == set(range(5, 16))
    assert all(ask.prompt_tokens == len(ask.prompt.split()) for ask in asks)


def test_token_ids_are_below_the_vocabulary_and_exactly_as_many_as_asked():
    asks = draw("random", 20, Lengths(input=12), seed=0, token_ids=7)
    assert all(len(ask.prompt) == 12 and set(ask.prompt) <= set(range(7)) for ask in asks)


def test_shared_prefixes_are_used_evenly_and_followed_by_something_of_ones_own():
    asks = draw("shared-prefix", 40, Lengths(input=8, prefix=30, num_prefixes=4), seed=0)
    beginnings = [tuple(ask.prompt.split()[:30]) for ask in asks]
    assert sorted(beginnings.count(b) for b in set(beginnings)) == [10] * 4
    assert len({ask.prompt for ask in asks}) == 40
    assert all(ask.prompt_tokens == 38 for ask in asks)


def test_random_prompts_do_not_begin_alike():
    asks = draw("random", 100, Lengths(input=16), seed=0)
    assert len({tuple(ask.prompt.split()[:8]) for ask in asks}) == 100


def test_a_file_of_lines_is_read_in_order_and_begun_again(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "one", "output_tokens": 3},
        {"messages": [{"role": "user", "content": "two"}], "max_tokens": 4},
        {"prompt": [1, 2, 3]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    asks = read(path, 4)
    assert [ask.output_tokens for ask in asks] == [3, 4, None, 3]
    assert asks[0].prompt == asks[3].prompt == "one"
    assert asks[2] == Ask([1, 2, 3], 3, None)
    assert {ask.output_tokens for ask in read(path, 4, output_tokens=9)} == {9}


def test_sharegpt_gives_first_questions_with_answers_as_long_as_theirs(tmp_path: Path):
    path = tmp_path / "sharegpt.json"
    turn = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "x" * 80}]
    path.write_text(json.dumps([{"conversations": turn}, {"conversations": turn[:1]}]))
    assert read(path, 2) == [Ask("What is it?", 2, 20)] * 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "at least one request"),
        ('{"prompt": "a"}\n{"prompt": ""}', "line 2 has none"),
        ('{"prompt": "a", "output_tokens": 0}', "line 1 has 0"),
        ("{", "line 1:"),
        ("[1]", "entry 1"),
        ("[", "a JSON list"),
        ("3", "line 1 is none"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(tmp_path: Path, content, told):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        read(path, 1)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl", 1)


def test_arrivals_keep_the_rate_at_any_burstiness():
    for burstiness in (0.2, 1.0, 50.0):
        times = arrivals(400, 8.0, burstiness, seed=1)
        assert times == sorted(times) and times[-1] == pytest.approx(50.0)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        # the spread of a gamma distribution's gaps over their mean
        assert stdev(gaps) / fmean(gaps) == pytest.approx(burstiness**-0.5, rel=0.25)
