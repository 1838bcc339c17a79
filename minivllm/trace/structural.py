"""The one form in which runs are compared: an engine's decisions, without what differs by chance.

No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from minivllm.trace.events import Event

_UNSTRUCTURAL_KINDS = (
    "run.start",
    "run.snapshot",
    "run.source",
    "gate.change",
    "run.idle",
    "run.end",
    "trace.violation",
    "trace.arm",
    "trace.left_out",
    "trace.gap",
    "exec.tensors",
    "ipc.send",
    "ipc.recv",
    "core.drop",
)


def is_structural(event: Event) -> bool:
    """Whether the event belongs to what runs are compared by: an engine's own, and neither a
    source, nor the gate, nor idling, nor the end of the process, nor how
    its messages travelled, nor what was captured of it, nor
    what a check found."""
    return event.kind not in _UNSTRUCTURAL_KINDS and event.stream.startswith("engine")


def structural(events: Iterable[Event], hashes: bool = True) -> list[bytes]:
    """The one form in which runs are compared: an engine's decisions, one line each.

    Without times, source lines, the caller's request ids, and what is no decision. Two runs of one
    scenario are equal in it, byte for byte. ``hashes=False`` also drops hash values, which depend
    on sampled text; goldens use that.
    """
    return [
        msgspec.json.encode(structural_fields(event, hashes))
        for event in events
        if is_structural(event)
    ]


def structural_fields(event: Event, hashes: bool = True) -> dict[str, Any]:
    """What of one event stands in the structural form."""
    data = msgspec.to_builtins(event.data)
    for field in list(data):
        times = field == "ns" or field.endswith("_ns")
        callers_id = field == "request_id" or (event.kind, field) == ("req.arrive", "parent")
        hash_value = field in ("hash", "parent") and event.kind.startswith("kv.")
        if times or callers_id or (hash_value and not hashes):
            del data[field]
    return {"step": event.step, "kind": event.kind, "req": event.req, "data": data}
