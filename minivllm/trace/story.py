"""The story of a step: one or two sentences and a line of numbers, made from its events.

``story(before, events)`` is a pure function; ``viz/static/core/story.js`` is its twin and the
vectors in ``tests/vectors`` hold both to the same words. ``before`` is the state when the step
begins to take its inputs, ``events`` are all of the step's.

The headline tells the first that happened, in this order; a second follows if both stay short:

    broken · a knob changed · preempted · refused or aborted · resumed · admitted · finished
    · waits (a new reason) · evicted · a chunk goes on · only decodes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minivllm.trace.events import REASONS, Event, GrantWhy, Reason
from minivllm.trace.fold import State
from minivllm.trace.words import are, count, join, knob_value

MAX_HEADLINE = 140
"""Characters that two sentences may take together."""
FULL = "the budget is full"
NOTHING_RUNS = "Nothing runs."


@dataclass(frozen=True, slots=True)
class Story:
    headline: str
    also: str
    """What the headline does not tell, counted; empty if nothing is left."""


@dataclass
class Facts:
    """The step's events, sorted by what the sentences need."""

    before: State
    by_kind: dict[str, list[Event]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Event]:
        return self.by_kind.get(kind, [])

    def one(self, kind: str, req: str | None) -> Event | None:
        return next((e for e in self.of(kind) if e.req == req), None)

    @property
    def ledger(self) -> Any:
        return self.of("sched.ledger")[0].data if self.of("sched.ledger") else None

    @property
    def budget(self) -> int:
        """Where only the step's beginning is known, it has no ledger yet."""
        config = self.before.config or {}
        return self.ledger.budget if self.ledger else config.get("max_num_batched_tokens", 0)

    @property
    def budget_full(self) -> bool:
        return self.ledger is not None and self.ledger.used == self.ledger.budget

    @property
    def decodes(self) -> list[str]:
        refunded = {e.req for e in self.of("sched.refund")}
        grants = [e for e in self.of("sched.grant") if e.req not in refunded]
        return [str(e.req) for e in grants if e.data.why == GrantWhy.DECODE]

    @property
    def num_taken(self) -> int:
        return sum(len(e.data.blocks) for e in self.of("kv.alloc") + self.of("kv.reserve"))

    @property
    def num_given_back(self) -> int:
        return sum(len(e.data.front) + len(e.data.back) for e in self.of("kv.free"))

    @property
    def num_free(self) -> int:
        """Free blocks when the step has ended."""
        touched = sum(e.data.ref == 1 for e in self.of("kv.touch"))
        return len(self.before.free) - self.num_taken - touched + self.num_given_back

    @property
    def all_done(self) -> bool:
        alive = len(self.before.waiting) + len(self.before.running)
        return alive + len(self.of("req.enqueue")) == len(self.of("req.finish")) > 0


def story(before: State, events: list[Event]) -> Story:
    """The words for one step."""
    facts = Facts(before)
    for event in events:
        facts.by_kind.setdefault(event.kind, []).append(event)
    told = [(tell, sentence) for tell in TELLERS for sentence in list(tell(facts))[:1]]
    if not told:
        headline = NOTHING_RUNS
    else:
        first_teller, headline = told[0]
        for tell, sentence in told[1:]:
            if FULL in headline.lower():  # said once
                sentence = sentence.replace(f"; {FULL}", "")
            both = f"{headline} {sentence}"
            if tell not in LAST_TWO and len(both) <= MAX_HEADLINE:
                headline = both
                break
        if facts.all_done:
            headline += " All requests are done."
        elif facts.num_free == 0:
            headline += " The pool is full."
        if first_teller is _decodes:
            return Story(headline, _also(facts, decodes=False))
    return Story(headline, _also(facts, decodes=True))


def _broken(facts: Facts) -> Iterator[str]:
    for event in facts.of("trace.violation"):
        yield f"An invariant is broken: {event.data.message}."
    for event in facts.of("run.error"):
        yield f"The step failed: {event.data.error}."


def _changed(facts: Facts) -> Iterator[str]:
    knobs = [f"{e.data.name} is {knob_value(e.data.value)}" for e in facts.of("run.knob")]
    if knobs:
        yield f"From here on {_listed(knobs)}."


def _preempted(facts: Facts) -> Iterator[str]:
    for event in facts.of("sched.victim"):
        data, victim = event.data, event.req
        why = f"{victim} came last" if data.policy == "fcfs" else f"{victim} is last by priority"
        who = "it" if data.for_req == victim else data.for_req
        yield (
            f"{victim} is preempted: {who} needs {count(data.need, 'block')}, "
            f"{data.have} {are(data.have)} free, {why}. "
            f"It loses {count(data.tokens_lost, 'computed token')}."
        )


def _refused(facts: Facts) -> Iterator[str]:
    for event in facts.of("req.error"):
        yield f"{event.req} ends with an error: {event.data.message}."
    for event in facts.of("sched.skip"):
        if event.data.reason == Reason.LARGER_THAN_POOL:
            data = event.data
            yield (
                f"{event.req} ends: it needs {count(data.need, 'block')}, "
                f"the whole pool has {data.have}."
            )
    for event in facts.of("req.abort"):
        yield f"{event.req} is aborted: {REASONS[event.data.why]}."


def _resumed(facts: Facts) -> Iterator[str]:
    for event in facts.of("req.resume"):
        n, tokens, hit = _granted(facts, event.req), event.data.tokens, event.data.hit
        if hit:
            where = _blocks(facts, event.req)
            yield (
                f"{event.req} resumes: {hit} of its {tokens} tokens are still in {where}; "
                f"{n} {_run(n)}.{_full(facts)}"
            )
        else:
            yield f"{event.req} resumes: {n} of its {tokens} tokens {_run(n)} again.{_full(facts)}"


def _admitted(facts: Facts) -> Iterator[str]:
    admitted = facts.of("req.admit")
    if len(admitted) > 1:
        n = sum(_granted(facts, event.req) for event in admitted)
        hit = sum(event.data.hit for event in admitted)
        reused = f"{count(hit, 'prompt token')} reused, " if hit else ""
        yield (
            f"{_names(admitted)} are admitted: {reused}{count(n, 'prompt token')} {_run(n)}"
            f"{_full(facts, joined=True)}."
        )
    for event in admitted:
        n, tokens, hit = _granted(facts, event.req), event.data.tokens, event.data.hit
        if hit:
            where = _blocks(facts, event.req)
            yield (
                f"{event.req} is admitted: {hit} of its {tokens} prompt tokens are already "
                f"in {where}; {n} {_run(n)}{_full(facts, joined=True)}."
            )
        else:
            part = f"all {tokens}" if n == tokens and n > 1 else f"{n} of its {tokens}"
            yield (
                f"{event.req} is admitted: {part} prompt tokens {_run(n)}"
                f"{_full(facts, joined=True)}."
            )


def _finished(facts: Facts) -> Iterator[str]:
    finished = [e for e in facts.of("req.finish") if e.data.reason in ("stop", "length")]
    finished = [e for e in finished if e.data.why is None]
    if len(finished) > 1:
        back, verb = facts.num_given_back, "come" if facts.num_given_back != 1 else "comes"
        yield f"{_names(finished)} finish; {count(back, 'block')} {verb} back."
    for event in finished:
        freed = facts.one("kv.free", event.req)
        back = len(freed.data.front) + len(freed.data.back) if freed else 0
        cached = len(freed.data.back) if freed else 0
        if back == 0:
            blocks = "no block comes back"
        else:
            blocks = f"{count(back, 'block')} {'comes' if back == 1 else 'come'} back, "
            if cached == 0:
                blocks += "none of them cached" if back > 1 else "not cached"
            elif cached == back:
                blocks += "all still cached" if back > 1 else "still cached"
            else:
                blocks += f"{cached} of them still cached"
        yield f"{event.req} finishes after {count(event.data.output_tokens, 'token')}; {blocks}."


def _waits(facts: Facts) -> Iterator[str]:
    """Only a reason that was not the same in the step before."""
    stop = facts.of("sched.stop")[0].data if facts.of("sched.stop") else None
    for event in facts.of("sched.skip"):
        data = event.data
        known = facts.before.requests.get(str(event.req))
        old = known.wait if known else None
        if data.reason == Reason.LARGER_THAN_POOL:
            continue
        if old is not None and old.behind is None and old.reason == data.reason:
            continue
        sentence = f"{event.req} waits: {_wait_reason(facts, data)}."
        behind = stop.behind if stop and stop.head == event.req else []
        newly = [req for req in behind if not _stood_behind(facts, req)]
        if newly:
            sentence += f" {_listed(newly)} {'wait' if len(newly) > 1 else 'waits'} behind it."
        yield sentence


def _wait_reason(facts: Facts, data: Any) -> str:
    if data.reason == Reason.NO_BUDGET:
        return f"the budget of {facts.budget} is used up"
    if data.reason == Reason.NO_FREE_BLOCKS:
        kept = f" beyond the {data.kept} kept back" if data.kept else ""
        return f"it needs {count(data.need, 'block')}, {data.have} {are(data.have)} free{kept}"
    if data.reason == Reason.CHUNKING_OFF:
        return f"its {data.need} tokens must run whole, {data.have} of the budget are left"
    if data.reason == Reason.STATIC_BATCH:
        still = "still runs" if data.need == 1 else "still run"
        return f"batching is static, and {count(data.need, 'request')} of the batch {still}"
    if data.reason == Reason.FRAGMENTED:
        row = f"at most {data.have} {are(data.have)} free in a row"
        return f"it needs {count(data.need, 'neighbouring block')}, {row}"
    return REASONS[Reason(data.reason)]


def _stood_behind(facts: Facts, req: str) -> bool:
    known = facts.before.requests.get(req)
    return known is not None and known.wait is not None and known.wait.behind is not None


def _evicted(facts: Facts) -> Iterator[str]:
    evicted = facts.of("kv.evict")
    if len(evicted) > 1:
        reqs = _listed(list(dict.fromkeys(str(e.req) for e in evicted)))
        yield f"{len(evicted)} cached blocks are evicted for {reqs}: their content is forgotten."
    for event in evicted:
        left = f"what {event.data.left_by} left there" if event.data.left_by else "its content"
        yield f"Block {event.data.block} is evicted for {event.req}: {left} is forgotten."


def _chunk_goes_on(facts: Facts) -> Iterator[str]:
    for event in facts.of("sched.grant"):
        if event.data.why in (GrantWhy.CHUNK, GrantWhy.LAST_CHUNK):
            chunk = facts.one("sched.chunk", event.req)
            lacked = chunk.data.of if chunk else event.data.n
            n = event.data.n
            if n == lacked:
                yield f"{event.req} runs the last {count(n, 'token')} of its prompt."
            else:
                yield f"{event.req} runs {n} of the {lacked} tokens that it lacks."


def _decodes(facts: Facts) -> Iterator[str]:
    n, one = len(facts.decodes), "".join(facts.decodes[:1])
    if drafts := _num_drafts(facts):
        right = sum(e.data.n for e in facts.of("spec.accept"))
        said = count(sum(str(e.req) in facts.decodes for e in facts.of("req.token")), "token")
        who = f"{one} decodes" if n == 1 else f"{n} requests decode"
        were = "was" if right == 1 else "were"
        yield f"{who} {said}: {right} of {count(drafts, 'draft')} {were} right."
    elif n == 1:
        yield f"{one} decodes one token."
    elif n:
        yield f"{n} requests decode one token each."


TELLERS: list[Callable[[Facts], Iterator[str]]] = [
    _broken,
    _changed,
    _preempted,
    _refused,
    _resumed,
    _admitted,
    _finished,
    _waits,
    _evicted,
    _chunk_goes_on,
    _decodes,
]
LAST_TWO = (_chunk_goes_on, _decodes)


def _also(facts: Facts, decodes: bool) -> str:
    parts: list[str] = []
    n = len(facts.decodes)
    if decodes and n:
        parts.append(f"{count(n, 'request')} {'decodes' if n == 1 else 'decode'}")
        if drafts := _num_drafts(facts):
            right = sum(e.data.n for e in facts.of("spec.accept"))
            parts.append(f"{right} of {count(drafts, 'draft')} right")
    reused = sum(e.data.hit for e in facts.of("req.admit") + facts.of("req.resume"))
    if reused:
        parts.append(f"{count(reused, 'token')} reused")
    back, taken = facts.num_given_back, facts.num_taken
    if back:
        parts.append(f"{count(back, 'block')} given back" + (f", {taken} taken" if taken else ""))
    elif taken:
        parts.append(f"{count(taken, 'block')} taken")
    if facts.of("kv.evict"):
        parts.append(f"{len(facts.of('kv.evict'))} evicted")
    if ready := facts.of("req.grammar_ready"):
        parts.append(f"grammar of {_names(ready)} ready")
    parts.append(f"{facts.num_free} free")
    return " · ".join(parts)


# --- words -------------------------------------------------------------------------------------


def _listed(names: list[str]) -> str:
    return join(names, most=4)


def _run(n: int) -> str:
    return "runs" if n == 1 else "run"


def _names(events: list[Event]) -> str:
    return _listed([str(event.req) for event in events])


def _granted(facts: Facts, req: str | None) -> int:
    grant = facts.one("sched.grant", req)
    return int(grant.data.n) if grant else 0


def _num_drafts(facts: Facts) -> int:
    """Those that ran: a decode is one token and its drafts."""
    return sum(_granted(facts, req) - 1 for req in facts.decodes)


def _full(facts: Facts, joined: bool = False) -> str:
    """Said of whoever took the last of the budget."""
    if not facts.budget_full:
        return ""
    return f"; {FULL}" if joined else f" {FULL.capitalize()}."


def _blocks(facts: Facts, req: str | None) -> str:
    """The blocks of a request's hit."""
    ids = [str(e.data.block) for e in facts.of("kv.touch") if e.req == req]
    if len(ids) < 2:
        return f"block {ids[0]}" if ids else "no block"  # the trace of an engine that is wrong
    return f"{len(ids)} blocks" if len(ids) > 4 else f"blocks {_listed(ids)}"
