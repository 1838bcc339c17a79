"""Write ``tests/data/views.json``: what the views are made of, as Python makes it from the vectors.

    python -m tests.viz.make_views

The JavaScript twins (``batch.js``, ``biography.js``, ``prefixes.js``, ``breaks.js``) are held to
the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from minivllm.trace.batch import batch_of
from minivllm.trace.events import Event
from minivllm.trace.file import decode_event
from minivllm.trace.fold import State, apply, new_state
from minivllm.trace.gate import NO_DECISION
from minivllm.trace.lives import block_life
from minivllm.trace.prefixes import origins, prefixes
from minivllm.trace.until import parse

WORDS = (
    "preemption",
    "eviction",
    "prefix hit",
    "skip",
    "skip no_free_blocks",
    "finish",
    "finish r2",
    "r4",
    "kv r1",
    "step 9",
    "sched.chunk",
    "sample",
    "no_budget",
    "kv",
    "scheduler.py:{line}",
    "eviction r4 or preemption  or finish r1",
    "preempt",
    "evict r1 or hit",
    "skip:no_free_blocks",
    "line scheduler.py:{line}",
)
"""Where a gate, or a recording that is played, can be held. ``{line}``: of the first grant."""

TESTS = Path(__file__).parents[1]
FILE = TESTS / "data" / "views.json"
NAMES = (
    "tiny-pressure",
    "no-caching",
    "static-contiguous",
    "speculation",
    "priorities-aborts-reset",
    "last-steps",
)


def views_of(name: str) -> dict[str, Any]:
    """One vector's batches, block histories, prefix trees, and where a gate would hold."""
    vector = json.loads((TESTS / "vectors" / f"{name}.json").read_text())
    events = [decode_event(json.dumps(event).encode()) for event in vector["events"]]
    steps: dict[int, list[Event]] = {}
    for event in events:
        steps.setdefault(event.step, []).append(event)
    state, known = new_state(), origins(events)
    batches, trees = {}, {}
    for step, step_events in steps.items():
        before = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
        for event in step_events:
            apply(state, event)
        batch = batch_of(before, step_events)
        batches[step] = asdict(batch) if batch else None
        trees[step] = [asdict(prefix) for prefix in prefixes(state, known)]
    blocks = range(1, len(state.blocks))
    places = {e.data.src: (e.data.file, e.data.line) for e in events if e.kind == "run.source"}
    grant = next((e for e in events if e.kind == "sched.grant"), events[-1])
    line = places.get(grant.src, ("", 0))[1]
    stops = {}
    for words in WORDS:
        until = parse(words.format(line=line))
        decisions = [e for e in events if e.kind not in NO_DECISION]
        stops[until.words] = [
            e.seq for e in decisions if until.matches(e, places.get(e.src, ("", 0)))
        ]
    lives = {b: [[e.event.step, e.words] for e in block_life(steps, b)] for b in blocks}
    return {"batches": batches, "prefixes": trees, "blocks": lives, "stops": stops}


def all_views() -> dict[str, Any]:
    return json.loads(json.dumps({name: views_of(name) for name in NAMES}))  # type: ignore[no-any-return]


if __name__ == "__main__":
    FILE.write_text(json.dumps(all_views(), ensure_ascii=False, separators=(",", ":")) + "\n")
