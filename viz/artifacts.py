"""The arrays of captured steps, by HTTP.

    GET /api/runs/ID/artifacts?stream=&life=      steps, and the arrays that each has
    GET /api/runs/ID/artifacts/STEP/NAME?at=5,2   one array, or the part of it at these indices
                                   &as=float32    the same as raw bytes
    GET /api/runs/ID/lens/STEP/REQ/row?layer=&head=&query=   what the attention lens shows; without
                                   /heads?query=&block=4     a layer or a head the mean of them all
                                   /matrix?layer=&head=&block=4   (minivllm/trace/lens.py)

A client names a run, a step and an array, never a file. As JSON: ``{"name", "dtype", "shape",
"values"}``, the values in lists by ``shape``. As raw bytes: little-endian float32, with
``X-Shape: 4,12`` and ``X-Dtype`` (what they were) beside. ``at`` fixes the first axes: an attention
array is (layers, heads, queries, keys), and a lens needs one layer and head of it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from flask import Flask, Response, abort, jsonify, request

from minivllm.trace import lens
from minivllm.trace.log import Life
from viz.problem import problem
from viz.runs import Run

MAX_JSON, MAX_RAW = 200_000, 4_000_000
"""Numbers in one answer: about 2 MB of JSON, 16 MB of bytes."""
MAX_BLOCK = 4096


def add_artifact_pages(
    app: Flask, find_run: Callable[[str], Run], asked_life: Callable[[Run], Life]
) -> None:
    """``find_run`` refuses whoever may not look, and an id that no run has; ``asked_life`` a stream
    that the run has not."""

    @app.get("/api/runs/<run_id>/artifacts")
    def list_artifacts(run_id: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        return jsonify(
            [
                {"step": step, **msgspec.to_builtins(told)}
                for step, told in run.artifacts(life.stream, life.epoch).items()
            ]
        )

    @app.get("/api/runs/<run_id>/artifacts/<int:step>/<name>")
    def artifact(run_id: str, step: int, name: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        form = request.args.get("as", "json")
        if form not in ("json", "float32"):
            abort(problem(400, f"as: got {form!r}; allowed: json, float32"))
        part = run.artifact(life.stream, step, life.epoch).part(
            name, _indices(request.args.get("at", ""))
        )
        most = MAX_JSON if form == "json" else MAX_RAW
        if part.size > most:
            ask = "fix the first axes with at=LAYER,HEAD" + (
                ", or ask for as=float32" if form == "json" else ""
            )
            abort(problem(413, f"{name} has {part.size} numbers; at most {most} at once: {ask}"))
        if form == "json":
            about = {"name": name, "dtype": part.dtype, "shape": part.shape}
            return jsonify({**about, "values": part.nested()})
        response = Response(part.as_float32(), mimetype="application/octet-stream")
        response.headers["X-Shape"] = ",".join(map(str, part.shape))
        response.headers["X-Dtype"] = part.dtype
        return response

    @app.get("/api/runs/<run_id>/lens/<int:step>/<req>/<any(row, heads, matrix):what>")
    def attention(run_id: str, step: int, req: str, what: str) -> Response:
        run = find_run(run_id)
        life = asked_life(run)
        artifact = run.artifact(life.stream, step, life.epoch)
        layers, heads, queries, _ = lens.shape(artifact, req)
        query = _index("query", queries)
        return jsonify(
            lens.answer(
                artifact,
                req,
                what,
                layer=_index("layer", layers),
                head=_index("head", heads),
                query=queries - 1 if query is None else query,
                block_size=_block_size(),
            )
        )


def _index(name: str, size: int) -> int | None:
    """One index of the query; None where it is left out."""
    text = request.args.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) >= size:
        abort(problem(400, f"{name}: got {text!r}; allowed: 0 to {size - 1}"))
    return int(text)


def _block_size() -> int:
    """Tokens in a block, by which long rows are summed up."""
    text = request.args.get("block", "16")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_BLOCK:
        abort(problem(400, f"block: got {text!r}; allowed: 1 to {MAX_BLOCK}"))
    return int(text)


def _indices(text: str) -> list[int]:
    try:
        return [int(index) for index in text.split(",")] if text else []
    except ValueError:
        abort(problem(400, f"at: got {text!r}; allowed: whole numbers such as 5,2"))
