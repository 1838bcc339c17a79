"""A run as a table to be worked out by hand: one row a step, and the scenario that stands above it.

The rows are those of the scheduler's own decisions: who arrives, runs and waits (with the reason
that was emitted), which blocks are taken and evicted, how the free queue stands. Pure; a row is
written from a step's events and the state after it. ``worksheet_text.py`` and ``worksheet_page.py``
print it. No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from minivllm.errors import ConfigError, TraceError
from minivllm.trace.events import Event
from minivllm.trace.file import Trace
from minivllm.trace.fold import State, apply
from minivllm.trace.words import count, knob_value

COLUMNS = {
    "step": "step",
    "arrives": "arrives",
    "runs": "runs",
    "waits": "waits, with the reason",
    "budget": "budget",
    "taken": "blocks taken",
    "free": "free queue after the step",
    "ends": "ends",
}
"""Column → its heading, from left to right."""
GIVEN = ("step", "arrives")
"""What every sheet tells."""
ASKED = tuple(name for name in COLUMNS if name not in GIVEN)
"""What a blank sheet leaves to be found."""
LEGEND = "↺ reused blocks · ✕ evicted · ◆ still cached · the free queue: the next to be taken first"
FREE_SHOWN = 16
"""Entries of a free queue that are written out; the rest is counted."""
PLACEHOLDER = "·"
"""The text of a token that no model said."""


@dataclass(frozen=True, slots=True)
class Row:
    """One step, each part in a form that is easy to compare; ``cells`` writes it for readers."""

    step: int
    arrives: str
    runs: str
    """``r1 5, r3 10 of 22``: tokens, and of how many that it lacked if not all."""
    reused: str
    """``r2 8: 1 2``: request, tokens: blocks."""
    waits: list[str]
    budget: int
    """Tokens of it that are used."""
    taken: str
    evicted: str
    free: str
    """The queue after the step; ``*``: still cached."""
    ends: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the scenario."""

    req: str
    arrives: int
    prompt: str
    """Its text; empty where the tokens are made up."""
    tokens: int
    shares: str
    """``first 8 as r1``: the longest beginning that an earlier prompt has, too."""
    outputs: str
    priority: int


@dataclass(frozen=True, slots=True)
class Sheet:
    name: str
    title: str
    knobs: list[str]
    arrivals: list[Arrival]
    before: list[str]
    """How the run stands before the first row, where that is not step 1."""
    rows: list[Row]


def make_sheet(trace: Trace, first: int | None = None, last: int | None = None) -> Sheet:
    """The steps ``first`` to ``last`` (None: all). Raises ConfigError for steps that are not there,
    TraceError where nothing ran."""
    begins, ends = trace.first_step, trace.last_step
    if ends < begins:
        raise TraceError(f"{trace.name or trace.header.name}: no step ran, so there is no table")
    for option, given in (("--from", first), ("--to", last)):
        if given is not None and not begins <= given <= ends:
            raise ConfigError(option, given, f"a step of this run, {begins} to {ends}")
    first, last = first or begins, last or ends
    if first > last:
        raise ConfigError("--from", first, f"a step up to --to, which is {last}")
    state = trace.state_before(first)
    config = _config(state, trace.steps.get(0, []) if first == 1 else [])
    before = _standing(state) if first > 1 else []
    rows = []
    for step in range(first, last + 1):
        events = trace.steps.get(step, [])
        for event in events:
            apply(state, event)
        rows.append(make_row(step, events, state))
    name = trace.header.name or trace.name
    which = "" if (first, last) == (begins, ends) else f", steps {first} to {last} of {ends}"
    return Sheet(
        name, f"{name}{which}", _knobs(config, trace, last), _arrivals(trace, last), before, rows
    )


def make_row(step: int, events: list[Event], after: State) -> Row:
    """One row from the events of a step and the state after it."""

    def of(*kinds: str) -> list[Event]:
        return [event for event in events if event.kind in kinds]

    taken: dict[str | None, list[int]] = {}
    for event in of("kv.alloc", "kv.reserve"):
        taken.setdefault(event.req, []).extend(event.data.blocks)
    reused = []
    for event in of("req.admit", "req.resume"):
        if event.data.hit:
            blocks = [e.data.block for e in of("kv.touch") if e.req == event.req]
            reused.append(f"{event.req} {event.data.hit}: {_numbers(blocks)}")
    chunks = {e.req: f" of {e.data.of}" for e in of("sched.chunk")}
    refunded = {e.req for e in of("sched.refund")}
    grants = [e for e in of("sched.grant") if e.req not in refunded]
    free = [f"{b}*" if after.blocks[b].hash else str(b) for b in after.free]
    return Row(
        step=step,
        arrives=", ".join(str(event.req) for event in of("req.arrive")),
        runs=", ".join(f"{e.req} {e.data.n}{chunks.get(e.req, '')}" for e in grants),
        reused=", ".join(reused),
        waits=_waits(of),
        budget=sum(e.data.used for e in of("sched.ledger")),
        taken=", ".join(f"{req}: {_numbers(blocks)}" for req, blocks in taken.items()),
        evicted=_numbers([event.data.block for event in of("kv.evict")]),
        free=" ".join(free),
        ends=", ".join(_end(event) for event in of("req.finish")),
    )


def _waits(of: Any) -> list[str]:
    waits, told = [], set()
    for event in of("sched.victim"):
        freed = [e.data for e in of("kv.free") if e.req == event.req]
        gives = f"; gives {_numbers(freed[0].blocks[::-1])}" if freed and freed[0].blocks else ""
        data = event.data
        who = "itself" if data.for_req == event.req else data.for_req
        waits.append(f"{event.req} preempted for {who} (need {data.need}, have {data.have}{gives})")
        told.add(event.req)
    skipped = set()
    for event in of("sched.skip"):
        data, detail = event.data, ""
        if data.reason == "no_free_blocks":
            detail = f" (need {data.need}, have {data.have}; hit {data.hit})"
        waits.append(f"{event.req} {data.reason.value}{detail}")
        skipped.add(event.req)
    for event in of("sched.stop"):
        if event.data.head not in skipped:
            waits.append(f"{event.data.head} {event.data.reason.value}")
        waits += [f"{req} behind {event.data.head}" for req in event.data.behind]
        told.update([event.data.head, *event.data.behind])
    for event in of("sched.ledger"):  # who runs, and got nothing in this step
        for row in event.data.rows:
            if not row.granted and row.limited_by and row.req not in told | skipped:
                waits.append(f"{row.req} {row.limited_by.value}")
    return waits


def _end(event: Event) -> str:
    usual = event.data.reason in ("length", "stop")
    return str(event.req) if usual else f"{event.req} ({event.data.reason})"


def _numbers(blocks: Iterable[int]) -> str:
    return " ".join(map(str, blocks))


def asked_columns(words: str, option: str = "--ask") -> tuple[str, ...]:
    """``waits,free`` → the columns that the blank sheet leaves open. Raises ConfigError."""
    names = tuple(word.strip() for word in words.split(",") if word.strip())
    for name in names:
        if name not in ASKED:
            raise ConfigError(option, name, f"some of {', '.join(ASKED)}, with commas between them")
    return names or ASKED


# --- for readers -------------------------------------------------------------------------------


def cells(row: Row) -> dict[str, str]:
    """Column → what stands in it: ``r1 5, r2 3 (8 reused: ↺ 1 2)``, ``r4: 6✕``, ``7 … 15``."""
    runs = row.runs.split(", ") if row.runs else []
    for part in row.reused.split(", ") if row.reused else []:
        req, _, rest = part.partition(" ")
        tokens, _, blocks = rest.partition(": ")
        at = next((i for i, words in enumerate(runs) if words.split()[0] == req), None)
        words = f"({tokens} reused: ↺ {blocks})"
        if at is None:
            runs.append(f"{req} {words}")
        else:
            runs[at] += f" {words}"
    evicted = set(row.evicted.split())
    taken = " ".join(
        word.replace(number, f"{number}✕") if (number := word.rstrip(",")) in evicted else word
        for word in row.taken.split()
    )
    return {
        "step": str(row.step),
        "arrives": row.arrives,
        "runs": ", ".join(runs) or "–",
        "waits": "; ".join(row.waits),
        "budget": str(row.budget),
        "taken": taken or "–",
        "free": free_queue(row.free.split()) or "–",
        "ends": row.ends,
    }


def free_queue(entries: list[str]) -> str:
    """``4 … 15`` for blank ones in order, ``15◆`` for one that is still cached."""
    parts: list[str] = []
    i = 0
    while i < len(entries):
        end = i + 1
        while end < len(entries) and _follows(entries[end - 1], entries[end]):
            end += 1
        if end - i > 3:
            parts.append(f"{entries[i]} … {entries[end - 1]}")
        else:
            parts += entries[i:end]
        i = end
    rest = len(parts) - FREE_SHOWN
    if rest > 0:
        parts = [*parts[:FREE_SHOWN], f"and more, {len(entries)} in all"]
    return " ".join(parts).replace("*", "◆")


def _follows(before: str, entry: str) -> bool:
    return before.isdigit() and entry.isdigit() and int(entry) == int(before) + 1


# --- the scenario ------------------------------------------------------------------------------


def _config(state: State, start: list[Event]) -> dict[str, Any]:
    if state.config is None:
        for event in start:
            apply(state, event)
    return dict(state.config or {})


def _knobs(c: dict[str, Any], trace: Trace, last: int) -> list[str]:
    on = {name: knob_value(c[name]) for name in ("enable_chunked_prefill", "enable_prefix_caching")}
    blocks = c["num_kv_blocks"] - 1
    told = [
        f"{count(blocks, 'block')} of {count(c['block_size'], 'token')} (1 to {blocks}; block 0 is "
        "the null block)",
        f"a step may run {count(c['max_num_batched_tokens'], 'token')}",
        f"at most {count(c['max_num_seqs'], 'request')} at once, of {c['max_model_len']} tokens",
        c["policy"],
        f"chunked prefill {on['enable_chunked_prefill']}",
        f"prefix caching {on['enable_prefix_caching']}",
    ]
    usual = {
        "long_prefill_token_threshold": 0,
        "watermark": 0,
        "admission": "full",
        "batching": "continuous",
        "scheduler_cls": "default",
        "kv_manager_cls": "paged",
        "speculative_ngram": 0,
    }
    told += [f"{n} {knob_value(c[n])}" for n, value in usual.items() if c.get(n, value) != value]
    told += [
        f"from step {event.step} on {event.data.name} {knob_value(event.data.value)}"
        for event in trace.engine_events
        if event.kind == "run.knob" and event.step <= last
    ]
    return told


def _arrivals(trace: Trace, last: int) -> list[Arrival]:
    said = {
        event.req: str(event.data.output_tokens)
        for event in trace.engine_events
        if event.kind == "req.finish"
    }
    arrivals: list[Arrival] = []
    prompts: dict[str, list[int]] = {}
    for event in trace.engine_events:
        if event.kind != "req.arrive" or event.step > last:
            continue
        data, req = event.data, str(event.req)
        arrivals.append(
            Arrival(
                req=req,
                arrives=event.step,
                prompt="" if set(data.texts) <= {PLACEHOLDER, ""} else "".join(data.texts),
                tokens=len(data.prompt_token_ids),
                shares=_shares(data.prompt_token_ids, prompts),
                outputs=said.get(req, f"at most {data.max_tokens}"),
                priority=data.priority,
            )
        )
        prompts[req] = data.prompt_token_ids
    return arrivals


def _shares(ids: list[int], earlier: dict[str, list[int]]) -> str:
    best, whose = 0, ""
    for req, other in earlier.items():
        n = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), None)
        n = min(len(ids), len(other)) if n is None else n
        if n > best:
            best, whose = n, req
    if not best:
        return ""
    return f"{'all' if best == len(ids) else 'first'} {best} as {whose}"


def _standing(state: State) -> list[str]:
    """What is to be known of the steps that are left out."""

    def held(req: str) -> str:
        r = state.requests[req]
        return f"{req} {r.num_computed_tokens} of {count(len(r.tokens), 'token')} computed"

    running = [f"{held(r)}, blocks {_numbers(state.requests[r].table)}" for r in state.running]
    free = [f"{b}*" if state.blocks[b].hash else str(b) for b in state.free]
    return [
        f"running: {'; '.join(running) or 'nobody'}",
        f"waiting: {'; '.join(held(r) for r in state.waiting) or 'nobody'}",
        f"free queue: {free_queue(free) or '–'}",
    ]
