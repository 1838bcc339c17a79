"""Why: what a request, a block or the unused budget is doing in a step, and the emitted reason.

Pure functions of the recorded events; the terminal's ``why`` prints what they answer, and a Why
card can show it. They infer nothing: each sentence puts numbers into words that the engine emitted
at the branch that took the decision, and ``source`` is that branch.
"""

from __future__ import annotations

from minivllm.trace.answer import Answer, Record, Told, make_answer
from minivllm.trace.events import REASONS, Event, Reason
from minivllm.trace.fold import BlockState, State
from minivllm.trace.lives import block_life
from minivllm.trace.why_request import why_request
from minivllm.trace.words import are, join, span

__all__ = ["Answer", "Record", "why_block", "why_budget", "why_request", "why_step"]


# --- a block -----------------------------------------------------------------------------------


def why_block(record: Record, state: State, step: int, block: int) -> Answer:
    """Who holds ``block`` after ``step`` and what made it so. It must be in the pool."""
    now = _block_now(state, block, state.blocks[block])
    life = block_life(record.steps, block)
    past = [entry for entry in life if entry.event.step <= step]
    future = [entry for entry in life if entry.event.step > step]
    why = [f"Step {entry.event.step}: {entry.words}." for entry in past[-3:]]
    if not past:
        why = ["Nothing has happened to it yet."]
        if block == 0:
            why = ["It is where unused entries of a block table point; it is never handed out."]
    if any(e.event.kind == "kv.evict" and e.event.step == step for e in past):
        why.append("It stood at the front of the free queue, where blocks are taken from.")
    last = past[-1].event if past else None
    reason = getattr(last.data, "reason", None) if last is not None else None
    told = Told(now, why, last, reason if isinstance(reason, Reason) else None)
    since, then = (last.step if last else None), (future[0].event.step if future else None)
    return make_answer(record, f"block {block}", told, since, then)


def _block_now(state: State, block_id: int, block: BlockState) -> str:
    if block_id == 0:
        return "The null block."
    size = int(state.config["block_size"]) if state.config else 1
    cached = "full and hashed, so it can be hit" if block.hash else "not hashed"
    if block.ref:
        holders = [
            f"{name} (its block {request.table.index(block_id) + 1})"
            for name, request in state.requests.items()
            if block_id in request.table
        ]
        return f"In use by {join(holders)}; {cached}."
    place = state.free.index(block_id) + 1
    turn = "the next to be taken" if place == 1 else f"number {place} of {len(state.free)} to go"
    if block.hash is None:
        return f"Free and blank; {turn}."
    held = block.held
    what = ""
    if held is not None:
        first = held.logical * size + 1
        what = f" holds {span(first, first + held.filled - 1)} of {held.req};"
    return f"Free and cached;{what} {turn}."


# --- the budget --------------------------------------------------------------------------------


def why_budget(record: Record, state: State, step: int) -> Answer:
    """Who got the tokens of ``step``, and why the rest is unused."""
    events = record.steps.get(step, ())
    ledger = next((e for e in events if e.kind == "sched.ledger"), None)
    if ledger is None:
        told = Told("No budget was handed out in this step.", [], None)
        return make_answer(record, "budget", told, None, None)
    data = ledger.data
    granted = [f"{row.req} {row.granted}" for row in data.rows if row.granted]
    left = data.budget - data.used
    now = f"{data.used} of {data.budget} tokens are used, {left} {are(left)} left."
    why = [f"Granted, in this order: {join(granted, most=12)}."] if granted else []
    event: Event = ledger
    if data.unused_reason is not None and data.unused_reason != Reason.NOTHING_WAITS:
        for e in events:
            if e.kind == "sched.skip" and e.data.reason == data.unused_reason:
                event = e
                have = f"{e.data.have} {are(e.data.have)} there"
                why.append(f"{e.req} waits: it needs {e.data.need}, {have}.")
            elif e.kind == "sched.victim" and data.unused_reason == Reason.PREEMPTED_THIS_STEP:
                event = e
                who = "itself" if e.data.for_req == e.req else e.data.for_req
                why.append(f"{e.req} was preempted for {who}.")
    elif data.unused_reason is None:
        why.append("Nothing is left over.")
    for row in data.rows:
        if row.limited_by is not None and 0 < row.granted < row.asked:
            limit = REASONS[row.limited_by]
            why.append(f"{row.req} asked for {row.asked}, got {row.granted}: {limit}.")
    told = Told(now, why, event, data.unused_reason)
    return make_answer(record, "budget", told, None, None)


def why_step(record: Record, state: State, step: int) -> list[Answer]:
    """The answers to what a reader of this step's headline would ask first."""
    events = record.steps.get(step, ())
    answers: list[Answer] = []
    known: list[Answer] = []  # waits for the reason it had before
    for kind in (
        "sched.victim",
        "req.error",
        "req.resume",
        "req.admit",
        "req.finish",
        "sched.skip",
    ):
        for req in [str(e.req) for e in events if e.kind == kind]:
            if all(answer.subject != req for answer in answers):
                answer = why_request(record, state, step, req)
                waits_on = kind == "sched.skip" and answer.since != step
                (known if waits_on else answers).append(answer)
    evicted = [e.data.block for e in events if e.kind == "kv.evict"]
    if not answers:
        answers = [why_block(record, state, step, block) for block in evicted]
    return (answers + known)[:2] or [why_budget(record, state, step)]
