"""Write ``tests/data/views.json``: what the views are made of, as Python makes it from the vectors.

    python -m tests.viz.make_views

The JavaScript twins (``batch.js``, ``biography.js``, ``prefixes.js``) are held to the same.
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
from minivllm.trace.lives import block_life
from minivllm.trace.prefixes import origins, prefixes

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
    """One vector's batches, block histories and prefix trees."""
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
    lives = {b: [[e.event.step, e.words] for e in block_life(steps, b)] for b in blocks}
    return {"batches": batches, "prefixes": trees, "blocks": lives}


def all_views() -> dict[str, Any]:
    return json.loads(json.dumps({name: views_of(name) for name in NAMES}))  # type: ignore[no-any-return]


if __name__ == "__main__":
    FILE.write_text(json.dumps(all_views(), ensure_ascii=False, separators=(",", ":")) + "\n")
