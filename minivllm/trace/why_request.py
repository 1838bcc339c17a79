"""Why a request runs, waits, gave way or ended in a step: one small function for each case.

The first case that applies answers. All numbers are those that the engine emitted at the branch
that took the decision.
"""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.trace.answer import (
    GRANT_WORDS,
    Answer,
    Record,
    Told,
    find,
    how_long,
    ledger_row,
    make_answer,
)
from minivllm.trace.events import REASONS, Event, GrantWhy, Reason
from minivllm.trace.fold import RequestState, State
from minivllm.trace.words import are, count, join, span


def why_request(record: Record, state: State, step: int, req: str) -> Answer:
    """Why ``req`` runs, waits, gave way or ended in ``step``; ``state`` is the one after it.

    ``req`` must be in ``state.requests``.
    """
    request = state.requests[req]
    events = record.steps.get(step, ())
    told = next(
        answer
        for tell in (_finished, _preempted, _runs, _runs_nothing, _skipped, _behind, _nothing_said)
        if (answer := tell(record, events, state, req, request)) is not None
    )
    since, then = how_long(record, step, lambda at: _condition(record.steps[at], req))
    if request.finished_step is not None and request.finished_step < step:
        since, then = request.finished_step, None
    return make_answer(record, req, told, since, then)


def _finished(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    if request.status != "finished" or request.finished_step is None:
        return None
    of_its_step = record.steps.get(request.finished_step, ())
    finish = find(of_its_step, "req.finish", req)
    output = len(request.tokens) - request.num_prompt_tokens
    when = f"in step {request.finished_step}" if request.finished_step != state.step else "now"
    now = f"Finished {when} ({request.finish_reason}) after {count(output, 'output token')}."
    why: list[str] = []
    reason = finish.data.why if finish else None
    if reason == Reason.LARGER_THAN_POOL and (skip := find(of_its_step, "sched.skip", req)):
        why.append(f"It needs {count(skip.data.need, 'block')}; the pool has {skip.data.have}.")
    elif error := find(of_its_step, "req.error", req):
        why.append(f"It failed: {error.data.message}.")
    elif request.finish_reason == "length":
        why.append(f"It has all of its {count(request.max_tokens, 'output token')} (max_tokens).")
    elif finish is not None and finish.data.stop_reason is not None:
        why.append(f"It said {finish.data.stop_reason!r}, which is one of its stops.")
    elif request.finish_reason == "stop":
        why.append("It said the end-of-sequence token.")
    if freed := find(of_its_step, "kv.free", req):
        cached, blank = len(freed.data.back), len(freed.data.front)
        shared = len(freed.data.blocks) - cached - blank
        parts = [f"{cached} still cached" if cached else "", f"{blank} blank" if blank else ""]
        parts.append(f"{shared} still held by others" if shared else "")
        told = join([part for part in parts if part])
        why.append(f"Of its {count(len(freed.data.blocks), 'block')}: {told}.")
    return Told(now, why, finish, reason)


def _preempted(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    victim = find(events, "sched.victim", req)
    if victim is None:
        return None
    data = victim.data
    if req in state.waiting:
        place = state.waiting.index(req)
        where = "at the head of" if place == 0 else f"as number {place + 1} in"
        now = f"Preempted in this step; it waits {where} the queue, none of its tokens computed."
    else:  # looked at in the middle of the step
        now = "Chosen to give way: it still runs, and its blocks are given back next."
    who = "It" if data.for_req == req else data.for_req
    last = "the one admitted last" if data.policy == "fcfs" else "the last by priority"
    others = f", of {join(data.candidates)}" if len(data.candidates) > 1 else ""
    why = [
        f"{who} needs {count(data.need, 'more block')}; {data.have} {are(data.have)} free.",
        f"Under {data.policy} {last} gives way: {req}{others}.",
        f"It loses {count(data.tokens_lost, 'computed token')}; "
        "its output is kept and is run again when it resumes.",
    ]
    if refund := find(events, "sched.refund", req):
        why.append(f"{count(refund.data.n, 'token')} it had been granted go back to the budget.")
    return Told(now, why, victim, Reason.PREEMPTED, holds=req in state.waiting)


def _runs(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    grant = find(events, "sched.grant", req)
    if grant is None:
        return None
    n, start = grant.data.n, grant.data.start
    decode = grant.data.why is GrantWhy.DECODE
    drafts = n - 1 if decode else 0
    what = "the token it said last" if decode else GRANT_WORDS[grant.data.why]
    if drafts:
        what += f" and {count(drafts, 'draft')}"
    now = f"Runs {span(start + 1, start + n)} in this step: {what}."
    why: list[str] = []
    if admit := (find(events, "req.admit", req) or find(events, "req.resume", req)):
        hit, tokens = admit.data.hit, admit.data.tokens
        blocks = [e.data.block for e in events if e.kind == "kv.touch" and e.req == req]
        if hit:
            noun = "block" if len(blocks) == 1 else "blocks"
            why.append(f"{hit} of its {tokens} tokens were found in {noun} {join(blocks)}.")
        miss = find(events, "kv.miss", req)
        if miss is not None:
            where = f"its block {miss.data.at_block + 1}"
            why.append(f"The look-up ended at {where}: {REASONS[miss.data.reason]}.")
    elif decode:
        why.append("It lacks only the token it said last: running requests come first.")
    if drafts and find(events, "req.token", req):
        accept = find(events, "spec.accept", req)
        right = accept.data.n if accept is not None else 0
        why.append(f"Of {count(drafts, 'draft')} {right} {'was' if right == 1 else 'were'} right.")
    chunk, row = find(events, "sched.chunk", req), ledger_row(events, req)
    if chunk is not None and row is not None and row.limited_by is not None:
        why.append(f"It lacked {chunk.data.of}; {n} run: {REASONS[row.limited_by]}.")
    limit = row.limited_by if row is not None and chunk is not None else None
    return Told(now, why, grant, limit or grant.data.why)


def _runs_nothing(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    row = ledger_row(events, req)
    if request.status != "running" or row is None:
        return None
    ledger = next(e for e in events if e.kind == "sched.ledger")
    why = [f"It asked for {count(row.asked, 'token')} and was granted {row.granted}."]
    return Told("In running, but runs nothing in this step.", why, ledger, row.limited_by)


def _skipped(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    skip = find(events, "sched.skip", req)
    if skip is None:
        return None
    data, known = skip.data, len(request.tokens)
    now = "Waits, first in line."
    why: list[str] = []
    if data.reason == Reason.NO_FREE_BLOCKS:
        kept = f" beyond the {data.kept} that admissions must leave" if data.kept else ""
        why.append(
            f"Its {known} tokens need {count(data.need, 'block')}; "
            f"{data.have} {are(data.have)} free{kept}."
        )
        hit = find(events, "kv.hit", req)
        later = {
            b for e in events if e.kind == "kv.free" and e.seq > skip.seq for b in e.data.blocks
        }
        found = hit.data.blocks if hit is not None else []
        idle = [b for b in found if b in state.free and b not in later]
        if hit is not None and idle:
            first, free = hit.data.blocks.index(idle[0]), data.have + data.kept
            size = int(state.config["block_size"]) if state.config else 1
            tokens = span(first * size + 1, (first + len(idle)) * size)
            who = f"{len(idle)} of them"
            if len(idle) == free:
                who = {1: "It", 2: "Both"}.get(free, f"All {free}")
            why.append(
                f"{who} {'holds' if len(idle) == 1 else 'hold'} its own {tokens}: a hit saves the "
                "work, but a cached block that lies free counts as needed, too."
            )
    elif data.reason == Reason.NO_BUDGET:
        why.append("Those before it took all of this step's budget.")
    elif data.reason == Reason.CHUNKING_OFF:
        why.append(f"Its {data.need} tokens must run in one piece; {data.have} are left.")
    elif data.reason == Reason.STATIC_BATCH:
        why.append(f"{count(data.need, 'request')} of the batch must end first; nobody joins it.")
    elif data.reason == Reason.FRAGMENTED:
        why.append(
            f"Its {data.need} blocks must be neighbours; at most {data.have} "
            f"{are(data.have)} free in a row."
        )
    elif data.reason == Reason.MAX_NUM_SEQS:
        why.append(f"{len(state.running)} requests run.")
    elif data.reason == Reason.WAITING_FOR_GRAMMAR:
        now = "Waits for its grammar, and is passed over."
        why.append("It is compiled beside the engine; who stands behind goes on.")
    return Told(now, why, skip, data.reason)


def _behind(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    stop = next((e for e in events if e.kind == "sched.stop"), None)
    if stop is None or req not in (stop.data.head, *stop.data.behind):
        return None
    policy = state.config["policy"] if state.config else "fcfs"
    if req == stop.data.head:
        now, why = "Waits, first in line.", []
        if stop.data.reason == Reason.PREEMPTED_THIS_STEP:
            why.append("The blocks that came back are for those who run.")
    else:
        now = f"Waits behind {stop.data.head} ({policy})."
        why = [f"The queue is not looked at past {stop.data.head}: nobody overtakes."]
    return Told(now, why, stop, stop.data.reason)


def _nothing_said(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> Told | None:
    place = {
        "waiting": "in the waiting queue",
        "waiting_for_grammar": "in the waiting queue, without its grammar",
        "running": "in running",
    }
    now = f"It is {place.get(request.status, request.status)}; no event of this step is about it."
    return Told(now, [], None)


def _condition(events: Sequence[Event], req: str) -> tuple[object, ...]:
    """What a step says of a request, coarsely: while it stays the same, nothing changed."""
    if find(events, "req.finish", req):
        return ("finished",)
    if find(events, "sched.victim", req):
        return ("preempted",)
    if grant := find(events, "sched.grant", req):
        return ("runs", grant.data.why)
    if skip := find(events, "sched.skip", req):
        return ("waits", skip.data.reason)
    for event in events:
        if event.kind == "sched.stop" and req in event.data.behind:
            return ("behind", event.data.head)
    return ("nothing",)
