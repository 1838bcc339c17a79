"""Each logits processor against its definition, written down once more in plain Python floats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.sample import logits_processors
from minivllm.sample.logits_processors import PROCESSORS, process
from minivllm.sample.row import SampleRow
from minivllm.sample.sampler import NOTHING_LEFT, sample
from minivllm.sampling_params import SamplingParams

VOCAB = 40
INF = math.inf


def row(
    output: Sequence[int] = (),
    prompt: Sequence[int] = (0,),
    stop: Sequence[int] = (),
    **fields: Any,
) -> SampleRow:
    params = SamplingParams(max_tokens=None, **fields)
    return SampleRow(params, 0, [*prompt, *output], len(prompt), stop)


def random_logits(rows: int, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def bitmask(allowed: Sequence[set[int] | None], vocab: int = VOCAB) -> torch.Tensor:
    """Lines as a matcher fills them; None: no grammar. Written bit by bit, sign and all."""
    words = -(-vocab // 32)
    lines = []
    for ids in allowed:
        line = [-1 if ids is None else 0] * words
        for i in ids or ():
            line[i // 32] |= 1 << (i % 32)
        lines.append([w - 2**32 if w >= 2**31 else w for w in line])
    return torch.tensor(lines, dtype=torch.int32)


def changed(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    return set((before != after).nonzero()[:, 0].tolist())


def masked(scores: torch.Tensor) -> set[int]:
    return set((scores == -INF).nonzero()[:, 0].tolist())


# --- one by one ----------------------------------------------------------------------------------


def test_a_row_that_asks_for_nothing_is_not_even_copied() -> None:
    logits = random_logits(1)[0]
    assert process(logits, row(output=[1, 2, 3], stop=[4], temperature=0.5, top_k=3)) is logits


def test_the_logits_stay_as_the_model_said_them() -> None:
    logits = random_logits(1)[0]
    before = logits.clone()
    process(logits, row([1], logit_bias={3: 5.0}, repetition_penalty=2.0, allowed_token_ids=[1, 3]))
    assert torch.equal(logits, before)


def test_only_allowed_ids_are_left() -> None:
    logits = random_logits(1)[0]
    scores = process(logits, row(allowed_token_ids=[3, 7, 7, VOCAB + 5]))
    assert masked(scores) == set(range(VOCAB)) - {3, 7}
    assert torch.equal(scores[[3, 7]], logits[[3, 7]])


@pytest.mark.parametrize("vocab", [31, 32, 33, 64, 100])
def test_grammar_leaves_what_its_bits_allow(vocab: int) -> None:
    allowed = {0, 5, 30, *([31] if vocab > 31 else []), vocab - 1}
    asking = row()
    asking.grammar_bitmask = bitmask([allowed], vocab)[0]
    scores = process(random_logits(1, vocab)[0], asking)
    assert masked(scores) == set(range(vocab)) - allowed


@pytest.mark.parametrize(
    ("words", "output", "banned"),
    [
        ([[5]], [], {5}),
        ([[5]], [5, 5], {5}),
        ([[5, 6]], [], set()),
        ([[5, 6]], [5], {6}),
        ([[5, 6]], [5, 7], set()),
        ([[5, 6]], [7, 5], {6}),
        ([[5, 6, 7]], [6], set()),
        ([[5, 6, 7]], [5, 6], {7}),
        ([[5, 5, 6]], [5, 5, 5], {6}),
        ([[1], [2, 3], [2, 4], [9, 9]], [8, 2], {1, 3, 4}),
        ([[VOCAB + 3]], [], set()),
    ],
)
def test_last_token_of_a_bad_word_is_banned_when_the_rest_was_just_said(
    words: list[list[int]], output: list[int], banned: set[int]
) -> None:
    assert masked(process(random_logits(1)[0], row(output, bad_words_token_ids=words))) == banned


def test_bad_word_that_began_in_the_prompt_is_not_seen() -> None:
    """As vLLM: only what was said is looked at."""
    asking = row(output=[], prompt=[5], bad_words_token_ids=[[5, 6]])
    assert masked(process(random_logits(1)[0], asking)) == set()


@pytest.mark.parametrize(("said", "banned"), [(0, {4, 6}), (1, {4, 6}), (2, set()), (3, set())])
def test_stop_ids_are_masked_until_min_tokens_are_there(said: int, banned: set[int]) -> None:
    asking = row(output=[1] * said, stop=[4, 6, VOCAB + 1], min_tokens=2)
    assert masked(process(random_logits(1)[0], asking)) == banned


def test_stop_id_stays_where_a_grammar_takes_nothing_else() -> None:
    """min_tokens cannot make a complete grammar go on; while there is a choice, it holds."""
    asking = row(output=[1], stop=[4], min_tokens=5)
    asking.grammar_bitmask = bitmask([{4}])[0]
    assert masked(process(random_logits(1)[0], asking)) == set(range(VOCAB)) - {4}
    asking.grammar_bitmask = bitmask([{4, 9}])[0]
    assert masked(process(random_logits(1)[0], asking)) == set(range(VOCAB)) - {9}


@pytest.mark.parametrize(("grammar", "left"), [({4, 9}, {4}), ({9}, {9})])
def test_where_a_grammar_takes_nothing_else_eos_goes_before_stop_ids(
    grammar: set[int], left: set[int]
) -> None:
    """EOS, the first, ends the output; a stop id would not yet, and nothing could follow it."""
    asking = row(output=[1], stop=[4, 9], min_tokens=5)
    asking.grammar_bitmask = bitmask([grammar])[0]
    assert masked(process(random_logits(1)[0], asking)) == set(range(VOCAB)) - left


def test_bias_is_added() -> None:
    logits = random_logits(1)[0]
    scores = process(logits, row(logit_bias={3: 2.5, 7: -100.0, VOCAB + 9: 3.0}))
    assert changed(logits, scores) == {3, 7}
    assert scores[[3, 7]].tolist() == pytest.approx(
        [float(logits[3]) + 2.5, float(logits[7]) - 100]
    )


def test_repetition_penalty_weakens_what_prompt_or_output_have_once_each() -> None:
    logits = torch.tensor([2.0, -2.0, 0.0, 4.0, 1.0])
    scores = process(logits, row(output=[0, 0, 1], prompt=[2, 1], repetition_penalty=2.0))
    assert scores.tolist() == [1.0, -4.0, 0.0, 4.0, 1.0]


def test_frequency_and_presence_penalty_look_at_the_output_only() -> None:
    logits = torch.zeros(5)
    asking = row(output=[1, 1, 1, 2], prompt=[3, 3], frequency_penalty=0.5, presence_penalty=0.25)
    assert process(logits, asking).tolist() == [0.0, -1.75, -0.75, 0.0, 0.0]


def test_negative_penalties_encourage() -> None:
    asking = row(output=[1, 1], frequency_penalty=-1.0, presence_penalty=-2.0)
    assert process(torch.zeros(3), asking).tolist() == [0.0, 4.0, 0.0]


@pytest.mark.parametrize("penalty", [1e-30, 1e30])
def test_extreme_penalties_make_no_nan_of_what_is_masked(penalty: float) -> None:
    asking = row(output=[1, 2, 3], repetition_penalty=penalty, allowed_token_ids=[0, 3])
    scores = process(torch.tensor([0.0, 1.0, -1.0, 5.0]), asking)
    assert not bool(scores.isnan().any()) and {1, 2} <= masked(scores)


def test_a_mask_stays_a_mask_whatever_comes_after() -> None:
    asking = row(
        output=[1, 1],
        allowed_token_ids=[0, 2],
        logit_bias={1: 100.0},
        repetition_penalty=0.01,
        frequency_penalty=-2.0,
        presence_penalty=-2.0,
    )
    for seed in range(20):
        assert sample(random_logits(1, seed=seed), [asking]).token_ids[0] in (0, 2)


# --- all together --------------------------------------------------------------------------------


def reference(logits: list[float], asking: SampleRow, grammar: set[int] | None) -> list[float]:
    """The definitions, in order, in Python's floats."""
    params, said = asking.params, list(asking.output_token_ids)
    scores = list(logits)
    for i in range(len(scores)):
        if grammar is not None and i not in grammar:
            scores[i] = -INF
        if params.allowed_token_ids is not None and i not in params.allowed_token_ids:
            scores[i] = -INF
        for word in params.bad_words_token_ids:
            if [*said, i][-len(word) :] == word:
                scores[i] = -INF
    ends = set(asking.stop_token_ids) if len(said) < params.min_tokens else set()
    others = any(score > -INF for i, score in enumerate(scores) if i not in ends)
    for i in range(len(scores)):
        if i in ends and (others or grammar is None):
            scores[i] = -INF
        scores[i] += params.logit_bias.get(i, 0.0)
        if i in asking.token_ids:
            repeated = params.repetition_penalty
            scores[i] = scores[i] / repeated if scores[i] > 0 else scores[i] * repeated
        times = Counter(said)[i]
        scores[i] -= params.frequency_penalty * times
        scores[i] -= params.presence_penalty * (times > 0)
    return scores


ids = st.integers(0, VOCAB - 1)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    prompt=st.lists(ids, min_size=1, max_size=10),
    output=st.lists(ids, max_size=10),
    stop=st.lists(ids, max_size=3),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "allowed_token_ids": st.lists(ids, min_size=1, max_size=30),
            "bad_words_token_ids": st.lists(st.lists(ids, min_size=1, max_size=3), max_size=8),
            "min_tokens": st.integers(0, 12),
            "logit_bias": st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=5),
            "repetition_penalty": st.sampled_from([0.5, 1.0, 1.3, 2.0]),
            "frequency_penalty": st.sampled_from([-2.0, 0.0, 0.3, 2.0]),
            "presence_penalty": st.sampled_from([-2.0, 0.0, 0.3, 2.0]),
        },
    ),
    grammar=st.none() | st.sets(ids, min_size=1),
)
def test_all_processors_in_order_do_what_their_definitions_say(
    seed: int,
    prompt: list[int],
    output: list[int],
    stop: list[int],
    fields: dict[str, Any],
    grammar: set[int] | None,
) -> None:
    logits = random_logits(1, seed=seed)[0]
    asking = row(output, prompt, stop, **fields)
    expected = reference(logits.tolist(), asking, grammar)
    if grammar is not None:
        asking.grammar_bitmask = bitmask([grammar])[0]
    assert process(logits, asking).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_the_order_is_vllms() -> None:
    names = [processor.name for processor in PROCESSORS]
    names += [cut.name for cut in logits_processors.CUTS]
    assert names == [
        "grammar",
        "allowed_token_ids",
        "bad_words",
        "min_tokens",
        "logit_bias",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "min_p",
        "top_k",
        "top_p",
    ]


# --- in the sampler ------------------------------------------------------------------------------

GREEDY = {"temperature": 0.0}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processors_change_their_own_row_only(temperature: float) -> None:
    logits = random_logits(3, seed=5)
    plain = row(temperature=temperature)
    asking = row(temperature=temperature, allowed_token_ids=[int(logits[1].argmin())])
    alone = sample(logits, [plain] * 3).token_ids
    together = sample(logits, [plain, asking, plain]).token_ids
    assert together == [alone[0], int(logits[1].argmin()), alone[2]]


def test_logprobs_are_raw_whatever_the_processors_do() -> None:
    logits = random_logits(1, seed=6)
    asking = row([1, 2], **GREEDY, logprobs=5, logit_bias={9: 100.0}, repetition_penalty=2.0)
    (entry,) = sample(logits, [asking]).logprobs
    expected = torch.log_softmax(logits[0].double(), -1)
    assert entry is not None and entry.token_id == 9
    assert entry.logprob == pytest.approx(float(expected[9]), abs=1e-4)
    assert entry.rank == int((logits[0] > logits[0, 9]).sum()) + 1
    assert [i for i, _ in entry.top] == logits[0].topk(5).indices.tolist()


def test_grammar_is_given_beside_the_rows_a_line_each() -> None:
    logits = random_logits(3, seed=7)
    worst = logits.argmin(-1).tolist()
    lines = bitmask([{worst[0]}, None, {worst[2]}])
    result = sample(logits, [row(**GREEDY)] * 3, grammar_bitmask=lines.numpy())
    assert result.token_ids == [worst[0], int(logits[1].argmax()), worst[2]]


def test_row_without_a_grammar_does_no_work_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "minivllm.sample.sampler.process",
        lambda raw, asking: (seen.append(asking.grammar_bitmask), raw)[1],
    )
    sample(random_logits(2), [row(), row()], grammar_bitmask=bitmask([None, {1}]).numpy())
    assert seen[0] is None and seen[1] is not None


@pytest.mark.parametrize(
    "wrong",
    [
        bitmask([None]),
        bitmask([None, None], vocab=VOCAB + 40),
        bitmask([None, None]).long(),
    ],
)
def test_bitmask_of_another_shape_is_refused_with_the_right_one(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be int32 of \(2, 2\)"):
        sample(random_logits(2), [row(), row()], grammar_bitmask=wrong.numpy())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_row_with_nothing_left_fails_alone_and_says_why(temperature: float) -> None:
    logits = random_logits(2, seed=8)
    fields = {"allowed_token_ids": [3], "bad_words_token_ids": [[3]], "temperature": temperature}
    result = sample(logits, [row(temperature=0), row(**fields)])
    assert result.errors == {1: NOTHING_LEFT}
    assert result.token_ids == [int(logits[0].argmax()), -1] and result.logprobs[1] is None


def test_logits_of_sixteen_bits_are_processed_in_float32() -> None:
    """In bfloat16 both sums would be 128, and the first of the two would win."""
    logits = torch.tensor([[128.0, 128.0]], dtype=torch.bfloat16)
    asking = row(**GREEDY, logit_bias={0: 0.1, 1: 0.2})
    assert sample(logits, [asking]).token_ids == [1]


# --- what the trace is told ----------------------------------------------------------------------


def explained(logits: torch.Tensor, asking: SampleRow) -> Any:
    (detail,) = sample(logits, [asking], explain=True).details
    assert detail is not None
    return detail


def effects(detail: Any) -> dict[str, tuple[bool, int]]:
    return {effect.name: (effect.masked, effect.count) for effect in detail.effects}


def test_nothing_is_told_unless_asked_for() -> None:
    assert sample(random_logits(1), [row()]).details == [None]


def test_explaining_changes_no_token() -> None:
    logits = random_logits(4, 300, seed=9)
    rows = [
        row([5, 6], temperature=0.8, top_p=0.9, repetition_penalty=1.2),
        row([5, 6], **GREEDY, frequency_penalty=1.0),
        row([5], top_k=5, min_p=0.01, bad_words_token_ids=[[5, 7], [1]]),
        row(),
    ]
    plain, told = sample(logits, rows), sample(logits, rows, explain=True)
    assert (plain.token_ids, plain.logprobs) == (told.token_ids, told.logprobs)


def test_each_processor_that_did_something_is_told_in_order() -> None:
    logits = torch.arange(VOCAB, dtype=torch.float32)[None] / 4
    detail = explained(
        logits,
        row(
            [7, 7],
            prompt=[3],
            stop=[39],
            allowed_token_ids=list(range(30, VOCAB)),
            bad_words_token_ids=[[38], [7, 37], [1, 2]],
            min_tokens=3,
            logit_bias={30: 0.25, 5: 1.0},
            repetition_penalty=1.5,
            frequency_penalty=0.5,
            temperature=0.5,
            top_k=4,
            top_p=0.99,
        ),
    )
    # Nothing of what was said is left for the penalties, and top_p takes all four.
    assert list(effects(detail).items()) == [
        ("allowed_token_ids", (True, 30)),
        ("bad_words", (True, 2)),
        ("min_tokens", (True, 1)),
        ("logit_bias", (False, 1)),  # token 5 was masked already
        ("temperature", (False, 7)),
        ("top_k", (True, 3)),
    ]
    assert detail.effects[0].token_ids == list(range(29, 19, -1))  # the ten likeliest
    assert detail.effects[1].token_ids == [38, 37]
    assert [i for i, _ in detail.after] == [36, 35, 34, 33]


def test_before_is_raw_and_after_is_what_was_drawn_from() -> None:
    logits = random_logits(1, 300, seed=10)
    detail = explained(logits, row([5], temperature=0.7, top_k=6, logit_bias={17: 50.0}))
    raw = torch.log_softmax(logits[0].double(), -1).topk(10)
    assert [i for i, _ in detail.before] == raw.indices.tolist()
    assert [v for _, v in detail.before] == pytest.approx(raw.values.tolist(), abs=1e-4)
    biased = logits[0].double().clone()
    biased[17] += 50
    left = biased.topk(6)
    probabilities = torch.softmax(left.values / 0.7, -1).tolist()
    assert [i for i, _ in detail.after] == left.indices.tolist()
    assert [p for _, p in detail.after] == pytest.approx(probabilities, abs=1e-4)


def test_greedy_is_drawn_from_one_token() -> None:
    logits = random_logits(1, seed=11)
    detail = explained(logits, row(**GREEDY, logit_bias={17: 50.0}))
    assert detail.after == [(17, 1.0)] and effects(detail) == {"logit_bias": (False, 1)}


@pytest.mark.parametrize(
    ("fields", "gone"),
    [({"min_p": 0.5}, 6), ({"top_k": 3}, 5), ({"top_p": 0.6}, 6)],
)
def test_cuts_are_told_with_what_they_cut_off(fields: dict[str, Any], gone: int) -> None:
    probabilities = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    detail = explained(probabilities.log()[None], row(**fields))
    (name,) = fields
    assert effects(detail) == {name: (True, gone)}
    assert detail.effects[0].token_ids[0] == 8 - gone
