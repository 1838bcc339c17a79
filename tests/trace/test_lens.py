"""The lens on made-up weights: row, overview and matrix are what numpy makes of the same."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from minivllm.core.scheduler_output import TensorArray
from minivllm.errors import ArtifactError, MissingArtifactError
from minivllm.trace import lens
from minivllm.trace.artifacts import Artifact, encode
from minivllm.trace.events import ArrayInfo, ExecTensors

LAYERS, HEADS, KV_HEADS = 3, 4, 2


def weights(queries: int, keys: int, seed: int = 0) -> np.ndarray:
    """(layers, heads, queries, keys) float16: rows that sum to 1 and see no later key."""
    scores = np.random.default_rng(seed).normal(0, 3, (LAYERS, HEADS, queries, keys))
    later = np.arange(keys) > np.arange(keys - queries, keys)[:, None]
    scores[..., later] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return (shares / shares.sum(-1, keepdims=True)).astype(np.float16)


def artifact(made: np.ndarray) -> Artifact:
    k = np.zeros((LAYERS, made.shape[2], KV_HEADS, 8), np.float32)
    arrays = [
        TensorArray("attention.r1", "F16", list(made.shape), made.tobytes()),
        TensorArray("k", "F32", list(k.shape), k.tobytes()),
    ]
    raw = encode(arrays, {})
    infos = [ArrayInfo(name=a.name, dtype=a.dtype, shape=a.shape) for a in arrays]
    told = ExecTensors(
        file="step-000001.safetensors", bytes=len(raw), crc32=zlib.crc32(raw),
        requests=["r1"], arrays=infos,
    )  # fmt: skip
    return Artifact(raw, told, "step 1")


@pytest.mark.parametrize(("layer", "head"), [(None, None), (1, None), (None, 2), (2, 3)])
def test_row_is_one_query_s_weights_or_their_mean(layer: int | None, head: int | None) -> None:
    made = weights(3, 10)
    part = made[slice(None) if layer is None else [layer]].astype(float)
    part = part[:, slice(None) if head is None else [head]]
    for query in (0, 2, -1):
        told = lens.row(artifact(made), "r1", query, layer, head)
        np.testing.assert_allclose(told, part[:, :, query].mean((0, 1)), atol=1e-6)
        assert sum(told) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 30), (5, 12), (2, 400)])
def test_overview_is_what_numpy_says_of_each_head(queries: int, keys: int) -> None:
    made = weights(queries, keys)
    told = lens.overview(artifact(made), "r1", -1, block_size=4)
    rows = made[:, :, -1].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(rows * np.log2(rows), -1)
    np.testing.assert_allclose(told["entropy"], entropy, atol=2e-3)
    back = keys - 1 - np.arange(keys)
    np.testing.assert_allclose(told["distance"], (rows * back).sum(-1), atol=0.02)
    np.testing.assert_allclose(told["first"], rows[..., 0], atol=1e-4)
    np.testing.assert_allclose(told["own"], rows[..., -1], atol=1e-4)
    by = told["bin_keys"]
    assert by == 1 or by % 4 == 0  # single keys, or whole blocks
    sums = np.add.reduceat(rows, np.arange(0, keys, by), -1)
    assert sums.shape[-1] <= lens.MAX_BINS
    np.testing.assert_allclose(told["bins"], sums, atol=1e-4)


def test_a_matrix_that_is_too_large_is_summed_up_by_block_and_says_so() -> None:
    made = weights(50, 90)
    whole = lens.matrix(artifact(made), "r1", 1, 2, 4)
    assert (whole["keys_by"], whole["queries_by"]) == (1, 1)
    np.testing.assert_allclose(whole["values"], made[1, 2].astype(float), atol=1e-4)
    small = lens.matrix(artifact(made), "r1", 1, None, 4, most=300)
    assert (small["keys_by"], small["queries_by"]) == (4, 4)
    mean = made[1].astype(float).mean(0)
    rows = np.array([mean[i : i + 4].mean(0) for i in range(0, 50, 4)])
    sums = np.add.reduceat(rows, np.arange(0, 90, 4), -1)
    np.testing.assert_allclose(small["values"], sums, atol=1e-4)


def test_a_mean_over_too_many_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "MAX_READ", 1000)
    made = artifact(weights(9, 20))
    with pytest.raises(ArtifactError, match="name a layer"):
        lens.matrix(made, "r1", None, None, 4)
    assert len(lens.matrix(made, "r1", 0, None, 4)["values"]) == 9


def test_who_did_not_run_and_an_index_that_is_not_there_are_named() -> None:
    made = artifact(weights(2, 4))
    with pytest.raises(MissingArtifactError, match=r"attention\.r2"):
        lens.row(made, "r2", 0)
    for bad in ({"query": 2}, {"query": 0, "layer": 3}, {"query": 0, "head": -5}):
        with pytest.raises(ArtifactError, match="allowed"):
            lens.row(made, "r1", **bad)
    with pytest.raises(ArtifactError, match="query: got 2"):
        lens.overview(made, "r1", 2, 4)
    assert lens.kv_heads(made) == KV_HEADS
