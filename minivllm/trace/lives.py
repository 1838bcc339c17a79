"""Lives: what became of one request, or of one block, over the whole run.

Pure functions of the events, step by step. A request's life is read off the fold (how much of it
is known and computed after each step); a block's life is the list of the events that moved it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minivllm.trace.events import Event, GrantWhy, Reason
from minivllm.trace.fold import apply, new_state
from minivllm.trace.words import count, span


@dataclass(frozen=True, slots=True)
class RequestStep:
    """One step of a request's life."""

    step: int
    ran: int
    """Tokens that ran in this step."""
    computed: int
    known: int
    """Prompt and output, after the step."""
    table: tuple[int, ...]
    """Its block table after the step; empty once it has given its blocks back."""
    event: str
    """``arrive`` | ``admit`` | ``resume`` | ``run`` | ``preempt`` | ``wait`` | ``finish``."""
    words: str


def request_life(steps: Mapping[int, Sequence[Event]], req: str) -> list[RequestStep]:
    """From its arrival to its end; empty when the trace does not know it."""
    state = new_state()
    life: list[RequestStep] = []
    for step in sorted(steps):
        events = steps[step]
        for event in events:
            apply(state, event)
        request = state.requests.get(req)
        if request is None:
            continue
        mine = [e for e in events if e.req == req]
        if request.status == "finished" and not mine:
            break
        refunded = sum(e.data.n for e in mine if e.kind == "sched.refund")
        ran = sum(e.data.n for e in mine if e.kind == "sched.grant") - refunded
        kind, words = _request_words(events, mine, req)
        if kind == "nothing":  # before the first step, or nothing but a word about the run
            continue
        row = RequestStep(
            step=step,
            ran=ran,
            computed=request.num_computed_tokens,
            known=len(request.tokens),
            table=tuple(request.table),
            event=kind,
            words=words,
        )
        life.append(row)
    return life


def _request_words(events: Sequence[Event], mine: list[Event], req: str) -> tuple[str, str]:
    """What the step was for the request: one kind, and a few words."""
    kind, words = "nothing", []
    of = {e.kind: e for e in mine}
    if "req.arrive" in of:
        kind = "arrive"
        words.append(f"arrives with {count(len(of['req.arrive'].data.prompt_token_ids), 'token')}")
    for admission in ("req.admit", "req.resume"):
        if admission in of:
            kind = admission.removeprefix("req.")
            hit = of[admission].data.hit
            reused = f", {hit} reused" if hit else ""
            words.append(("resumes" if kind == "resume" else "is admitted") + reused)
    if "sched.grant" in of and kind not in ("admit", "resume"):
        kind = "run"
        if of["sched.grant"].data.why is not GrantWhy.DECODE:
            words.append("runs a chunk" if "sched.chunk" in of else "its prompt is done")
    if "sched.victim" in of:
        data = of["sched.victim"].data
        kind = "preempt"
        who = "itself" if data.for_req == req else data.for_req
        how = "preempted for" if "req.preempt" in of else "gives way to"  # in the middle of a step
        words.append(f"{how} {who}: need {data.need}, have {data.have}")
    elif "sched.skip" in of:
        kind, data = "wait", of["sched.skip"].data
        hit = f", hit {data.hit}" if data.hit else ""
        words.append(f"{data.reason.value}: need {data.need}, have {data.have}{hit}")
    else:
        stop = next((e.data for e in events if e.kind == "sched.stop"), None)
        if stop is not None and req in stop.behind:
            kind = "wait"
            words.append(f"waits behind {stop.head}")
        elif stop is not None and req == stop.head and "sched.grant" not in of:
            kind = "wait"
            words.append(stop.reason.value)
    if said := [e.data.text for e in mine if e.kind == "req.token"]:  # several, with drafts
        words.append(f"says {''.join(said)!r}")
    if "req.error" in of:
        words.append(of["req.error"].data.message)
    if "req.finish" in of:
        kind = "finish"
        words.append(f"finishes ({of['req.finish'].data.reason})")
    if kind == "nothing" and "req.token" in of:
        kind = "run"
    return kind, ", ".join(words)


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """One turn in a block's life."""

    event: Event
    words: str


def block_life(steps: Mapping[int, Sequence[Event]], block: int) -> list[BlockEvent]:
    """Who took, filled, shared, gave back and evicted it, in order.

    ``viz/static/core/biography.js`` tells the same in the same words.
    """
    life: list[BlockEvent] = []
    size, hashed = 1, False
    for step in sorted(steps):
        for event in steps[step]:
            if event.kind == "run.config":
                size = event.data.block_size
            if event.kind == "run.snapshot" and event.data.state:
                size = event.data.state["config"]["block_size"]
                hashed = event.data.state["blocks"][block]["hash"] is not None
            if event.kind == "kv.reset" and not hashed:
                continue
            words = _block_words(event, block, size)
            if words:
                life.append(BlockEvent(event, words))
            if getattr(event.data, "block", None) == block and event.kind in _HASHED:
                hashed = _HASHED[event.kind]
            elif event.kind == "kv.reset":
                hashed = False
    return life


_HASHED = {"kv.cache": True, "kv.evict": False, "kv.uncache": False}
"""Whether a block has a hash after an event of this kind."""


def _block_words(event: Event, block: int, size: int) -> str | None:
    data, req = event.data, event.req
    if event.kind in ("kv.alloc", "kv.reserve") and block in data.blocks:
        logical = data.logical + data.blocks.index(block)
        place = span(logical * size + 1, (logical + 1) * size)
        return f"taken by {req} as its block {logical + 1} ({place})"
    if event.kind == "kv.touch" and data.block == block:
        holders = "alone" if data.ref == 1 else f"now in {data.ref} tables"
        return f"hit by {req}, {holders}"
    if event.kind == "kv.cache" and data.block == block:
        return f"full: hashed as {data.hash[:8]}… for others to hit"
    if event.kind == "kv.evict" and data.block == block:
        left = f"what {data.left_by} left there" if data.left_by else "its content"
        return f"evicted for {req}: {left} is forgotten"
    if event.kind == "kv.uncache" and data.block == block:
        return f"its hash is withdrawn ({Reason(data.reason).value})"
    if event.kind == "kv.free" and block in data.blocks:
        if block in data.front:
            return f"given back by {req}, blank: to the front of the free queue"
        if block in data.back:
            return f"given back by {req}, still cached: to the back of the free queue"
        return f"given back by {req}, still held by another"
    if event.kind == "kv.reset":
        return "its hash is forgotten: the prefix cache was reset"
    return None
