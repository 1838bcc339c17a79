"""The front end's own state, made from the events of its stream (``api``) alone.

How each engine stands, and which engine each request was sent to and why: what a viewer needs to
find a request among several engines. ``viz/static/core/front.js`` is the twin, and
``tests/data/front.json`` holds both to the same results. As in ``fold.py``, an event of a kind that
is not known here changes nothing. No counterpart in vLLM, whose front end keeps counts, no events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from minivllm.trace import events as ev
from minivllm.trace.events import Event

ROUTES_KEPT = 1024
"""Requests whose route is remembered, the newest; about 300 bytes each."""
DEATHS_KEPT = GAPS_KEPT = 16


class EngineNow(msgspec.Struct):
    """How an engine stands."""

    state: str
    """``starting`` | ``ready`` | ``draining`` | ``dead``."""
    epoch: int
    pid: int = 0
    why: str = ""
    """Why it was started."""
    open_requests: int = 0
    """Still to be finished when it began to drain."""


class Route(msgspec.Struct):
    engine: int
    policy: str
    why: str
    candidates: list[dict[str, Any]]
    tried: list[int] = []
    """The engines that it was sent to before, and that died before it had said anything."""


class Front(msgspec.Struct):
    seq: int = 0
    engines: dict[str, EngineNow] = {}
    """By number; a text, as JSON's keys are."""
    routes: dict[str, Route] = {}
    """By the request's id, the one that was sent last at the end."""
    deaths: list[dict[str, Any]] = []
    """Of engines that ended though nobody asked them to: the fields of ``engine.dead``."""
    gaps: list[dict[str, Any]] = []
    """Events that were lost: the fields of ``trace.gap``."""


def from_json(data: dict[str, Any]) -> Front:
    return msgspec.convert(data, Front)


def fold(events: Iterable[Event]) -> Front:
    front = Front()
    for event in events:
        apply(front, event)
    return front


def apply(front: Front, event: Event) -> None:
    """Change ``front`` by one event; those of other streams are passed over."""
    if event.stream != "api":
        return
    if event.kind == "run.snapshot":
        _become(front, from_json(event.data.state or {}))
    elif event.kind == "run.start":
        _become(front, Front())
    front.seq = event.seq
    handler = HANDLERS.get(event.kind)
    if handler is not None:
        handler(front, event.data)


def _become(front: Front, other: Front) -> None:
    for name in front.__struct_fields__:
        setattr(front, name, getattr(other, name))


def _start(front: Front, data: ev.EngineStart) -> None:
    front.engines[str(data.engine)] = EngineNow(
        state="starting", epoch=data.epoch, pid=data.pid, why=data.why.value
    )


def _ready(front: Front, data: ev.EngineReady) -> None:
    _engine(front, data).state = "ready"


def _drain(front: Front, data: ev.EngineDrain) -> None:
    engine = _engine(front, data)
    engine.state, engine.open_requests = "draining", data.open_requests


def _resume(front: Front, data: ev.EngineResume) -> None:
    engine = _engine(front, data)
    engine.state, engine.open_requests = "ready", 0


def _dead(front: Front, data: ev.EngineDead) -> None:
    _engine(front, data).state = "dead"
    front.deaths = [*front.deaths, msgspec.to_builtins(data)][-DEATHS_KEPT:]


def _engine(front: Front, data: Any) -> EngineNow:
    engine = front.engines.setdefault(str(data.engine), EngineNow("", data.epoch))
    engine.epoch = data.epoch
    return engine


def _pick(front: Front, data: ev.RoutePick) -> None:
    before = front.routes.pop(data.request_id, None)
    front.routes[data.request_id] = Route(
        engine=data.engine,
        policy=data.policy,
        why=data.why.value,
        candidates=[msgspec.to_builtins(candidate) for candidate in data.candidates],
        tried=[*before.tried, before.engine] if before else [],
    )
    if len(front.routes) > ROUTES_KEPT:
        del front.routes[next(iter(front.routes))]


def _gap(front: Front, data: ev.TraceGap) -> None:
    front.gaps = [*front.gaps, msgspec.to_builtins(data)][-GAPS_KEPT:]


HANDLERS: dict[str, Callable[[Front, Any], None]] = {
    "engine.start": _start,
    "engine.ready": _ready,
    "engine.drain": _drain,
    "engine.resume": _resume,
    "engine.dead": _dead,
    "route.pick": _pick,
    "trace.gap": _gap,
}
