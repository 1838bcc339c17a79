"""Captured tensors against the engine's own computation, over every kind of batch.

The weights are computed beside the backend and must explain what the backend gave: weights · V is
its output. And whoever looks changes nothing: the tokens are the same with and without capture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minivllm.replay.recording import read_recording
from minivllm.replay.verify import verify
from minivllm.trace.artifacts import artifact_events
from minivllm.trace.batch import batch_of
from minivllm.trace.events import Event
from minivllm.trace.file import read_trace
from minivllm.trace.fold import apply, new_state
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.structural import structural
from tests.core.builders import HEADER, Engine
from tests.helpers import events_of

torch = pytest.importorskip("torch")

LAYERS, HEADS, KV_HEADS = 3, 4, 2
REPEATING = [7, 8, 9, 10, 11] * 5
"""So that drafts are found in it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.model.builders import reference_llama, save_hf

    return str(save_hf(reference_llama(seed=5), tmp_path_factory.mktemp("tensors")).path)


class SpyingBackend:
    """The torch backend; keeps every layer's output and its V cache, step after step."""

    def __init__(self) -> None:
        from minivllm.attention.torch_backend import TorchAttention

        self.inner = TorchAttention()
        self.name = "spy"
        self.steps: list[list[tuple[Any, Any, Any]]] = []
        """Of each step, per layer (output, K cache, V cache), the caches by slot."""

    def kv_cache_shape(self, *sizes: int) -> tuple[int, ...]:
        return self.inner.kv_cache_shape(*sizes)

    def prepare(self, metadata: Any, block_size: int) -> Any:
        step, seen = self.inner.prepare(metadata, block_size), []
        self.steps.append(seen)

        class Spy:
            def forward(self, q: Any, k: Any, v: Any, kv_cache: Any) -> Any:
                out = step.forward(q, k, v, kv_cache)
                keys, values = kv_cache.clone().view(2, -1, *k.shape[1:])
                seen.append((out.clone(), keys, values))
                return out

        return Spy()


WISHES: dict[str, list[tuple[list[int], dict[str, Any]]]] = {
    "three": [
        (list(range(20, 33)), {"max_tokens": 4}),
        (list(range(40, 45)), {"max_tokens": 7, "temperature": 1.0, "seed": 3}),
        ([9], {"max_tokens": 3}),
    ],
    "same beginning": [
        (list(range(20, 33)), {"max_tokens": 6}),
        (list(range(20, 32)) + [50, 51], {"max_tokens": 6}),
    ],
    "repeating": [
        (REPEATING, {"max_tokens": 24}),
        ([12, 13, 14] * 4, {"max_tokens": 24}),
        (list(range(60, 70)), {"max_tokens": 5, "temperature": 0.7, "seed": 1}),
    ],
    "crowded": [(list(range(i, i + 8)), {"max_tokens": 8}) for i in (20, 40, 60)],
    "one long": [
        (list(range(20, 90)), {"max_tokens": 3}),
        ([5, 6, 7], {"max_tokens": 3}),
    ],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prefill and decode": ("three", {}),
    "chunked prefill": ("three", {"max_num_batched_tokens": 5}),
    "prefix hit": ("same beginning", {"max_num_batched_tokens": 13}),
    "hit in the same step": ("same beginning", {}),
    "padded rows of static batching": ("three", {"batching": "static"}),
    "drafts": ("repeating", {"speculative_ngram": 4}),
    "preempted": ("crowded", {"num_kv_blocks": 9, "max_model_len": 20}),
}


def run(model: str, case: str, level: str, path: Path | None = None, **more: Any) -> Engine:
    from minivllm.executor.uniproc import UniprocExecutor

    wishes, knobs = CASES.get(case, (case, {}))
    trace = Recorder(TraceLog(HEADER, str(path) if path else None))
    e = Engine(
        executor=lambda config, _: UniprocExecutor(config),
        trace=trace,
        model=model,
        level=level,
        **{"num_kv_blocks": 100, "max_model_len": 128, "dtype": "float32", **knobs, **more},
    )
    e.executor.worker.runner.backend = SpyingBackend()  # type: ignore[attr-defined]
    for i, (prompt, fields) in enumerate(WISHES[wishes]):
        e.add(f"w{i}", prompt, **{"temperature": 0.0, **fields})
    e.run()
    trace.flush()
    return e


@pytest.fixture(scope="module")
def captured(model: str) -> Any:
    made: dict[str, Engine] = {}

    def of(case: str) -> Engine:
        if case not in made:
            made[case] = run(model, case, "tensors")
        return made[case]

    return of


def arrays(e: Engine, step: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """The requests of a captured step, and its arrays by name."""
    artifact = e.trace.log.artifacts.read("engine0", step)
    return artifact.requests, {
        name: np.array(artifact.part(name).values()).reshape(info.shape)
        for name, info in artifact.arrays.items()
    }


BATCH = ("input_ids", "positions", "query_start_loc", "seq_lens", "slot_mapping", "block_table")


@pytest.mark.parametrize("case", CASES)
def test_the_worker_s_arrays_are_those_that_the_events_tell(captured: Any, case: str) -> None:
    e = captured(case)
    steps: dict[int, list[Event]] = {}
    for event in events_of(e.trace):
        steps.setdefault(event.step, []).append(event)
    state, seen = new_state(), 0
    for step, events in steps.items():
        if any(event.kind == "exec.tensors" for event in events):
            batch = batch_of(state, events)
            assert batch is not None
            requests, recorded = arrays(e, step)
            assert batch.requests == requests
            for name in BATCH:
                assert getattr(batch, name) == recorded[name].tolist(), (step, name)
            seen += 1
        for event in events:
            apply(state, event)
    assert seen == len(e.events("exec.tensors")) > 0


def steps_of(e: Engine) -> list[tuple[int, list[tuple[Any, Any, Any]]]]:
    """(step, what the backend saw in it) of all steps that ran."""
    steps = [event.step for event in e.events("exec.tensors")]
    seen = e.executor.worker.runner.backend.steps  # type: ignore[attr-defined]
    assert len(steps) == len(seen) == len(e.events("exec.forward"))
    return list(zip(steps, seen, strict=True))


def slots(table: np.ndarray, count: int, block_size: int = 4) -> np.ndarray:
    positions = np.arange(count)
    return table[positions // block_size] * block_size + positions % block_size


@pytest.mark.parametrize("case", CASES)
def test_weights_times_v_is_what_the_backend_gave(captured: Any, case: str) -> None:
    e = captured(case)
    for step, layers in steps_of(e):
        requests, read = arrays(e, step)
        starts, lens = read["query_start_loc"], read["seq_lens"]
        assert len(layers) == LAYERS
        for i, req in enumerate(requests):
            weights = read[f"attention.{req}"]
            assert weights.shape == (LAYERS, HEADS, starts[i + 1] - starts[i], lens[i])
            where = slots(read["block_table"][i], lens[i])
            for layer, (out, _, values) in enumerate(layers):
                v = np.repeat(values.numpy()[where], HEADS // KV_HEADS, axis=1)  # (keys, heads, d)
                mine = np.einsum("hqk,khd->qhd", weights[layer], v)
                theirs = out.numpy()[starts[i] : starts[i + 1]]
                np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_each_row_sums_to_one_and_no_later_token_is_looked_at(captured: Any, case: str) -> None:
    e = captured(case)
    for step, _ in steps_of(e):
        requests, read = arrays(e, step)
        for i, req in enumerate(requests):
            weights = read[f"attention.{req}"]
            _, _, queries, keys = weights.shape
            np.testing.assert_allclose(weights.sum(-1), 1, atol=2e-3)
            later = np.arange(keys) > np.arange(keys - queries, keys)[:, None]
            assert (weights[..., later] == 0).all() and (weights >= 0).all()
            first = read["positions"][read["query_start_loc"][i]]
            assert first == keys - queries


@pytest.mark.parametrize("case", CASES)
def test_k_and_v_are_what_lies_in_the_cache(captured: Any, case: str) -> None:
    e = captured(case)
    for step, layers in steps_of(e):
        _, read = arrays(e, step)
        num_tokens = read["query_start_loc"][-1]
        where = read["slot_mapping"][:num_tokens]
        assert (where >= 0).all() and (read["slot_mapping"][num_tokens:] == -1).all()
        for layer, (_, keys, values) in enumerate(layers):
            assert np.array_equal(read["k"][layer], keys.numpy()[where])
            assert np.array_equal(read["v"][layer], values.numpy()[where])


@pytest.mark.parametrize("case", CASES)
def test_batch_is_the_one_that_was_composed(captured: Any, case: str) -> None:
    e = captured(case)
    composed = {event.step: event.data for event in e.events("batch.compose")}
    for step, _ in steps_of(e):
        requests, read = arrays(e, step)
        rows = composed[step].rows
        assert requests == [row.req for row in rows]
        assert np.diff(read["query_start_loc"]).tolist() == [row.n for row in rows]
        assert len(read["input_ids"]) == composed[step].tokens + composed[step].padding
        for i, row in enumerate(rows):
            begin = read["query_start_loc"][i]
            ran = read["input_ids"][begin : begin + row.n].tolist()
            assert read["positions"][begin] == row.start
            known = e.state().requests[row.req].tokens[row.start : row.start + row.n]
            if case != "drafts":
                assert ran == known
            else:
                assert ran[0] == known[0]


def test_every_kind_of_batch_is_among_the_cases(captured: Any) -> None:
    def some(case: str, kind: str) -> list[Any]:
        return [event.data for event in captured(case).events(kind)]

    assert some("chunked prefill", "sched.chunk")
    assert any(hit.tokens for hit in some("prefix hit", "kv.hit"))
    assert any(batch.padding for batch in some("padded rows of static batching", "batch.compose"))
    assert some("drafts", "spec.accept") and some("drafts", "spec.reject")
    assert some("preempted", "req.preempt")


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_decisions_are_the_same_with_and_without_capture(
    captured: Any, model: str, case: str
) -> None:
    without = run(model, case, "sampling")
    assert without.events("exec.tensors") == []
    assert structural(events_of(without.trace)) == structural(events_of(captured(case).trace))


@pytest.mark.parametrize("case", CASES)
def test_likeliest_tokens_are_those_of_the_sampling_level(captured: Any, case: str) -> None:
    e = captured(case)
    for event in e.events("sample"):
        _, read = arrays(e, event.step)
        if not event.data.rows:
            assert "top.rows" not in read
            continue
        told = [[one.token_id for one in row.before] for row in event.data.rows]
        mine = read["top.token_ids"].tolist()
        if case == "drafts":  # rows behind a wrong draft are not told
            assert all(row in mine for row in told)
        else:
            assert mine == told
            last = read["query_start_loc"][1:] - 1
            assert set(read["top.rows"].tolist()) <= set(last.tolist())


def test_what_does_not_fit_is_left_out_and_named(model: str) -> None:
    e = run(model, "one long", "tensors", tensors_limit=2**16, max_num_batched_tokens=99)
    first = e.events("trace.left_out")[0]
    need = LAYERS * HEADS * 70 * 70 * 2
    assert (first.step, first.data.arrays, first.data.need) == (1, ["attention.r1"], need)
    requests, read = arrays(e, 1)
    assert requests == ["r1", "r2"] and "attention.r1" not in read and "k" in read
    assert read["attention.r2"].shape == (LAYERS, HEADS, 3, 3)  # the small one behind it has room
    _, read = arrays(e, 2)  # a decode of the long one has
    assert read["attention.r1"].shape == (LAYERS, HEADS, 1, 71)
    assert len(e.events("trace.left_out")) == 1


def test_bfloat16_is_written_as_it_lies_in_the_cache(model: str) -> None:
    e = run(model, "prefill and decode", "tensors", dtype="bfloat16")
    for step, layers in steps_of(e):
        artifact = e.trace.log.artifacts.read("engine0", step)
        assert artifact.info("k").dtype == "BF16"
        requests, read = arrays(e, step)
        where = read["slot_mapping"]
        for layer, (out, keys, values) in enumerate(layers):
            assert np.array_equal(read["k"][layer], keys.float().numpy()[where])
            v = np.repeat(values.float().numpy(), HEADS // KV_HEADS, axis=1)
            for i, req in enumerate(requests):
                mine = slots(read["block_table"][i], read["seq_lens"][i])
                rows = slice(read["query_start_loc"][i], read["query_start_loc"][i + 1])
                explained = np.einsum("hqk,khd->qhd", read[f"attention.{req}"][layer], v[mine])
                np.testing.assert_allclose(explained, out.float().numpy()[rows], atol=0.05)


def test_armed_step_tells_the_same_as_the_level(captured: Any, model: str) -> None:
    from minivllm.executor.uniproc import UniprocExecutor

    wishes, knobs = CASES["chunked prefill"]
    e = Engine(
        executor=lambda config, _: UniprocExecutor(config),
        model=model,
        **{"num_kv_blocks": 100, "max_model_len": 128, "dtype": "float32", **knobs},
    )
    for i, (prompt, fields) in enumerate(WISHES[wishes]):
        e.add(f"w{i}", prompt, **{"temperature": 0.0, **fields})
    e.core.arm(4)
    e.run()
    assert [event.step for event in e.events("exec.tensors")] == [4]
    (_, mine), (_, level) = arrays(e, 4), arrays(captured("chunked prefill"), 4)
    assert set(mine) == set(level)
    assert all(np.array_equal(mine[name], level[name]) for name in mine)


@pytest.mark.parametrize("case", ["chunked prefill", "drafts"])
def test_trace_verifies_with_recorded_and_with_recomputed_tokens(
    model: str, case: str, tmp_path: Path
) -> None:
    from minivllm.config import make_config
    from minivllm.executor.uniproc import UniprocExecutor

    path = tmp_path / "run.jsonl"
    run(model, case, "tensors", path)
    recording = read_recording(read_trace(path), "engine0")
    assert artifact_events(read_trace(path).events)
    verdict = verify(recording)
    assert verdict.difference is None and verdict.num_events > 50

    def executor(config: Any) -> UniprocExecutor:
        return UniprocExecutor(make_config(config, model=model, dtype="float32"))

    again = verify(recording, executor, with_logprobs=False)
    assert again.difference is None
