"""The lens: what a query reads of its cache, from the attention arrays of a captured step.

The worker keeps ``attention.REQ``, (layers, heads, queries, keys), of each request that ran: a long
context makes it large, so nobody gets it whole. Asked for are

    row       one query's weights over its keys, of one layer and head or the mean of several
    overview  the same query in each layer and head: how many keys it looks at, how far back, and
              where; many keys are summed up in bins of whole blocks
    matrix    all queries of one layer and head, or the mean, summed up until they are few enough

Pure Python, as a trace is read without torch. ``viz/static/core/attention.js`` is the twin, for a
page without a server; ``tests/data/lens.json`` holds both to the same. No counterpart in vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minivllm.errors import ArtifactError
from minivllm.trace.artifacts import Artifact

MAX_BINS = 48
"""Of the overview, per layer and head: 30 × 9 × 48 numbers are about 90 kB."""
MAX_CELLS, MAX_COLUMNS = 120_000, 1024
"""Of the matrix: more than a screen shows of it."""
MAX_READ = 4_000_000
"""Numbers that a mean is made of, or a matrix: about half a second."""
_DIGITS = 5


def shape(artifact: Artifact, req: str) -> tuple[int, int, int, int]:
    """(layers, heads, queries, keys). Raises MissingArtifactError, also where it was left out."""
    layers, heads, queries, keys = artifact.info(f"attention.{req}").shape
    return layers, heads, queries, keys


def kv_heads(artifact: Artifact) -> int | None:
    """How many K/V heads the query heads share (GQA); None where K was left out."""
    return artifact.arrays["k"].shape[2] if "k" in artifact.arrays else None


def answer(
    artifact: Artifact,
    req: str,
    what: str,
    *,
    layer: int | None = None,
    head: int | None = None,
    query: int = -1,
    block_size: int = 16,
    most: int = MAX_CELLS,
) -> dict[str, Any]:
    """``row``, ``heads`` (the overview) or ``matrix`` with the sizes it is of, as the page asks."""
    layers, heads, queries, keys = shape(artifact, req)
    about = {
        "query": query % queries,
        "layers": layers,
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "kv_heads": kv_heads(artifact),
    }
    if what == "row":
        return {**about, "weights": row(artifact, req, query, layer, head)}
    if what == "heads":
        return {**about, **overview(artifact, req, query, block_size)}
    return {**about, **matrix(artifact, req, layer, head, block_size, most)}


def row(
    artifact: Artifact, req: str, query: int, layer: int | None = None, head: int | None = None
) -> list[float]:
    """(keys,): the weights of one query, which sum to 1. Without a layer or a head their mean.

    ``query`` counts the request's tokens that ran in the step; negative from the end. Raises
    MissingArtifactError, or ArtifactError for an index that is not there.
    """
    layers, heads, _, _ = shape(artifact, req)
    of_layers = range(layers) if layer is None else [layer]
    of_heads = range(heads) if head is None else [head]
    rows = [
        artifact.part(f"attention.{req}", (one, other, query)).values()
        for one in of_layers
        for other in of_heads
    ]
    if len(rows) == 1:
        return rows[0]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def overview(artifact: Artifact, req: str, query: int, block_size: int) -> dict[str, Any]:
    """One query in every layer and head: lists by layer, in them by head.

    ``entropy`` in bits (0: one key; log2(keys): all alike), ``distance``: how many tokens back on
    average, ``first`` and ``own``: the weight on the first token and on itself, ``bins``: weights
    summed up over ``bin_keys`` keys each.
    """
    layers, heads, queries, keys = shape(artifact, req)
    if not -queries <= query < queries:
        raise ArtifactError(f"query: got {query}; allowed: 0 to {queries - 1}")
    position = keys - queries + query % queries
    blocks = math.ceil(keys / block_size)
    bin_keys = 1 if keys <= MAX_BINS else block_size * math.ceil(blocks / MAX_BINS)
    told: dict[str, Any] = {"query": query % queries, "bin_keys": bin_keys}
    cells = [[_cell(row(artifact, req, query, la, h), position, bin_keys) for h in range(heads)]
             for la in range(layers)]  # fmt: skip
    for name in ("entropy", "distance", "first", "own", "bins"):
        told[name] = [[cell[name] for cell in line] for line in cells]
    return told


def _cell(weights: Sequence[float], position: int, bin_keys: int) -> dict[str, Any]:
    entropy = -sum(w * math.log2(w) for w in weights if w > 0)
    distance = sum(w * (position - key) for key, w in enumerate(weights))
    bins = [sum(weights[i : i + bin_keys]) for i in range(0, len(weights), bin_keys)]
    return {
        "entropy": round(max(entropy, 0.0), 3),
        "distance": round(distance, 2),
        "first": round(weights[0], _DIGITS),
        "own": round(weights[position], _DIGITS),
        "bins": [round(each, _DIGITS) for each in bins],
    }


def matrix(
    artifact: Artifact,
    req: str,
    layer: int | None,
    head: int | None,
    block_size: int,
    most: int = MAX_CELLS,
) -> dict[str, Any]:
    """All queries over all keys, of one layer and head; without one the mean of its kind.

    If there are more than ``most`` numbers, keys are summed up by block, then queries are averaged
    in groups: ``keys_by`` and ``queries_by`` say how many stand in one number (1: nothing was).
    Raises ArtifactError where the mean would be one of too many numbers.
    """
    layers, heads, queries, keys = shape(artifact, req)
    of_layers = range(layers) if layer is None else [layer]
    of_heads = range(heads) if head is None else [head]
    if (size := len(of_layers) * len(of_heads) * queries * keys) > MAX_READ:
        raise ArtifactError(
            f"the mean over {len(of_layers)} layers and {len(of_heads)} heads is one of {size} "
            f"numbers; at most {MAX_READ}: name a layer, or a layer and a head"
        )
    keys_by = 1 if queries * keys <= most else block_size
    while keys_by > 1 and math.ceil(keys / keys_by) > MAX_COLUMNS:
        keys_by *= 2
    queries_by = math.ceil(queries * math.ceil(keys / keys_by) / most)
    values: list[list[float]] = []
    for begin in range(0, queries, queries_by):
        group = range(begin, min(begin + queries_by, queries))
        rows = [
            artifact.part(f"attention.{req}", (one, other, query)).values()
            for query in group
            for one in of_layers
            for other in of_heads
        ]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        sums = [sum(mean[i : i + keys_by]) for i in range(0, keys, keys_by)]
        values.append([round(each, _DIGITS) for each in sums])
    return {"keys_by": keys_by, "queries_by": queries_by, "values": values}
