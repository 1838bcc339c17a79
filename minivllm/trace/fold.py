"""The fold: the engine's state, made from its events alone.

``apply(state, event)`` is total and deterministic; ``viz/static/core/fold.js`` is its twin, and the
vectors in ``tests/vectors`` hold both to the same results. After every step the state equals the
engine's own queues, block tables, reference counts, free queue and hash table; a test proves it.
Every viewer (page, terminal, lesson check) reads this state and nothing else of the engine.

What happened *in* a step (grants, marks, reasons) is not state: a viewer takes it from the step's
events. An event kind that is not known here changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from minivllm.trace import events as ev
from minivllm.trace.events import Event


class Wait(msgspec.Struct):
    """The last reason told for a request in the waiting queue."""

    reason: str
    need: int
    have: int
    hit: int
    behind: str | None
    """The head of the queue, for a request that stands behind it; its reason is the head's."""


class RequestState(msgspec.Struct):
    request_id: str
    parent: str | None
    priority: int
    status: str
    """``arrived`` | ``waiting`` | ``waiting_for_grammar`` (in the queue, passed over) |
    ``running`` | ``preempted`` (waits again) | ``finished``."""
    num_prompt_tokens: int
    max_tokens: int
    tokens: list[int]
    """Prompt, then output."""
    texts: list[str]
    """The piece of text of each token."""
    arrived_step: int
    """The first step that could schedule it."""
    num_computed_tokens: int = 0
    table: list[int] = []
    """Physical block of each logical block."""
    drafts: list[int] = []
    """What may follow ``tokens``: proposed, not run yet."""
    num_cached_tokens: int = 0
    """Tokens of the prefix hit at its last admission."""
    num_preemptions: int = 0
    wait: Wait | None = None
    first_token_step: int | None = None
    finished_step: int | None = None
    finish_reason: str | None = None


class Held(msgspec.Struct):
    """What a block contains: which part of whose sequence, and how much of it was computed."""

    req: str
    logical: int
    filled: int


class BlockState(msgspec.Struct):
    ref: int = 0
    hash: str | None = None
    held: Held | None = None
    """Set when the block becomes free, kept until it is taken anew."""


class State(msgspec.Struct):
    config: dict[str, Any] | None = None
    step: int = 0
    seq: int = 0
    requests: dict[str, RequestState] = {}
    waiting: list[str] = []
    running: list[str] = []
    finished: list[str] = []
    blocks: list[BlockState] = []
    free: list[int] = []
    """The next to be taken first."""
    running_when_lowered: int = 0
    """How many ran when ``max_num_seqs`` was last changed: nobody is sent back for it."""
    cached: dict[str, list[int]] = {}
    """Hash → blocks with that content, the one that is hit first."""


def new_state() -> State:
    return State()


def to_json(state: State) -> dict[str, Any]:
    """The state as plain dicts and lists: the form the page keeps and the vectors are in."""
    result: dict[str, Any] = msgspec.to_builtins(state)
    return result


def from_json(data: dict[str, Any]) -> State:
    return msgspec.convert(data, State)


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """Apply all events of one engine's stream in order. Other streams are passed over."""
    state = new_state() if state is None else state
    for event in events:
        apply(state, event)
    return state


def apply(state: State, event: Event) -> None:
    """Change ``state`` by one event."""
    if event.stream == "api":
        return
    state.seq = event.seq
    handler = HANDLERS.get(event.kind)
    if handler is not None:
        handler(state, event)


def _run_start(state: State, event: Event) -> None:
    _become(state, new_state(), event)


def _run_snapshot(state: State, event: Event) -> None:
    data: ev.RunSnapshot = event.data
    _become(state, from_json(data.state or {}), event)


def _become(state: State, other: State, event: Event) -> None:
    for name in state.__struct_fields__:
        setattr(state, name, getattr(other, name))
    state.seq = event.seq


def _run_config(state: State, event: Event) -> None:
    data: ev.RunConfig = event.data
    state.config = msgspec.to_builtins(data)
    state.blocks = [BlockState() for _ in range(data.num_kv_blocks)]
    state.blocks[0].ref = 1  # the null block
    state.free = list(range(1, data.num_kv_blocks))


def _run_knob(state: State, event: Event) -> None:
    data: ev.RunKnob = event.data
    if state.config is None or data.name not in state.config:
        raise ValueError(f"there is no knob {data.name!r} to change")
    state.config = {**state.config, data.name: data.value}
    if data.name == "max_num_seqs":
        state.running_when_lowered = len(state.running)
    if data.waiting is not None:
        if sorted(data.waiting) != sorted(state.waiting):
            raise ValueError(f"{data.waiting} are not those who wait, {state.waiting}")
        state.waiting = list(data.waiting)


def _step_begin(state: State, event: Event) -> None:
    state.step = event.step


def _req_arrive(state: State, event: Event) -> None:
    data: ev.ReqArrive = event.data
    state.requests[_req(event)] = RequestState(
        request_id=data.request_id,
        parent=data.parent,
        priority=data.priority,
        status="arrived",
        num_prompt_tokens=len(data.prompt_token_ids),
        max_tokens=data.max_tokens,
        tokens=list(data.prompt_token_ids),
        texts=list(data.texts),
        arrived_step=event.step,
    )


def _req_enqueue(state: State, event: Event) -> None:
    state.waiting.insert(event.data.position, _req(event))
    state.requests[_req(event)].status = "waiting"


def _req_grammar_wait(state: State, event: Event) -> None:
    request = state.requests[_req(event)]
    request.status = ev.Reason.WAITING_FOR_GRAMMAR.value


def _req_grammar_ready(state: State, event: Event) -> None:
    request = state.requests[_req(event)]
    request.status = "waiting"
    request.wait = None


def _req_admit(state: State, event: Event) -> None:
    data: ev.ReqAdmit | ev.ReqResume = event.data
    request = state.requests[_req(event)]
    state.waiting.remove(_req(event))
    state.running.append(_req(event))
    request.status = "running"
    request.num_computed_tokens = request.num_cached_tokens = data.hit
    request.wait = None


def _req_preempt(state: State, event: Event) -> None:
    request = state.requests[_req(event)]
    state.running.remove(_req(event))
    state.waiting.insert(event.data.position, _req(event))
    request.status = "preempted"
    request.num_computed_tokens = 0
    request.drafts = []
    request.num_preemptions += 1


def _req_token(state: State, event: Event) -> None:
    request = state.requests[_req(event)]
    request.tokens.append(event.data.token_id)
    request.texts.append(event.data.text)
    if request.first_token_step is None:
        request.first_token_step = event.step


def _req_finish(state: State, event: Event) -> None:
    request = state.requests[_req(event)]
    queue = state.running if request.status == "running" else state.waiting
    queue.remove(_req(event))
    state.finished.append(_req(event))
    request.status = "finished"
    request.finished_step = event.step
    request.finish_reason = event.data.reason
    request.wait = None


def _sched_skip(state: State, event: Event) -> None:
    data: ev.SchedSkip = event.data
    state.requests[_req(event)].wait = Wait(
        data.reason.value, data.need, data.have, data.hit, behind=None
    )


def _sched_stop(state: State, event: Event) -> None:
    data: ev.SchedStop = event.data
    head = state.requests[data.head]
    if head.wait is None or head.wait.reason != data.reason:
        head.wait = Wait(data.reason.value, 0, 0, 0, behind=None)
    for req in data.behind:
        state.requests[req].wait = Wait(data.reason.value, 0, 0, 0, behind=data.head)


def _sched_ledger(state: State, event: Event) -> None:
    for row in event.data.rows:
        if row.granted:
            request = state.requests[row.req]
            request.num_computed_tokens += row.granted
            request.drafts = []


def _kv_touch(state: State, event: Event) -> None:
    block_id = event.data.block
    block = state.blocks[block_id]
    if block.ref == 0:
        state.free.remove(block_id)
        block.held = None
    block.ref += 1
    state.requests[_req(event)].table.append(block_id)


def _kv_evict(state: State, event: Event) -> None:
    _forget(state, event.data.block)


def _kv_alloc(state: State, event: Event) -> None:
    data: ev.KvAlloc = event.data
    if state.free[: len(data.blocks)] != data.blocks:
        raise ValueError(f"blocks {data.blocks} are not at the front of the free queue")
    del state.free[: len(data.blocks)]
    for block_id in data.blocks:
        state.blocks[block_id].ref = 1
        state.blocks[block_id].held = None
    state.requests[_req(event)].table.extend(data.blocks)


def _kv_reserve(state: State, event: Event) -> None:
    for block_id in event.data.blocks:
        state.free.remove(block_id)
        state.blocks[block_id].ref = 1
        state.blocks[block_id].held = None
    state.requests[_req(event)].table = list(event.data.blocks)


def _kv_cache(state: State, event: Event) -> None:
    data: ev.KvCache = event.data
    state.blocks[data.block].hash = data.hash
    state.cached.setdefault(data.hash, []).append(data.block)


def _kv_free(state: State, event: Event) -> None:
    data: ev.KvFree = event.data
    request, size = state.requests[_req(event)], _block_size(state)
    for logical, block_id in enumerate(request.table):
        block = state.blocks[block_id]
        block.ref -= 1
        if block.ref == 0:
            filled = min(max(request.num_computed_tokens - logical * size, 0), size)
            block.held = Held(_req(event), logical, filled)
    request.table = []
    state.free = data.front + state.free + data.back


def _spec_propose(state: State, event: Event) -> None:
    state.requests[_req(event)].drafts = list(event.data.token_ids)


def _spec_reject(state: State, event: Event) -> None:
    state.requests[_req(event)].num_computed_tokens -= event.data.n


def _kv_reset(state: State, event: Event) -> None:
    for block in state.blocks:
        block.hash = None
    state.cached = {}


def _forget(state: State, block_id: int) -> None:
    block = state.blocks[block_id]
    if block.hash is None:
        return
    twins = state.cached[block.hash]
    twins.remove(block_id)
    if not twins:
        del state.cached[block.hash]
    block.hash = None


def _req(event: Event) -> str:
    if event.req is None:
        raise ValueError(f"event {event.seq} ({event.kind}) names no request")
    return event.req


def _block_size(state: State) -> int:
    return int(state.config["block_size"]) if state.config else 0


HANDLERS: dict[str, Callable[[State, Event], None]] = {
    "run.start": _run_start,
    "run.snapshot": _run_snapshot,
    "run.config": _run_config,
    "run.knob": _run_knob,
    "step.begin": _step_begin,
    "req.arrive": _req_arrive,
    "req.enqueue": _req_enqueue,
    "req.grammar_wait": _req_grammar_wait,
    "req.grammar_ready": _req_grammar_ready,
    "req.admit": _req_admit,
    "req.resume": _req_admit,
    "req.preempt": _req_preempt,
    "req.token": _req_token,
    "req.finish": _req_finish,
    "sched.skip": _sched_skip,
    "sched.stop": _sched_stop,
    "sched.ledger": _sched_ledger,
    "kv.touch": _kv_touch,
    "kv.evict": _kv_evict,
    "kv.uncache": _kv_evict,
    "kv.alloc": _kv_alloc,
    "kv.reserve": _kv_reserve,
    "kv.cache": _kv_cache,
    "kv.free": _kv_free,
    "kv.reset": _kv_reset,
    "spec.propose": _spec_propose,
    "spec.reject": _spec_reject,
}


def forget_finished(state: State, keep: int) -> None:
    """Drop all but the newest ``keep`` finished requests, and those whose tokens a block holds.

    For the state of a server that runs for weeks; a recorded run keeps everybody.
    """
    held = {block.held.req for block in state.blocks if block.held is not None}
    for name in state.finished[: max(len(state.finished) - keep, 0)]:
        if name not in held:
            state.finished.remove(name)
            del state.requests[name]
