"""Sampling through the whole engine, with a small model of random weights.

What a request says depends on the request: not on who shares its batch, in which order they came,
how its prompt was cut, or whether it was preempted. Prompt logprobs are those of ``transformers``
whatever the scheduling.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.llm import LLM
from minivllm.executor.scripted import NextToken
from minivllm.outputs import Logprob
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Reason
from tests.core.builders import Engine
from tests.serve.fakes import FakeTokenizer

torch = pytest.importorskip("torch")

Fields = dict[str, Any]
Wish = tuple[str, list[int], Fields]
"""(request id, prompt, sampling parameters)"""


@pytest.fixture(scope="module")
def reference() -> Any:
    from tests.model.builders import reference_llama

    return reference_llama(seed=5)


@pytest.fixture(scope="module")
def path(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.model.builders import save_hf

    return str(save_hf(reference, tmp_path_factory.mktemp("sampling")).path)


def prompt(length: int, seed: int) -> list[int]:
    from tests.model.builders import random_prompt

    return random_prompt(length, seed)


def engine(path: str, **knobs: Any) -> Engine:
    from minivllm.executor.uniproc import UniprocExecutor

    def executor(config: Any, _: NextToken) -> UniprocExecutor:
        return UniprocExecutor(config)

    roomy = {"num_kv_blocks": 100, "max_model_len": 128, "dtype": "float32"}
    return Engine(executor=executor, model=path, **{**roomy, **knobs})


def run(path: str, wishes: Sequence[Wish], **knobs: Any) -> Engine:
    e = engine(path, **knobs)
    for request_id, prompt_ids, fields in wishes:
        e.add(request_id, prompt_ids, **fields)
    return e.run()


# --- what an output does not depend on -----------------------------------------------------------

SUBJECTS: dict[str, Fields] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"seed": 11, "temperature": 0.9},
    "unseeded": {"temperature": 1.2},
    "cut": {"seed": 12, "top_p": 0.8, "top_k": 30, "min_p": 0.01},
    "greedy with penalties": {
        "temperature": 0.0,
        "repetition_penalty": 1.4,
        "frequency_penalty": 1.5,
        "presence_penalty": 0.5,
    },
    "unseeded with penalties": {
        "temperature": 1.0,
        "repetition_penalty": 0.7,
        "frequency_penalty": -0.5,
    },
    "masked": {
        "seed": 13,
        "allowed_token_ids": list(range(0, 160, 3)),
        "bad_words_token_ids": [[3], [6, 9], [12, 15, 18]],
        "logit_bias": {21: 2.0},
        "min_tokens": 4,
        "stop_token_ids": [24],
    },
}
QUIET: list[Wish] = [
    ("a", prompt(9, 1), {"max_tokens": 2, "temperature": 0.0}),
    ("b", prompt(5, 2), {"max_tokens": 1}),
]
LOUD: list[Wish] = [
    ("a", prompt(22, 3), {"max_tokens": 30, "temperature": 2.0, "frequency_penalty": 2.0}),
    ("b", prompt(17, 4), {"max_tokens": 30, "logit_bias": {3: 100.0}, "logprobs": 5}),
]
LATE: list[Wish] = [("c", prompt(7, 5), {"max_tokens": 20, "top_k": 2, "repetition_penalty": 2.0})]


def subject(fields: Fields) -> Wish:
    return "s", prompt(14, 6), {"max_tokens": 12, **fields}


@pytest.mark.parametrize("name", SUBJECTS)
def test_output_is_the_same_whoever_shares_the_batch(path: str, name: str) -> None:
    """Third in order each time, since an unseeded request draws from its ordinal."""
    wish = subject(SUBJECTS[name])
    expected = run(path, [*QUIET, wish]).said("s")
    assert len(set(expected)) > 3
    assert run(path, [*LOUD, wish, *LATE]).said("s") == expected
    assert run(path, [*LOUD, wish, *LATE], max_num_batched_tokens=5).said("s") == expected


@pytest.mark.parametrize("name", SUBJECTS)
def test_output_is_the_same_after_a_preemption(path: str, name: str) -> None:
    """A resumed request counts what it said before, for penalties, bad words and min_tokens."""
    wish = subject(SUBJECTS[name])
    expected = run(path, [*QUIET, wish]).said("s")
    crowded = run(path, [*LOUD, wish], num_kv_blocks=22)
    lost = [e.data.tokens_lost for e in crowded.events("req.preempt") if e.req == "r3"]
    assert lost and max(lost) > 14, "it is preempted after it has said something"
    assert crowded.said("s") == expected


@pytest.mark.parametrize("name", [name for name in SUBJECTS if "unseeded" not in name])
def test_output_of_a_seeded_request_is_the_same_in_any_order(path: str, name: str) -> None:
    wish = subject(SUBJECTS[name])
    expected = run(path, [wish]).said("s")
    assert run(path, [*LOUD, wish]).said("s") == run(path, [wish, *LOUD]).said("s") == expected


def test_unseeded_requests_differ_from_one_another_and_from_run_to_run(path: str) -> None:
    wishes: list[Wish] = [(f"s{i}", prompt(14, 6), {"max_tokens": 12}) for i in range(3)]
    one = run(path, wishes)
    said = {tuple(one.said(f"s{i}")) for i in range(3)}
    assert len(said) == 3
    again, other = run(path, wishes), run(path, wishes, seed=1)
    assert {tuple(again.said(f"s{i}")) for i in range(3)} == said
    assert not {tuple(other.said(f"s{i}")) for i in range(3)} & said


# --- what the parameters do ----------------------------------------------------------------------


def test_frequency_penalty_makes_greedy_stop_repeating_itself(path: str) -> None:
    def distinct(**fields: Any) -> int:
        wish: Wish = ("s", prompt(14, 6), {"temperature": 0.0, "max_tokens": 60, **fields})
        return len(set(run(path, [wish]).said("s")))

    assert distinct(frequency_penalty=2.0) > distinct() + 5
    assert distinct(frequency_penalty=-2.0) <= distinct()


def test_bad_word_is_never_said_and_its_parts_may_be(path: str) -> None:
    fields: Fields = {"temperature": 0.0, "max_tokens": 20}
    plain = run(path, [("s", prompt(14, 6), fields)]).said("s")
    first, second = plain[3:5]
    banned = {**fields, "bad_words_token_ids": [[first, second]]}
    said = run(path, [("s", prompt(14, 6), banned)]).said("s")
    assert said[:4] == plain[:4] and said[4] != second
    assert all(pair != (first, second) for pair in itertools.pairwise(said))


def test_request_that_leaves_no_token_ends_alone_with_the_reason(path: str) -> None:
    impossible: Fields = {"allowed_token_ids": [3], "bad_words_token_ids": [[3]]}
    e = run(path, [subject({"temperature": 0.0}), ("bad", prompt(9, 1), impossible)])
    assert (e.ended("s"), e.ended("bad")) == ("length", "error")
    last = e.outputs["bad"][-1]
    assert last.refused and "no token is left to draw" in str(last.stop_reason)
    e.assert_nothing_leaked()


# --- prompt logprobs -----------------------------------------------------------------------------

SCORED = prompt(28, 7)


def check_prompt_logprobs(reference: Any, rows: list[TokenLogprobs] | None, top: int) -> None:
    from tests.model.builders import reference_logits

    assert rows is not None and [row.token_id for row in rows] == SCORED[1:]
    expected = torch.log_softmax(reference_logits(reference, SCORED).double(), -1)
    for row, line in zip(rows, expected, strict=False):
        assert row.logprob == pytest.approx(float(line[row.token_id]), abs=1e-3)
        assert row.rank == int((line > line[row.token_id]).sum()) + 1
        best = line.topk(top)
        assert [i for i, _ in row.top] == best.indices.tolist()
        assert [v for _, v in row.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def told(e: Engine, request_id: str) -> list[list[TokenLogprobs]]:
    """All that its outputs said of the prompt; must be one."""
    return [o.prompt_logprobs for o in e.outputs[request_id] if o.prompt_logprobs is not None]


@pytest.mark.parametrize("budget", [3, 7, 64])
@pytest.mark.parametrize("top", [0, 3])
def test_prompt_logprobs_are_transformers_however_the_prompt_is_cut(
    path: str, reference: Any, budget: int, top: int
) -> None:
    wish: Wish = ("s", SCORED, {"max_tokens": 4, "prompt_logprobs": top})
    e = run(path, [*QUIET, wish, *LATE], max_num_batched_tokens=budget)
    (rows,) = told(e, "s")
    check_prompt_logprobs(reference, rows, top)
    assert told(e, "a") == []


def test_prompt_logprobs_are_made_in_portions(
    path: str, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minivllm.worker.model_runner.PROMPT_ROWS_AT_ONCE", 5)
    (rows,) = told(run(path, [("s", SCORED, {"max_tokens": 1, "prompt_logprobs": 2})]), "s")
    check_prompt_logprobs(reference, rows, 2)


def test_prompt_logprobs_are_whole_though_the_prefix_is_cached(path: str, reference: Any) -> None:
    """PITFALLS, vllm 13409 and 42019: the tokens of a hit have no logits."""
    e = engine(path)
    e.add("first", SCORED, max_tokens=2)
    e.run()
    e.add("s", SCORED, max_tokens=2, prompt_logprobs=1)
    e.add("last", SCORED, max_tokens=2)
    e.run()
    (rows,) = told(e, "s")
    check_prompt_logprobs(reference, rows, 1)
    assert [m.data.reason for m in e.events("kv.miss") if m.req == "r2"] == [Reason.PROMPT_LOGPROBS]
    assert [(h.req, h.data.tokens) for h in e.events("kv.hit")] == [("r3", 24)]


@pytest.mark.parametrize("scored", [True, False])
def test_preemption_neither_loses_nor_repeats_a_prompt_logprob(
    path: str, reference: Any, scored: bool
) -> None:
    """Preempted in the middle of its prompt, which another one's growth leaves no room."""
    fields: Fields = {"max_tokens": 10, "temperature": 0.0}
    wishes: list[Wish] = [
        ("a", prompt(8, 8), {"max_tokens": 30}),
        ("s", SCORED, {**fields, **({"prompt_logprobs": 2} if scored else {})}),
        ("z", prompt(40, 9), {"max_tokens": 1}),
    ]
    e = run(path, wishes, num_kv_blocks=12, max_num_batched_tokens=3)
    lost = [p.data.tokens_lost for p in e.events("req.preempt") if p.req == "r2"]
    assert lost and 0 < min(lost) < len(SCORED)
    assert e.said("s") == run(path, [("s", SCORED, fields)]).said("s")
    if scored:
        (rows,) = told(e, "s")
        check_prompt_logprobs(reference, rows, 2)


def test_resumed_after_its_first_token_it_tells_the_prompt_once(path: str, reference: Any) -> None:
    wish: Wish = ("s", SCORED, {"max_tokens": 20, "prompt_logprobs": 1, "temperature": 0.0})
    e = run(path, [*LOUD, wish], num_kv_blocks=27)
    lost = [p.data.tokens_lost for p in e.events("req.preempt") if p.req == "r3"]
    assert lost and max(lost) > len(SCORED)
    (rows,) = told(e, "s")
    check_prompt_logprobs(reference, rows, 1)


def test_worker_refuses_a_hole_in_the_prompt_logprobs(path: str) -> None:
    """A KV manager of one's own that hits all the same is told so."""
    e = engine(path)
    e.add("first", SCORED, max_tokens=1)
    e.run()
    e.add("s", SCORED, max_tokens=1, prompt_logprobs=1)
    request = e.core.scheduler.requests["r2"]
    request.sampling_params = msgspec.structs.replace(request.sampling_params, prompt_logprobs=None)
    real = e.executor.execute_model

    def with_the_wish(output: Any) -> Any:
        for new in output.scheduled_new_reqs:
            new.sampling_params = SamplingParams(prompt_logprobs=1)
        return real(output)

    e.executor.execute_model = with_the_wish  # type: ignore[method-assign]
    e.run()
    assert e.ended("s") == "error"
    assert "must not read the prefix cache" in e.events("run.error")[0].data.message


# --- n samples of one prompt ---------------------------------------------------------------------


def llm(path: str, **knobs: Any) -> LLM:
    from minivllm.config import make_config
    from minivllm.executor.uniproc import UniprocExecutor

    config = make_config(
        **{"model": path, "dtype": "float32", "num_kv_blocks": 60, "block_size": 4, **knobs}
    )
    core = EngineCore(config, UniprocExecutor(config))
    return LLM.from_parts(InprocClient(core), FakeTokenizer())


def test_n_samples_score_the_prompt_once_and_say_what_each_would_alone(
    path: str, reference: Any
) -> None:
    fields: Fields = {"max_tokens": 6, "ignore_eos": True}
    with llm(path) as engine:
        given = {"prompt_token_ids": SCORED}
        params = SamplingParams(n=3, seed=40, prompt_logprobs=2, **fields)
        (output,) = engine.generate(given, params, use_tqdm=False)
        singles = [
            engine.generate(given, SamplingParams(seed=40 + i, **fields), use_tqdm=False)[0]
            for i in range(3)
        ]
    assert [o.token_ids for o in output.outputs] == [s.outputs[0].token_ids for s in singles]
    assert output.prompt_logprobs is not None and output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(SCORED)
    for token_id, row in zip(SCORED[1:], output.prompt_logprobs[1:], strict=True):
        assert row is not None and 2 <= len(row) <= 3 and next(iter(row)) == token_id
        assert all(isinstance(entry, Logprob) and entry.decoded_token for entry in row.values())
    assert all(single.prompt_logprobs is None for single in singles)


def test_prompt_of_one_token_has_one_entry_and_it_is_none(path: str) -> None:
    with llm(path) as engine:
        params = SamplingParams(max_tokens=1, prompt_logprobs=1)
        (output,) = engine.generate({"prompt_token_ids": [7]}, params, use_tqdm=False)
    assert output.prompt_logprobs == [None]


# --- trace level sampling ------------------------------------------------------------------------


def sample_rows(e: Engine) -> list[Any]:
    return [row for event in e.events("sample") for row in event.data.rows]


def test_level_structure_writes_no_candidates(path: str) -> None:
    e = run(path, [subject(SUBJECTS["masked"])])
    lines = e.trace.log.lines("engine0", 1, e.trace.seq)
    sampled = [line for line in lines if b'"kind":"sample"' in line]
    assert sampled and all(
        word not in line for line in sampled for word in (b"before", b"after", b"processors")
    )


def test_level_sampling_tells_before_after_and_each_processor(path: str) -> None:
    e = run(path, [subject(SUBJECTS["masked"]), *QUIET], level="sampling")
    rows = [row for row in sample_rows(e) if row.req == "r1"]
    assert len(rows) == 12
    for i, row in enumerate(rows):
        assert len(row.before) == 10 and row.before[0].text == f"<{row.before[0].token_id}>"
        logprobs = [candidate.logprob for candidate in row.before]
        assert logprobs == sorted(logprobs, reverse=True)
        names = [effect.name for effect in row.processors]
        assert names[0] == "allowed_token_ids" and ("min_tokens" in names) == (i < 4)
        assert row.processors[0].count == 160 - len(range(0, 160, 3))
        assert len(row.processors[0].texts) == len(row.processors[0].token_ids) == 10
        assert all(candidate.token_id % 3 == 0 for candidate in row.after)
        assert sum(candidate.probability for candidate in row.after) <= 1.0001
    assert any(row.token_id in [c.token_id for c in row.after] for row in rows)


def test_level_changes_no_token(path: str) -> None:
    for fields in SUBJECTS.values():
        plain, told = (run(path, [subject(fields)], level=v) for v in ("structure", "sampling"))
        assert plain.said("s") == told.said("s")
