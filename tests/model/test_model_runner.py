"""ModelRunner under hand-made schedules: whatever the batch, the tokens are transformers' own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from minivllm.attention.torch_backend import TorchAttention
from minivllm.models.causal_lm import CausalLM
from minivllm.models.loader import load_model
from minivllm.worker.model_runner import ModelRunner
from tests.model.builders import CPU, random_prompt, reference_greedy, reference_llama, save_hf
from tests.model.driver import Driver

LENGTHS = (1, 2, 5, 16, 17, 33, 48)
COUNT = 12


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_llama(seed=3, max_position_embeddings=256)


@pytest.fixture(scope="module")
def model(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    directory: Path = tmp_path_factory.mktemp("runner")
    return load_model(save_hf(reference, directory), "float32", CPU)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [random_prompt(length, seed=length) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    return [reference_greedy(reference, prompt, COUNT) for prompt in prompts]


def driver(model: CausalLM, block_size: int = 4, seed: int = 0) -> Driver:
    return Driver(ModelRunner(model, TorchAttention(), block_size, CPU), seed=seed)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_alone_and_batched_equal_transformers(
    model: CausalLM,
    prompts: list[list[int]],
    expected: list[list[int]],
    block_size: int,
) -> None:
    d = driver(model, block_size)
    for i, prompt in enumerate(prompts):
        d.add(f"alone{i}", prompt)
        d.step({f"alone{i}": len(prompt)})
        d.decode([f"alone{i}"], COUNT - 1)
        assert d.finish(f"alone{i}").output == expected[i]
    names = [f"r{i}" for i in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        d.add(name, prompt)
    d.step({name: len(prompt) for name, prompt in zip(names, prompts, strict=True)})
    d.decode(names, COUNT - 1)
    assert [d.requests[name].output for name in names] == expected


@pytest.mark.parametrize("chunk", [1, 3, 4, 7])
def test_prompt_in_chunks_is_sampled_at_its_end_only(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]], chunk: int
) -> None:
    d = driver(model)
    d.add("r1", prompts[-1])
    left = len(prompts[-1])
    while left > chunk:
        output = d.step({"r1": chunk})
        assert output.sampled_token_ids == {} and output.logprobs == {}
        left -= chunk
    d.step({"r1": left})
    d.decode(["r1"], COUNT - 1)
    assert d.requests["r1"].output == expected[-1]


def test_decodes_run_beside_chunks_of_a_prompt(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    d = driver(model)
    d.add("a", prompts[2])
    d.add("b", prompts[3])
    d.add("long", prompts[-1])
    d.step({"a": len(prompts[2]), "long": 10})
    d.step({"a": 1, "long": 10, "b": len(prompts[3])})
    d.step({"long": 10, "b": 1, "a": 1})
    d.step({"b": 1, "long": 18, "a": 1})
    d.decode(["long", "a", "b"], 2)
    for name, i in (("a", 2), ("b", 3), ("long", -1)):
        output = d.requests[name].output
        assert output == expected[i][: len(output)] and len(output) >= 3


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_preempted_request_replays_its_output_tokens(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]], pieces: int
) -> None:
    """Re-prefill after preemption neither forgets nor re-emits the tokens already sampled."""
    d = driver(model)
    d.add("r1", prompts[4])
    d.add("r2", prompts[5])
    d.step({"r1": len(prompts[4]), "r2": len(prompts[5])})
    d.decode(["r1", "r2"], 5)
    d.preempt("r1")
    d.decode(["r2"], 3)  # takes blocks that r1 had
    total = len(prompts[4]) + 6
    for piece in range(pieces):
        count = total // pieces + (total % pieces if piece == pieces - 1 else 0)
        output = d.step({"r2": 1, "r1": count} if piece == 0 else {"r1": count})
        assert ("r1" in output.sampled_token_ids) == (piece == pieces - 1)
    d.decode(["r1"], COUNT - 7)
    assert d.requests["r1"].output == expected[4]
    assert d.requests["r2"].output == expected[5][:10]


def test_prefix_hit_runs_only_what_is_not_cached(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    d = driver(model)
    d.add("first", prompts[-1])
    d.step({"first": 48})
    blocks = d.requests["first"].blocks
    d.add("second", prompts[-1], hit=(blocks[:11], 44))  # at most all tokens but one can hit
    d.step({"first": 1, "second": 4})
    d.decode(["second"], COUNT - 1)
    assert d.requests["second"].output == expected[-1]


def test_hit_on_blocks_filled_in_the_same_step(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    d = driver(model)
    d.add("first", prompts[-1])
    d.requests["first"].blocks = [d.free.pop() for _ in range(12)]
    d.add("second", prompts[-1], hit=(d.requests["first"].blocks[:11], 44))
    d.step({"second": 4, "first": 48})  # the reader even comes first
    d.decode(["second", "first"], COUNT - 1)
    assert d.requests["second"].output == d.requests["first"].output == expected[-1]


def test_random_schedules_equal_transformers(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Any chunking, any order in the batch, preemption at any time: the same tokens."""
    for trial in range(8):
        chance = random.Random(trial)
        d = driver(model, block_size=chance.choice([2, 4, 16]), seed=trial)
        for i, prompt in enumerate(prompts):
            d.add(f"r{i}", prompt)
        while d.requests:
            names = [name for name in d.requests if chance.random() < 0.6]
            chance.shuffle(names)
            plan = {}
            for name in names:
                left = len(d.requests[name].tokens) - d.requests[name].computed
                plan[name] = chance.randint(1, left)
            if plan:
                d.step(plan)
            for name in list(d.requests):
                if len(d.requests[name].output) == COUNT:
                    assert d.finish(name).output == expected[int(name[1:])], (trial, name)
                elif d.requests[name].known and chance.random() < 0.05:
                    d.preempt(name)


def test_seeded_request_is_not_changed_by_batch_chunking_or_preemption(
    model: CausalLM, prompts: list[list[int]]
) -> None:
    alone = driver(model)
    alone.add("r1", prompts[3], seed=42, temperature=0.9, top_p=0.95)
    alone.step({"r1": 16})
    alone.decode(["r1"], 9)

    crowded = driver(model, block_size=16)
    for i, prompt in enumerate(prompts):
        crowded.add(f"mate{i}", prompt, seed=i, temperature=1.5)
    crowded.add("r1", prompts[3], seed=42, temperature=0.9, top_p=0.95)
    crowded.step({"mate0": 1, "mate5": 20, "r1": 5})
    crowded.step({"r1": 11, "mate1": 2, "mate0": 1})
    crowded.decode(["mate0", "r1"], 4)
    crowded.preempt("r1")
    crowded.step({"mate1": 1, "r1": 7})
    crowded.step({"r1": 14})
    crowded.decode(["r1", "mate1"], 4)
    assert crowded.requests["r1"].output == alone.requests["r1"].output
    assert len(set(alone.requests["r1"].output)) > 1


def test_min_tokens_holds_the_stop_ids_back_also_after_preemption(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    stop = expected[3][0]  # what greedy would say first
    d = driver(model)
    d.add("r1", prompts[3], stop_token_ids=[stop], min_tokens=3)
    d.step({"r1": 16})
    d.preempt("r1")
    d.step({"r1": 17})
    d.decode(["r1"], 4)
    assert stop not in d.requests["r1"].output[:3]


def test_nan_in_one_request_fails_it_alone_and_its_blocks_serve_again(
    model: CausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    d = driver(model)
    d.add("ill", prompts[5])
    d.add("well", prompts[4])
    d.step({"ill": 33, "well": 17})
    for cache in d.runner.kv_caches:
        cache[:, d.requests["ill"].blocks] = torch.nan
    output = d.step({"ill": 1, "well": 1})
    assert list(output.errors) == ["ill"] and "not finite" in output.errors["ill"]
    assert list(output.sampled_token_ids) == ["well"]
    d.free = d.finish("ill").blocks + d.free  # whoever comes next gets the poisoned blocks
    d.add("next", prompts[-1])
    d.step({"well": 1, "next": 48})
    d.decode(["next", "well"], COUNT - 1)
    assert d.requests["next"].output == expected[-1]
    assert d.requests["well"].output[:COUNT] == expected[4]


def test_finished_requests_are_forgotten_and_unknown_names_are_no_error(
    model: CausalLM, prompts: list[list[int]]
) -> None:
    d = driver(model)
    d.add("r1", prompts[2])
    d.step({"r1": 5})
    d.finish("r1")
    d.finished.append("aborted before it ran")
    output = d.step({})
    assert output.sampled_token_ids == {} and d.runner.batch.requests == {}


def test_schedule_beyond_the_known_tokens_is_refused(
    model: CausalLM, prompts: list[list[int]]
) -> None:
    d = driver(model)
    d.add("r1", prompts[2])
    with pytest.raises(RuntimeError, match=r"r1 is scheduled up to token 6.*knows 5 tokens"):
        d.step({"r1": 6})


def test_sampled_rows_alone_reach_the_head(
    model: CausalLM, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    real = model.compute_logits

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(hidden.shape[0])
        return real(hidden)

    monkeypatch.setattr(model, "compute_logits", counting)
    d = driver(model)
    d.add("r1", prompts[-1])
    d.add("r2", prompts[2])
    d.step({"r1": 20, "r2": 5})
    d.step({"r1": 28, "r2": 1})
    assert rows == [1, 2]


@pytest.mark.parametrize(
    ("tokenizer_words", "vocab", "row"),
    [(2, 64, [5, 6]), (2, 96, [5, 6, 0]), (3, 64, [5, 6]), (2, 65, [5, 6, 0])],
    ids=["equal", "the model's is padded", "the tokenizer's is larger", "by a token"],
)
def test_grammar_masks_take_the_width_of_the_models_vocabulary(
    model: CausalLM, tokenizer_words: int, vocab: int, row: list[int]
) -> None:
    """What the tokenizer does not know is masked; who has no grammar has all ones."""
    words = b"".join(n.to_bytes(4, "little") for n in (5, 6, 7)[:tokenizer_words])
    bitmask = driver(model).runner._bitmask(["a", "b"], {"b": words}, vocab)
    assert bitmask is not None and bitmask.tolist() == [[-1] * len(row), row]
    assert driver(model).runner._bitmask(["a"], {}, vocab) is None
