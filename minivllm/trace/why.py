"""Why: what a request, a block or the unused budget is doing in a step, and the emitted reason.

Pure functions of the recorded events; the terminal's ``why`` prints what they answer, and a Why
card can show it. They infer nothing: each sentence puts numbers into words that the engine emitted
at the branch that took the decision, and ``source`` is that branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minivllm.trace.events import REASONS, Event, GrantWhy, Reason, RunSource
from minivllm.trace.fold import BlockState, RequestState, State
from minivllm.trace.lives import block_life
from minivllm.trace.words import are, count, join, span

GRANT_WORDS: dict[GrantWhy, str] = {
    GrantWhy.PREFILL: "its whole prompt, or what a prefix hit left of it",
    GrantWhy.CHUNK: "a piece of its prompt, not the last",
    GrantWhy.LAST_CHUNK: "the piece that completes its prompt",
    GrantWhy.RESUME: "prompt and output again, after a preemption",
    GrantWhy.DECODE: "one new token",
}


class Record(Protocol):
    """A run as far as it is known: the events of each step, and the source behind ``src`` ids."""

    @property
    def steps(self) -> Mapping[int, Sequence[Event]]: ...
    @property
    def sources(self) -> Mapping[int, RunSource]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    subject: str
    """``r4`` | ``block 6`` | ``budget``."""
    now: str
    """The state in words."""
    why: tuple[str, ...]
    """The emitted reason with its numbers, a sentence each."""
    reason: str | None
    """Its name in the enum."""
    meaning: str | None
    """What the enum says that the name means."""
    source: str | None
    """``file:line function`` that emitted it."""
    since: int | None = None
    """The first step in a row of which the same can be said."""
    next: int | None = None
    """The step that changes it, where it is known."""


@dataclass(frozen=True, slots=True)
class _Told:
    """An answer before it knows its place in the run."""

    now: str
    why: list[str]
    event: Event | None
    reason: Reason | GrantWhy | None = None


# --- a request ---------------------------------------------------------------------------------


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
    since, then = _how_long(record, step, lambda at: _condition(record.steps[at], req))
    if request.finished_step is not None and request.finished_step < step:
        since, then = request.finished_step, None
    return _answer(record, req, told, since, then)


def _finished(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    if request.status != "finished" or request.finished_step is None:
        return None
    of_its_step = record.steps.get(request.finished_step, ())
    finish = _find(of_its_step, "req.finish", req)
    output = len(request.tokens) - request.num_prompt_tokens
    when = f"in step {request.finished_step}" if request.finished_step != state.step else "now"
    now = f"Finished {when} ({request.finish_reason}) after {count(output, 'output token')}."
    why: list[str] = []
    reason = finish.data.why if finish else None
    if reason == Reason.LARGER_THAN_POOL and (skip := _find(of_its_step, "sched.skip", req)):
        why.append(f"It needs {count(skip.data.need, 'block')}; the pool has {skip.data.have}.")
    elif error := _find(of_its_step, "req.error", req):
        why.append(f"It failed: {error.data.message}.")
    elif request.finish_reason == "length":
        why.append(f"It has all of its {count(request.max_tokens, 'output token')} (max_tokens).")
    elif finish is not None and finish.data.stop_reason is not None:
        why.append(f"It said {finish.data.stop_reason!r}, which is one of its stops.")
    elif request.finish_reason == "stop":
        why.append("It said the end-of-sequence token.")
    if freed := _find(of_its_step, "kv.free", req):
        cached, blank = len(freed.data.back), len(freed.data.front)
        shared = len(freed.data.blocks) - cached - blank
        parts = [f"{cached} still cached" if cached else "", f"{blank} blank" if blank else ""]
        parts.append(f"{shared} still held by others" if shared else "")
        told = join([part for part in parts if part])
        why.append(f"Of its {count(len(freed.data.blocks), 'block')}: {told}.")
    return _Told(now, why, finish, reason)


def _preempted(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    victim = _find(events, "sched.victim", req)
    if victim is None:
        return None
    data = victim.data
    place = state.waiting.index(req) if req in state.waiting else 0
    where = "at the head of" if place == 0 else f"as number {place + 1} in"
    now = f"Preempted in this step; it waits {where} the queue, none of its tokens computed."
    who = "It" if data.for_req == req else data.for_req
    last = "the one admitted last" if data.policy == "fcfs" else "the last by priority"
    others = f", of {join(data.candidates)}" if len(data.candidates) > 1 else ""
    why = [
        f"{who} needs {count(data.need, 'more block')}; {data.have} {are(data.have)} free.",
        f"Under {data.policy} {last} gives way: {req}{others}.",
        f"It loses {count(data.tokens_lost, 'computed token')}; "
        "its output is kept and is run again when it resumes.",
    ]
    if refund := _find(events, "sched.refund", req):
        why.append(f"{count(refund.data.n, 'token')} it had been granted go back to the budget.")
    return _Told(now, why, victim, Reason.PREEMPTED)


def _runs(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    grant = _find(events, "sched.grant", req)
    if grant is None:
        return None
    n, start = grant.data.n, grant.data.start
    now = f"Runs {span(start + 1, start + n)} in this step: {GRANT_WORDS[grant.data.why]}."
    why: list[str] = []
    if admit := (_find(events, "req.admit", req) or _find(events, "req.resume", req)):
        hit, tokens = admit.data.hit, admit.data.tokens
        blocks = [e.data.block for e in events if e.kind == "kv.touch" and e.req == req]
        if hit:
            noun = "block" if len(blocks) == 1 else "blocks"
            why.append(f"{hit} of its {tokens} tokens were found in {noun} {join(blocks)}.")
        miss = _find(events, "kv.miss", req)
        if miss is not None:
            where = f"its block {miss.data.at_block + 1}"
            why.append(f"The look-up ended at {where}: {REASONS[miss.data.reason]}.")
    elif grant.data.why is GrantWhy.DECODE:
        why.append("It lacks only the token it said last: running requests come first.")
    chunk, row = _find(events, "sched.chunk", req), _ledger_row(events, req)
    if chunk is not None and row is not None and row.limited_by is not None:
        why.append(f"It lacked {chunk.data.of}; {n} run: {REASONS[row.limited_by]}.")
    limit = row.limited_by if row is not None and chunk is not None else None
    return _Told(now, why, grant, limit or grant.data.why)


def _runs_nothing(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    row = _ledger_row(events, req)
    if request.status != "running" or row is None:
        return None
    ledger = next(e for e in events if e.kind == "sched.ledger")
    why = [f"It asked for {count(row.asked, 'token')} and was granted {row.granted}."]
    return _Told("In running, but runs nothing in this step.", why, ledger, row.limited_by)


def _skipped(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    skip = _find(events, "sched.skip", req)
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
        hit = _find(events, "kv.hit", req)
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
    elif data.reason == Reason.MAX_NUM_SEQS:
        why.append(f"{len(state.running)} requests run.")
    return _Told(now, why, skip, data.reason)


def _behind(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
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
    return _Told(now, why, stop, stop.data.reason)


def _nothing_said(
    record: Record, events: Sequence[Event], state: State, req: str, request: RequestState
) -> _Told | None:
    place = {"waiting": "in the waiting queue", "running": "in running"}
    now = f"It is {place.get(request.status, request.status)}; no event of this step is about it."
    return _Told(now, [], None)


def _condition(events: Sequence[Event], req: str) -> tuple[object, ...]:
    """What a step says of a request, coarsely: while it stays the same, nothing changed."""
    if _find(events, "req.finish", req):
        return ("finished",)
    if _find(events, "sched.victim", req):
        return ("preempted",)
    if grant := _find(events, "sched.grant", req):
        return ("runs", grant.data.why)
    if skip := _find(events, "sched.skip", req):
        return ("waits", skip.data.reason)
    for event in events:
        if event.kind == "sched.stop" and req in event.data.behind:
            return ("behind", event.data.head)
    return ("nothing",)


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
    told = _Told(now, why, last, reason if isinstance(reason, Reason) else None)
    since, then = (last.step if last else None), (future[0].event.step if future else None)
    return _answer(record, f"block {block}", told, since, then)


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
        told = _Told("No budget was handed out in this step.", [], None)
        return _answer(record, "budget", told, None, None)
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
                why.append(f"{e.req} was preempted for {e.data.for_req}.")
    elif data.unused_reason is None:
        why.append("Nothing is left over.")
    for row in data.rows:
        if row.limited_by is not None and 0 < row.granted < row.asked:
            limit = REASONS[row.limited_by]
            why.append(f"{row.req} asked for {row.asked}, got {row.granted}: {limit}.")
    told = _Told(now, why, event, data.unused_reason)
    return _answer(record, "budget", told, None, None)


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


# --- helpers -----------------------------------------------------------------------------------


def _find(events: Sequence[Event], kind: str, req: str) -> Event | None:
    return next((e for e in events if e.kind == kind and e.req == req), None)


def _ledger_row(events: Sequence[Event], req: str) -> Any:
    rows = (row for e in events if e.kind == "sched.ledger" for row in e.data.rows)
    return next((row for row in rows if row.req == req), None)


def _how_long(
    record: Record, step: int, condition: Callable[[int], tuple[object, ...]]
) -> tuple[int | None, int | None]:
    """The first step of the run of equal conditions around ``step``, and the first after it."""
    if step not in record.steps:
        return None, None
    now, since = condition(step), step
    while since - 1 in record.steps and since > 1 and condition(since - 1) == now:
        since -= 1
    after = step + 1
    while after in record.steps and condition(after) == now:
        after += 1
    return since, after if after in record.steps else None


def _answer(
    record: Record, subject: str, told: _Told, since: int | None, then: int | None
) -> Answer:
    reason = told.reason
    meaning = None
    if isinstance(reason, Reason):
        meaning = REASONS[reason]
    elif isinstance(reason, GrantWhy):
        meaning = GRANT_WORDS[reason]
    source = record.sources.get(told.event.src) if told.event is not None else None
    return Answer(
        subject=subject,
        now=told.now,
        why=tuple(told.why),
        reason=reason.value if reason is not None else None,
        meaning=meaning,
        source=f"{source.file}:{source.line} {source.function}" if source else None,
        since=since,
        next=then,
    )
