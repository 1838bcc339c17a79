"""Export for Perfetto: a run as Chrome trace JSON, to be opened at ui.perfetto.dev.

Each engine is a process there, and so is the front end where the trace tells of it: a slice for
each request from its first byte to its last, with an arrow to the engine that was given it.

An engine has

* a thread *steps*: a slice for each step, in it one for each phase;
* a track for each request, from its arrival to its end, in it *waiting*, *prefill*, *decode*,
  *preempted*, *prefill again*; a mark wherever the reason to wait changed;
* counters: KV blocks in use, running, waiting, tokens run in the step.

Perfetto complains where slices of one track overlap without one lying in the other. So all times
are cut to whole microseconds before lengths are taken (cutting keeps their order), a request's
slices are async events (``b`` and ``e``) with an integer id of its own, and whatever is open when
the trace ends is closed there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from minivllm.trace.events import Event, Header
from minivllm.trace.file import Trace
from minivllm.trace.fold import State, apply, new_state

Slice = dict[str, Any]
"""One entry of ``traceEvents``."""

STEPS_TID, ROUTED_TID = 1, 2


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """The whole run in Chrome's trace event format."""
    ids = _Ids()
    metadata: list[Slice] = []
    timed: list[Slice] = []
    for pid, stream in enumerate(trace.engines, start=1):
        metadata += [
            _meta(pid, "process_name", name=stream),
            _meta(pid, "process_sort_index", sort_index=pid),
            _meta(pid, "thread_name", STEPS_TID, name="steps"),
        ]
        engine = _Engine(pid, ids)
        for event in trace.events:
            if event.stream == stream:
                engine.take(event)
        timed += engine.close()
    front = _front(trace, len(trace.engines) + 1, ids)
    if front:
        metadata += [
            _meta(len(trace.engines) + 1, "process_name", name="api"),
            _meta(len(trace.engines) + 1, "process_sort_index", sort_index=0),
            *(
                _meta(pid, "thread_name", ROUTED_TID, name="arrivals")
                for pid in range(1, len(trace.engines) + 1)
            ),
        ]
    timed += front
    timed.sort(key=lambda entry: entry["ts"])  # stable: what begins or ends together keeps order
    return {
        "traceEvents": metadata + timed,
        "displayTimeUnit": "ms",
        "otherData": _about(trace.header),
    }


def _front(trace: Trace, pid: int, ids: _Ids) -> list[Slice]:
    """The front end's slices, and the arrows from there to the engines.

    Requests overlap, so each is an async slice; an arrow needs slices of a thread at both ends, so
    where one leaves and where it arrives stands a slice of a microsecond.
    """
    made: list[Slice] = []
    open_slices: dict[str, int] = {}  # request id → id of its slice
    flows: dict[tuple[str, int], int] = {}  # request id and engine → id of the arrow on its way
    engines = {stream: number for number, stream in enumerate(trace.engines, start=1)}
    last = 0

    def entry(ph: str, name: str, event: Event, **more: Any) -> None:
        ts = event.t_ns // 1000
        made.append({"ph": ph, "cat": "http", "pid": pid, "tid": 0, "name": name, "ts": ts, **more})

    for event in sorted(trace.events, key=lambda e: e.t_ns):
        kind, data = event.kind, event.data
        if event.stream == "api":
            last = event.t_ns // 1000
        if kind == "http.request" and data.request_id not in open_slices:
            number = open_slices[data.request_id] = ids.next()
            entry("b", data.request_id, event, id=number, args={"bytes": data.bytes})
        elif kind in ("http.done", "http.rejected") and data.request_id in open_slices:
            args = {"status": data.status}
            entry("e", data.request_id, event, id=open_slices.pop(data.request_id), args=args)
        elif kind == "route.pick":
            args = {"engine": data.engine, "why": data.why.value}
            number = flows[data.request_id, data.engine] = ids.next()
            mark = {"cat": "route", "tid": STEPS_TID}
            entry("X", f"route {data.request_id}", event, dur=1, args=args, **mark)
            entry("s", "request", event, id=number, **mark)
        elif kind == "req.arrive" and event.stream in engines:
            engine = int(event.stream.removeprefix("engine") or 0)
            flow = flows.pop((data.request_id, engine), None)
            flow = flow or flows.pop((data.parent or "", engine), None)
            if flow is not None:
                mark = {"cat": "route", "pid": engines[event.stream], "tid": ROUTED_TID}
                entry("X", f"{event.req} arrives", event, dur=1, **mark)
                entry("f", "request", event, id=flow, bp="e", **mark)
    for request_id, number in open_slices.items():  # the trace ends before them
        made.append(
            {"ph": "e", "cat": "http", "pid": pid, "tid": 0, "name": request_id, "ts": last,
             "id": number}
        )  # fmt: skip
    return made


def _about(header: Header) -> dict[str, str]:
    named = ("run_id", "created", "engine_version", "name", "model", "dtype", "device")
    return {name: str(getattr(header, name)) for name in named if getattr(header, name)}


def _meta(pid: int, what: str, tid: int = 0, **args: object) -> Slice:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": args}


class _Ids:
    """1, 2, 3, …: a request's id must be its own among all engines and their restarts."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


@dataclass(slots=True)
class _Life:
    """A request's track while it is being drawn."""

    id: int
    first: Slice
    phase: str | None = None
    reason: str | None = None
    slices: list[Slice] = field(default_factory=list)


_PHASES = {
    "req.admit": "prefill",
    "req.preempt": "preempted",
    "req.resume": "prefill again",
    "req.token": "decode",
}


class _Engine:
    """The slices of one engine's stream, fed event by event."""

    def __init__(self, pid: int, ids: _Ids) -> None:
        self._pid = pid
        self._ids = ids
        self._state: State = new_state()
        self._lives: dict[str, _Life] = {}
        self._done: list[Slice] = []
        self._begun: int | None = None  # µs; when the step that is under way began
        self._used = 0  # tokens run in it
        self._now = 0  # µs

    def take(self, event: Event) -> None:
        kind, req = event.kind, event.req
        self._now = max(self._now, event.t_ns // 1000)
        if kind == "run.start":  # whoever was open in an earlier life of the engine is gone
            self._end_all()
        apply(self._state, event)
        if kind == "run.snapshot":
            for name in [*self._state.running, *self._state.waiting]:
                self._go_on(name)
        elif kind == "req.arrive" and req is not None:
            self._begin(req, event.data.request_id, len(event.data.prompt_token_ids))
            self._enter(req, "waiting")
        elif kind in _PHASES and req is not None:
            self._enter(req, _PHASES[kind])
        elif kind == "req.finish" and req is not None:
            self._end(req, event.data.reason)
        elif kind in ("sched.skip", "sched.stop"):
            self._note_reason(event)
        elif kind == "step.begin":
            self._begun = self._now
        elif kind == "sched.ledger":
            self._used = event.data.used
        elif kind == "step.end":
            self._end_step(event)

    def close(self) -> list[Slice]:
        self._end_all()
        return self._done

    # --- requests ------------------------------------------------------------------------------

    def _begin(self, req: str, request_id: str, prompt_tokens: int) -> None:
        args: dict[str, Any] = {"request_id": request_id, "prompt_tokens": prompt_tokens}
        number = self._ids.next()
        life = self._lives[req] = _Life(number, self._async("b", number, req, args))
        life.slices.append(life.first)

    def _go_on(self, req: str) -> None:
        """A request that lives where the trace begins."""
        known = self._state.requests[req]
        self._begin(req, known.request_id, known.num_prompt_tokens)
        phase = {"running": "decode", "preempted": "preempted"}.get(known.status, "waiting")
        if phase == "decode" and len(known.tokens) == known.num_prompt_tokens:
            phase = "prefill"
        self._enter(req, phase)

    def _enter(self, req: str, phase: str) -> None:
        life = self._lives[req]
        if life.phase == phase:
            return
        if life.phase is not None:
            life.slices.append(self._async("e", life.id, life.phase))
        life.slices.append(self._async("b", life.id, phase))
        life.phase, life.reason = phase, None

    def _note_reason(self, event: Event) -> None:
        told = [event.req] if event.req else [event.data.head, *event.data.behind]
        for req in told:
            life = self._lives.get(req)
            if life is not None and life.reason != event.data.reason.value:
                life.reason = event.data.reason.value
                life.slices.append(self._async("n", life.id, life.reason))

    def _end(self, req: str, reason: str) -> None:
        life, known = self._lives.pop(req), self._state.requests.get(req)
        if life.phase is not None:
            life.slices.append(self._async("e", life.id, life.phase))
        life.slices.append(self._async("e", life.id, req))
        life.first["args"]["ended"] = reason
        if known is not None:
            life.first["args"]["output_tokens"] = len(known.tokens) - known.num_prompt_tokens
            life.first["args"]["preemptions"] = known.num_preemptions
        self._done += life.slices

    def _end_all(self) -> None:
        for req in list(self._lives):
            self._end(req, "the trace ends before it")

    def _async(self, ph: str, number: int, name: str, args: dict[str, Any] | None = None) -> Slice:
        entry = {"ph": ph, "cat": "request", "id": number, "pid": self._pid, "tid": 0}
        return {**entry, "name": name, "ts": self._now, **({"args": args} if args else {})}

    # --- steps ---------------------------------------------------------------------------------

    def _end_step(self, event: Event) -> None:
        begin, end, data = self._begun, self._now, event.data
        if begin is None:
            return
        self._begun = None
        args = {"tokens": self._used}
        self._done.append(self._slice(f"step {event.step}", begin, end, args))
        at = 0  # ns since the step began
        for phase in ("schedule", "execute", "update"):
            start, at = at, at + getattr(data, f"{phase}_ns")
            first, last = min(begin + start // 1000, end), min(begin + at // 1000, end)
            self._done.append(self._slice(phase, first, last))
        state = self._state
        counts = {
            "KV blocks in use": len(state.blocks) - 1 - len(state.free),
            "running": len(state.running),
            "waiting": len(state.waiting),
            "tokens in the step": self._used,
        }
        for name, value in counts.items():
            entry = {"ph": "C", "pid": self._pid, "tid": 0, "name": name, "ts": end}
            self._done.append({**entry, "args": {"value": value}})

    def _slice(self, name: str, begin: int, end: int, args: dict[str, Any] | None = None) -> Slice:
        entry: Slice = {"ph": "X", "pid": self._pid, "tid": STEPS_TID, "cat": "step", "name": name}
        return {**entry, "ts": begin, "dur": end - begin, **({"args": args} if args else {})}


def encode(trace: Trace) -> bytes:
    """:func:`chrome_trace` as the bytes of a ``.json`` file."""
    return msgspec.json.encode(chrome_trace(trace))
