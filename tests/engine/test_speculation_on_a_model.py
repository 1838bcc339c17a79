"""Speculation and static batching on a real model: fewer steps, or wasted rows; the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minivllm import LLM, SamplingParams
from minivllm.trace.file import Trace, read_trace
from tests.model.builders import random_prompt, reference_llama, save_hf, save_tokenizer

REPEATING = [[7, 8, 9, 10] * 6 + [7, 8], random_prompt(9, seed=1) * 3, random_prompt(30, seed=2)]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
DRAWN = SamplingParams(temperature=1.0, top_p=0.3, seed=5, max_tokens=24, ignore_eos=True)
FUSSY = SamplingParams(
    temperature=0.7,
    seed=11,
    max_tokens=24,
    min_tokens=20,
    repetition_penalty=1.3,
    frequency_penalty=0.4,
    logit_bias={9: 2.0},
)


SETS = {"greedy": GREEDY, "drawn": DRAWN, "fussy": FUSSY}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_hf(reference_llama(seed=3, vocab_size=272, max_position_embeddings=256), path)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def plain(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each set of parameters says on the engine as it is by default."""
    trace = tmp_path_factory.mktemp("plain") / "t.jsonl"
    return {name: [ids for ids, _ in run(directory, trace, SETS[name])] for name in SETS}


def run(directory: Path, trace: Path, params: SamplingParams, **knobs: Any) -> list[Any]:
    with LLM(str(directory), dtype="float32", block_size=4, trace=str(trace), **knobs) as llm:
        prompts: Any = [{"prompt_token_ids": ids} for ids in REPEATING]
        outputs = llm.generate(prompts, params, use_tqdm=False)
    return [(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs]


def events(trace: Trace, kind: str) -> list[Any]:
    return [event.data for event in trace.events if event.kind == kind]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "knobs",
    [
        {"speculative_ngram": 4, "prompt_lookup_min": 1},
        {"speculative_ngram": 3, "prompt_lookup_min": 1, "num_kv_blocks": 20},
        {"speculative_ngram": 5, "prompt_lookup_min": 1, "max_num_batched_tokens": 7},
        {"batching": "static", "max_num_seqs": 2},
        {
            "kv_manager_cls": "contiguous",
            "enable_prefix_caching": False,
            "contiguous_reserve": "request",
        },
    ],
    ids=["ngram", "ngram-preempted", "ngram-tight", "static", "contiguous"],
)
def test_no_way_of_running_changes_a_token(
    directory: Path,
    tmp_path: Path,
    plain: dict[str, list[Any]],
    name: str,
    knobs: dict[str, Any],
) -> None:
    other = run(directory, tmp_path / "other.jsonl", SETS[name], **knobs)
    assert [ids for ids, _ in other] == plain[name]
    trace = read_trace(tmp_path / "other.jsonl")
    if "speculative_ngram" in knobs:
        assert events(trace, "spec.propose") and events(trace, "spec.reject")
    if "num_kv_blocks" in knobs:
        assert events(trace, "req.preempt")


def test_each_right_guess_saves_its_request_a_step(directory: Path, tmp_path: Path) -> None:
    def turns(**knobs: Any) -> tuple[int, int]:
        run(directory, tmp_path / "t.jsonl", GREEDY, **knobs)
        trace = read_trace(tmp_path / "t.jsonl")
        accepted = sum(data.n for data in events(trace, "spec.accept"))
        return len(events(trace, "sched.grant")), accepted

    guessing, accepted = turns(speculative_ngram=4, prompt_lookup_min=1)
    assert accepted > 0 and (guessing + accepted, 0) == turns()


def test_logprobs_are_those_of_the_tokens_that_count(directory: Path, tmp_path: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)
    plain = run(directory, tmp_path / "a.jsonl", params)
    guessing = run(
        directory, tmp_path / "b.jsonl", params, speculative_ngram=4, prompt_lookup_min=1
    )
    for (ids, logprobs), (others, other_logprobs) in zip(plain, guessing, strict=True):
        assert ids == others and len(logprobs) == len(other_logprobs) == 16
        for one, two in zip(logprobs, other_logprobs, strict=True):
            assert set(one) == set(two)
            for token_id in one:
                assert one[token_id].logprob == pytest.approx(two[token_id].logprob, abs=1e-4)


def test_static_batching_computes_on_rows_of_nobody(directory: Path, tmp_path: Path) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (2, 5, 9)]
    with LLM(
        str(directory), block_size=4, trace=str(tmp_path / "t.jsonl"), batching="static"
    ) as llm:
        prompts: Any = [{"prompt_token_ids": ids} for ids in REPEATING]
        llm.generate(prompts, params, use_tqdm=False)
    batches = events(read_trace(tmp_path / "t.jsonl"), "batch.compose")
    assert [batch.padding for batch in batches] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
