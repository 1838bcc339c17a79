"""A step looks at the device once, whatever mix of rows it samples, and says the same as the CPU.

Twice over: on the meta device, which has no numbers to look at, and on the CPU, made to go the
GPU's way, where the numbers are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.core.scheduler_output import SchedulerOutput
from minivllm.models.loader import load_model
from minivllm.sample import sampler
from minivllm.sample.draw_batch import draw_batch
from minivllm.sample.row import SampleRow
from minivllm.sample.sampler import NOT_FINITE, NOTHING_LEFT, draw, sample
from minivllm.sample.transfer import HostTransfer
from minivllm.sampling_params import SamplingParams
from minivllm.worker.model_runner import ModelRunner
from tests.model.builders import CPU, random_prompt, reference_llama, save_hf
from tests.model.driver import Driver
from tests.model.recording import GatheringAttention, Looks

VOCAB = 600
GREEDY: dict[str, Any] = {"temperature": 0}
CUTS: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.01}
PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.2,
}
MASKS: dict[str, Any] = {
    "allowed_token_ids": [*range(0, VOCAB, 3), VOCAB + 7],
    "bad_words_token_ids": [[9], [3, 12], [1, 2, 6]],
    "min_tokens": 9,
    "logit_bias": {15: 4.0, VOCAB + 1: 9.0},
}
NOTHING = {"allowed_token_ids": [9], "bad_words_token_ids": [[9]]}
GRAMMAR = "grammar"

MIXES: dict[str, list[dict[str, Any]]] = {
    "greedy": [GREEDY, GREEDY | {"logprobs": 3}, GREEDY],
    "greedy with processors": [GREEDY | PENALTIES, GREEDY | MASKS, GREEDY | {GRAMMAR: [4, 9]}],
    "random": [{}, {"temperature": 0.7}, {"temperature": 2.0, "logprobs": 0}],
    "one cut each": [{"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {}],
    "top_k everywhere": [CUTS, {"top_k": 1, "top_p": 0.5}, {"top_k": 7}],
    "top_k of everything": [{"top_k": -1}, {"top_k": VOCAB}, {"top_k": 9999, "top_p": 0.9}],
    "logprobs": [{"logprobs": 20}, GREEDY, CUTS | {"logprobs": 1}],
    "grammar": [
        {GRAMMAR: [4]},
        {},
        CUTS | {GRAMMAR: [5, 40, 599]},
        {GRAMMAR: [2], "min_tokens": 9},
    ],
    "nothing left": [NOTHING, GREEDY | NOTHING, CUTS | NOTHING | {"logprobs": 2}, {}],
    "all together": [GREEDY, CUTS | PENALTIES, MASKS | PENALTIES | {"logprobs": 5}, NOTHING, {}],
}


def asked(name: str) -> tuple[list[SampleRow], np.ndarray | None]:
    """The mix's rows, and the bitmask if one has a grammar."""
    rows = []
    bits = np.ones((len(MIXES[name]), 19 * 32), np.uint8)
    for i, fields in enumerate(MIXES[name]):
        params = {key: value for key, value in fields.items() if key != GRAMMAR}
        said = [1, 3, 3, 2, VOCAB + 2, 3]
        rows.append(SampleRow(SamplingParams(max_tokens=None, **params), 7 + i, said, 2, [2, 601]))
        if GRAMMAR in fields:
            bits[i] = 0
            bits[i, fields[GRAMMAR]] = 1
    grammar = any(GRAMMAR in fields for fields in MIXES[name])
    return rows, np.packbits(bits, axis=1, bitorder="little").view(np.int32) if grammar else None


def random_logits(rows: int, vocab: int = VOCAB, seed: int = 3) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.fixture
def waiting_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "looks_are_free", lambda device: False)


# --- one look ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXES)
def test_a_device_is_looked_at_once(name: str) -> None:
    rows, bitmask = asked(name)
    logits = torch.empty(len(rows), VOCAB, device="meta")
    with Looks() as seen:
        sample(logits, rows, bitmask)
    assert seen == ["tolist"]


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
def test_one_look_says_what_many_say(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: float | None
) -> None:
    """Ids, logprobs and errors, also where a row's logits are not finite."""
    rows, bitmask = asked(name)
    logits = random_logits(len(rows))
    if broken is not None:
        logits[1, 17] = broken
    expected = sample(logits, rows, bitmask, explain=True)
    if broken is not None:
        assert expected.errors[1] == NOT_FINITE
    monkeypatch.setattr(sampler, "looks_are_free", lambda device: False)
    with Looks() as seen:
        got = sample(logits, rows, bitmask)
    assert seen == ["tolist"]
    assert (got.token_ids, got.logprobs, got.errors) == (
        expected.token_ids,
        expected.logprobs,
        expected.errors,
    )
    assert sample(logits, rows, bitmask, explain=True).details == expected.details


def test_every_mix_with_nothing_left_is_refused_not_drawn(waiting_costs: None) -> None:
    rows, _ = asked("nothing left")
    result = sample(random_logits(4), rows)
    assert result.errors == dict.fromkeys((0, 1, 2), NOTHING_LEFT) and result.token_ids[3] >= 0


def test_explanations_cost_one_transfer_more(
    monkeypatch: pytest.MonkeyPatch, waiting_costs: None
) -> None:
    monkeypatch.setattr(
        sampler, "explain_row", lambda *_: None
    )  # on the host, where looks are free
    rows, bitmask = asked("all together")
    with Looks() as seen:
        sample(random_logits(len(rows)), rows, bitmask, explain=True)
    assert seen == ["tolist", "cpu"]


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.max() > 0),
        lambda x: x[x > 0],
        lambda x: x[x.argmax()],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.cpu(),
        lambda x: float(x[0]),
    ],
)
def test_the_list_of_looks_misses_none(look: Callable[[torch.Tensor], Any]) -> None:
    with Looks() as seen:
        look(torch.arange(3.0))
    assert len(seen) == 1


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: torch.tensor([1, 2]).to("meta"),
        lambda x: x.copy_(torch.tensor([1.0, 2.0])),
        lambda x: x[torch.tensor([1, 0])],
    ],
)
def test_copies_that_are_waited_for_are_looks(copy: Callable[[torch.Tensor], Any]) -> None:
    with Looks() as seen:
        copy(torch.empty(2, device="meta"))
    assert len(seen) == 1


def test_what_is_added_after_the_transfer_is_refused() -> None:
    transfer = HostTransfer()
    assert transfer.read(transfer.add(torch.ones(2), torch.tensor(3))) == [[1.0, 1.0], [3.0]]
    with pytest.raises(RuntimeError, match="before the first read"):
        transfer.add(torch.ones(1))


# --- the draw over fixed shapes ------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.sampled_from([5, 60, 700]),
    step=st.sampled_from([0.0, 0.5, 3.0]),
    masked=st.sampled_from([0.0, 0.3, 0.9]),
    wishes=st.lists(
        st.fixed_dictionaries(
            {
                "temperature": st.sampled_from([0.3, 1.0, 2.0]),
                "top_k": st.sampled_from([-1, 0, 1, 3, 50, 10_000]),
                "top_p": st.sampled_from([0.013, 0.47, 0.91, 0.9987, 1.0]),
                "min_p": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
            }
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_rows_at_once_draw_what_each_draws_alone(
    seed: int, vocab: int, step: float, masked: float, wishes: list[dict[str, Any]]
) -> None:
    """``step`` rounds the logits, so that ties occur; masked tokens are never drawn."""
    logits = random_logits(len(wishes), vocab, seed)
    logits = (logits / step).round() * step if step else logits
    logits[:, : int(masked * vocab)] = -math.inf
    rows = [
        SampleRow(SamplingParams(max_tokens=None, **fields), seed + i, [0] * (1 + i), 1)
        for i, fields in enumerate(wishes)
    ]
    alone = [int(draw(logits[i], asking)) for i, asking in enumerate(rows)]
    assert draw_batch(logits, rows).tolist() == alone


# --- the whole step ------------------------------------------------------------------------------


def test_a_step_of_every_kind_of_row_makes_one_transfer(tmp_path: Any, waiting_costs: None) -> None:
    """Prompt logprobs of one request, in the same transfer as the others' tokens; and alone, in a
    step that samples nothing."""
    reference = reference_llama(seed=5, max_position_embeddings=256)
    model = load_model(save_hf(reference, tmp_path / "m"), "float32", CPU)
    runner = ModelRunner(model, GatheringAttention(), 4, CPU)
    d = Driver(runner, 80)
    execute, seen = runner.execute_model, []

    def watched(output: SchedulerOutput) -> Any:
        if "grammar" in output.num_scheduled_tokens:
            words = np.full(-(-model.spec.vocab_size // 32), 0b1010, np.int32)
            output.grammar_bitmask = {"grammar": words.tobytes()}
        with Looks() as looks:
            result = execute(output)
        seen.append(looks)
        return result

    runner.execute_model = watched  # type: ignore[method-assign]
    prompt = random_prompt(6, seed=1)
    d.add("scored", prompt, prompt_logprobs=2, temperature=0.8, top_p=0.9)
    d.step({"scored": 1})  # GatheringAttention takes a token of each request at a time
    d.add("greedy", prompt[:1])
    d.add("random", prompt[:1], **CUTS, logprobs=3)
    d.add("penalties", prompt[:1], temperature=1.0, **PENALTIES)
    d.add("grammar", prompt[:1], temperature=1.0, seed=4)
    names = ["scored", "greedy", "random", "penalties", "grammar"]
    steps = [d.step(dict.fromkeys(names, 1)) for _ in range(7)]
    assert seen == [["tolist"]] * 8
    (scored,) = (o.prompt_logprobs["scored"] for o in steps if "scored" in o.prompt_logprobs)
    assert [entry.token_id for entry in scored] == prompt[1:]
    assert all(len(entry.top) == 2 for entry in scored)
    said = d.requests["grammar"].output
    words = {i for i in range(model.spec.vocab_size) if 0b1010 >> i % 32 & 1}
    assert len(said) == 7 and set(said) <= words
