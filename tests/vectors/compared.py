"""Write what two of the vectors come to: their comparison and the table, as Python says it.

    python -m tests.vectors.compared

The page's twins (``core/compare.js``, ``core/sidebyside.js``) are held to it by
``tests/viz/compare.test.mjs``, on the same events.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from minivllm.trace.diff import Comparison, compare
from minivllm.trace.events import Event, Header
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.metrics import measure
from minivllm.trace.side_by_side import rows
from tests.vectors.make import HERE

COMPARED = HERE.parent / "data" / "compare.json"
PAIRS: list[dict[str, Any]] = [
    {"a": "tiny-pressure", "b": "no-caching"},
    {"a": "tiny-pressure", "b": "tiny-pressure"},
    {"a": "tiny-pressure", "b": "forked"},
    {"a": "no-caching", "b": "static-contiguous"},
    {"a": "tiny-pressure", "b": "speculation"},
    {"a": "tiny-pressure", "b": "last-steps"},
    {"a": "tiny-pressure", "b": "tiny-pressure", "cut": 190},
    {"a": "priorities-aborts-reset", "b": "priorities-aborts-reset", "cut": 400},
    {"a": "priorities-aborts-reset", "b": "knobs-changed"},
    {"a": "static-contiguous", "b": "tiny-pressure", "fidelity": "live"},
    {
        "a": "tiny-pressure",
        "b": "tiny-pressure",
        "params": [
            {"temperature": 0.0, "ignore_eos": True},
            {"temperature": 0.75, "stop": ["\n", "日本"], "seed": None},
        ],
    },
]
"""``cut``: B has only so many events. ``live``: as if a model had run, one event a millisecond.
``params``: how r1 was asked for in A and in B."""


def make_compared() -> str:
    return json.dumps([_compared(**pair) for pair in PAIRS], ensure_ascii=False, indent=1) + "\n"


def _compared(
    a: str,
    b: str,
    cut: int | None = None,
    fidelity: str = "given",
    params: list[dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    header = Header(run_id="vector", created="", engine_version="", fidelity=fidelity)
    asked = params or [None, None]
    first, second = (
        Trace(header, _events_of(name, of)) for name, of in zip((a, b), asked, strict=True)
    )
    second = Trace(header, second.events[:cut])
    table = [msgspec.to_builtins(row) for row in rows(measure(first), measure(second))]
    told = _told(compare(first, second))
    about = {"a": a, "b": b, "cut": cut, "fidelity": fidelity, "params": params}
    return {**about, "told": told, "rows": table}


def _events_of(name: str, params: dict[str, Any] | None) -> list[Event]:
    events = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["events"]
    for event in events:
        event["t_ns"] = event["seq"] * 1_000_000
        if params is not None and event["kind"] == "req.arrive" and event["req"] == "r1":
            event["data"]["params"] = params
    return [decode_event(json.dumps(event).encode()) for event in events]


def _told(comparison: Comparison) -> dict[str, Any]:
    """Without the answers to why, which are the page's own words there, and the source."""
    told: dict[str, Any] = msgspec.to_builtins(comparison)
    for side in ("a", "b") if told["first"] else ():
        told["first"][side] = {"headline": told["first"][side]["headline"]}
    return {**told, "same": comparison.same}


if __name__ == "__main__":
    COMPARED.write_text(make_compared(), encoding="utf-8")
    print(f"wrote {COMPARED.name}")
