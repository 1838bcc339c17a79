"""A token's numbers depend on its own past alone: to the last bit, whoever else is in the batch,
however its prompt was cut, and whatever the engine's limits are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivllm.engine.llm import LLM
from minivllm.models import loader
from minivllm.models.causal_lm import CausalLM
from minivllm.models.quantized import QuantizedLayer, QuantizedLinear
from minivllm.sampling_params import SamplingParams
from minivllm.trace.file import read_trace
from tests.kernels.batches import same_bits
from tests.model.builders import random_prompt
from tests.native.sequences import alone, logits_in_steps, needs_codes, on_codes, tiny_gguf
from tests.native.test_quantized import some_groups

BF16 = torch.bfloat16
pytestmark = needs_codes


@pytest.fixture(scope="module", params=["Q4_0", "Q8_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return on_codes(tiny_gguf(tmp_path_factory.mktemp("codes"), request.param))


class Through:
    """Attention that is none: each token sees itself alone. Its result is q, plus V of its head."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_cache: torch.Tensor
    ) -> torch.Tensor:
        return q + k + v  # one K/V head for all


def through(model: CausalLM, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    layer = model.layers[0]
    assert isinstance(layer, QuantizedLayer)
    with torch.inference_mode():
        return layer(x, model.rotary(positions, BF16), torch.empty(0), Through())


batches = st.tuples(st.integers(1, 300), st.integers(0, 299)).map(lambda b: (b[0], b[1] % b[0]))
"""(tokens, which of them)"""


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_the_same_alone_and_in_any_batch(bits: int) -> None:
    linear = QuantizedLinear(some_groups(96, 64, bits), torch.randn(96))

    @settings(max_examples=60, deadline=None)
    @given(batch=batches, seed=st.integers(0, 1000))
    def check(batch: tuple[int, int], seed: int) -> None:
        tokens, token = batch
        x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(seed)).to(BF16)
        assert same_bits(linear(x)[token], linear(x[token : token + 1])[0])

    check()


def test_a_layer_is_the_same_alone_and_in_any_batch(model: CausalLM) -> None:
    @settings(max_examples=60, deadline=None)
    @given(batch=batches, seed=st.integers(0, 1000))
    def check(batch: tuple[int, int], seed: int) -> None:
        tokens, token = batch
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(tokens, 128, generator=generator).to(BF16)
        positions = torch.randint(0, 500, (tokens,), generator=generator)
        just = slice(token, token + 1)
        whole = through(model, x, positions)
        assert same_bits(whole[just], through(model, x[just], positions[just]))

    check()


@pytest.mark.parametrize("tokens", [252, 253, 504, 505])
def test_every_token_of_a_long_batch_is_as_alone(model: CausalLM, tokens: int) -> None:
    """A layer takes 252 at once."""
    x = torch.randn(tokens, 128, generator=torch.Generator().manual_seed(1)).to(BF16)
    positions = torch.arange(tokens)
    whole = through(model, x, positions)
    singly = [through(model, x[[i]], positions[[i]]) for i in range(tokens)]
    assert same_bits(whole, torch.cat(singly))


def test_threads_change_no_bit_of_a_layer(model: CausalLM) -> None:
    before = torch.get_num_threads()
    for tokens in (1, 7, 8, 260):
        x = torch.randn(tokens, 128, generator=torch.Generator().manual_seed(2)).to(BF16)
        results = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(through(model, x, torch.arange(tokens)))
        finally:
            torch.set_num_threads(before)
        assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("tokens", [1, 4, 9, 260])
def test_what_is_not_a_number_stays_in_its_token_of_a_layer(
    model: CausalLM, tokens: int, bad: float
) -> None:
    clean = torch.randn(tokens, 128, generator=torch.Generator().manual_seed(3)).to(BF16)
    expected = through(model, clean, torch.arange(tokens))
    for token in {0, tokens // 2, tokens - 1}:
        x = clean.clone()
        x[token, 77] = bad
        found = through(model, x, torch.arange(tokens))
        assert not bool(found[token].isfinite().any())
        others = torch.arange(tokens) != token
        assert same_bits(found[others], expected[others])


PROMPT = random_prompt(270, seed=4, vocab=288)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 255])
def test_a_prompt_may_be_fed_in_any_chunks(model: CausalLM, chunk: int) -> None:
    whole = alone(model, PROMPT)
    assert bool(whole.isfinite().all()) and len(set(whole.argmax(1).tolist())) > 20
    assert same_bits(alone(model, PROMPT, chunk), whole)


LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=5)


def test_neighbours_and_chunks_change_no_bit(model: CausalLM) -> None:
    """Any schedule: in each step some sequences, each with as many tokens as it likes."""

    @settings(max_examples=25, deadline=None)
    @given(lengths=LENGTHS, data=st.data())
    def check(lengths: list[int], data: st.DataObject) -> None:
        prompts = [random_prompt(length, seed=i, vocab=288) for i, length in enumerate(lengths)]
        left, steps = dict(enumerate(lengths)), []
        while left:
            who = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
            step = []
            for which in who:
                count = data.draw(st.one_of(st.just(1), st.integers(1, left[which])))
                if len(steps) > 12:  # enough
                    count = left[which]
                step.append((which, count))
                left[which] -= count
                if not left[which]:
                    del left[which]
            steps.append(step)
        for prompt, found in zip(prompts, logits_in_steps(model, prompts, steps), strict=True):
            assert same_bits(found, alone(model, prompt))

    check()


def test_a_request_of_nan_leaves_its_neighbours_alone(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, look_up = 287, model.embed  # no prompt has this token
    assert look_up is not None

    def poisoned(ids: torch.Tensor) -> torch.Tensor:
        x = look_up(ids)
        x[ids == bad, 5] = math.nan
        return x

    monkeypatch.setattr(model, "embed", poisoned)
    prompts = [random_prompt(length, seed=length, vocab=bad) for length in (20, 33, 5)]
    steps = [[(0, 20), (1, 30), (2, 4)], [(2, 1), (1, 3)]]
    clean = logits_in_steps(model, prompts, steps)
    prompts[1][10] = bad
    found = logits_in_steps(model, prompts, steps)
    assert same_bits(found[0], clean[0]) and same_bits(found[2], clean[2])
    assert not bool(found[1][10:].isfinite().any()), "what comes after it has seen it"


# --- the whole engine ----------------------------------------------------------------------------

PROMPTS = [random_prompt(length, seed=length, vocab=250) for length in (100, 41, 40, 17, 16, 1)]
PROMPTS.append(PROMPTS[0][:64] + [7, 8, 9])  # of a known prefix
PARAMS = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=3)
ROOMY: dict[str, Any] = {
    "num_kv_blocks": 200,
    "block_size": 16,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 8,
    "enable_prefix_caching": False,
}


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"dtype": "float32"}, "torch"),
        ({"dtype": "bfloat16"}, "native, codes"),
        (
            {"dtype": "bfloat16", "attention_backend": "torch"},
            "torch, codes, varies with the batch",
        ),
        ({"dtype": "bfloat16", "quantization": "none"}, "native, onednn, varies with the batch"),
    ],
)
def test_a_header_says_what_varies_with_the_batch(
    knobs: dict[str, str], told: str, tmp_path: Path
) -> None:
    trace = tmp_path / "run.jsonl"
    with LLM(str(tiny_gguf(tmp_path, "Q4_1").path), trace=str(trace), num_kv_blocks=20, **knobs):
        pass
    assert read_trace(trace).header.kernel_path == told


@pytest.mark.parametrize("packing", ["Q4_1", "Q8_0"])
def test_greedy_tokens_are_the_same_whatever_the_limits(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And their logprobs, to the last bit."""
    monkeypatch.setattr(loader, "bfloat16_pays", lambda: True)
    path = str(tiny_gguf(tmp_path, packing).path)

    def run(**changes: Any) -> tuple[list[Any], int]:
        trace = tmp_path / "run.jsonl"
        with LLM(path, dtype="fast", trace=str(trace), **{**ROOMY, **changes}) as llm:
            outputs = []
            for _ in range(2):  # the second time with what the first left in the cache
                prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
                results = llm.generate(prompts, PARAMS, use_tqdm=False)
                outputs.append([(r.outputs[0].token_ids, r.outputs[0].logprobs) for r in results])
        recorded = read_trace(trace)
        assert recorded.header.kernel_path == "native, codes"
        assert outputs[0] == outputs[1]
        return outputs[0], sum(e.kind == "req.preempt" for e in recorded.engine_events)

    expected, preempted = run()
    assert not preempted and len({tuple(tokens) for tokens, _ in expected}) > 3
    for changes in (
        {"max_num_batched_tokens": 7, "max_num_seqs": 7},
        {"max_num_batched_tokens": 64},
        {"max_num_seqs": 1},
        {"max_num_seqs": 3, "enable_prefix_caching": True},
        {"enable_prefix_caching": True, "block_size": 4},
    ):
        assert run(**changes)[0] == expected, changes
    for caching in (False, True):
        tokens, preempted = run(num_kv_blocks=14, enable_prefix_caching=caching)
        assert tokens == expected and preempted > 0
