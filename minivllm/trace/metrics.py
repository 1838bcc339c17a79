"""Metrics of a run: work, speed, waiting, memory, budget. Pure functions of a trace's events.

    measured = measure(read_trace("run.jsonl"))

``minivllm compare``, the dashboard and the benchmarks show these. A time in steps is exact and the
same on any machine; milliseconds are there only where a model ran. In steps, with both ends counted
as a student counts them:

    TTFT    step of the first token − step of arrival + 1
    TPOT    (step of the last token − step of the first) / (output tokens − 1)
    queue   step of the first admission − step of arrival: whole steps spent waiting
    gap     the longest time between two tokens of a request, as its reader sees it stall

Percentiles are nearest-rank: always the value of some request, never one between two.

What ran adds up: ``tokens_run = needed − reused_first + again + drafts_in_vain``, where *again* is
what a preemption lost and the cache did not give back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import msgspec

from minivllm.trace.events import Event, Reason
from minivllm.trace.file import Trace
from minivllm.trace.kv_use import StepMemory, memory_by_step


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity over requests."""

    mean: float
    p50: float
    p95: float
    max: float
    n: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share (0 to 1) over the steps that had a batch."""

    mean: float
    max: float


class Preemption(msgspec.Struct, frozen=True, kw_only=True):
    req: str
    step: int
    for_req: str
    tokens_lost: int


class RequestMetrics(msgspec.Struct, kw_only=True):
    """One request. Steps, and nanoseconds since the run's start; None: it did not come so far."""

    req: str
    arrived: int
    arrived_ns: int
    admitted: int | None = None
    admitted_ns: int | None = None
    first_token: int | None = None
    first_token_ns: int | None = None
    last_token: int | None = None
    last_token_ns: int | None = None
    gap: int | None = None
    gap_ns: int | None = None
    output_tokens: int = 0
    reused_first: int = 0
    """Tokens it found in the cache beyond what it had computed itself before."""
    again: int = 0
    """Tokens it had computed, lost by preemption, and did not find in the cache."""
    needed: int = 0
    """Tokens that had to be computed by whomever for it to come where it came."""

    @property
    def ttft(self) -> int | None:
        return None if self.first_token is None else self.first_token - self.arrived + 1

    @property
    def queue(self) -> int | None:
        return None if self.admitted is None else self.admitted - self.arrived

    @property
    def tpot(self) -> float | None:
        if self.first_token is None or self.last_token is None or self.output_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.output_tokens - 1)


class Milliseconds(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model ran: this run, this machine."""

    total: float
    output_tokens_per_second: float
    ttft: Spread | None
    tpot: Spread | None
    gap: Spread | None
    queue: Spread | None


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the pool (``kv_use.py`` says what is what)."""

    taken: Share
    token_states: Share
    wasted: Share
    """Taken without a token in it: reserved or never used."""
    scattered: Share


class Metrics(msgspec.Struct, kw_only=True):
    steps: int
    requests: int
    ended: dict[str, int]
    """Finish reason → requests."""
    output_tokens: int
    output_tokens_per_step: float
    tokens_run: int
    tokens_reused: int
    """Taken over from the prefix cache, at first admissions and at returns."""
    reused_first: int
    again: int
    needed: int
    tokens_padded: int
    prefix_hits: int
    """Admissions and returns that found something."""
    drafts_run: int
    drafts_accepted: int
    drafts_in_vain: int
    """Not what the model says, or behind the end of the output."""
    ttft: Spread | None
    tpot: Spread | None
    gap: Spread | None
    queue: Spread | None
    preemptions: list[Preemption]
    budget: int
    """Tokens that all steps together might have run."""
    unused_because: dict[str, int]
    """Reason → tokens of budget that were left for it."""
    memory: Memory | None
    milliseconds: Milliseconds | None
    by_request: dict[str, RequestMetrics]

    @property
    def budget_use(self) -> float:
        return self.tokens_run / self.budget if self.budget else 0.0


def measure(trace: Trace) -> Metrics:
    """All metrics of one life of one engine; of a trace with several, measure each of ``lives``."""
    events = trace.engine_events
    of: dict[str, list[Event]] = {}
    for event in events:
        of.setdefault(event.kind, []).append(event)

    def total(kind: str, field: str) -> int:
        return sum(getattr(event.data, field) for event in of.get(kind, []))

    requests = by_request(events)
    admissions = of.get("req.admit", []) + of.get("req.resume", [])
    unused: Counter[str] = Counter()
    for event in of.get("sched.ledger", []):
        if event.data.unused_reason is not None:
            unused[event.data.unused_reason.value] += event.data.budget - event.data.used
    steps, outputs = len(of.get("step.begin", [])), len(of.get("req.token", []))
    rejects = [event.data for event in of.get("spec.reject", [])]
    accepted = total("spec.accept", "n")
    return Metrics(
        steps=steps,
        requests=len(requests),
        ended=dict(Counter(event.data.reason for event in of.get("req.finish", []))),
        output_tokens=outputs,
        output_tokens_per_step=outputs / steps if steps else 0.0,
        tokens_run=total("sched.ledger", "used"),
        tokens_reused=sum(event.data.hit for event in admissions),
        reused_first=sum(request.reused_first for request in requests.values()),
        again=sum(request.again for request in requests.values()),
        needed=sum(request.needed for request in requests.values()),
        tokens_padded=total("batch.compose", "padding"),
        prefix_hits=sum(event.data.hit > 0 for event in admissions),
        drafts_run=accepted + sum(d.n for d in rejects if d.why is Reason.DRAFT_MISMATCH),
        drafts_accepted=accepted,
        drafts_in_vain=sum(d.n for d in rejects),
        ttft=spread([request.ttft for request in requests.values()]),
        tpot=spread([request.tpot for request in requests.values()]),
        gap=spread([request.gap for request in requests.values()]),
        queue=spread([request.queue for request in requests.values()]),
        preemptions=[
            Preemption(
                req=str(event.req),
                step=event.step,
                for_req=event.data.for_req,
                tokens_lost=event.data.tokens_lost,
            )
            for event in of.get("sched.victim", [])
        ],
        budget=total("sched.ledger", "budget"),
        unused_because=dict(unused.most_common()),
        memory=_memory(memory_by_step(events)),
        milliseconds=_milliseconds(of, requests) if trace.header.fidelity == "live" else None,
        by_request=requests,
    )


def by_request(events: Sequence[Event]) -> dict[str, RequestMetrics]:
    """Every request whose arrival the trace has."""
    found: dict[str, RequestMetrics] = {}
    computed: Counter[str] = Counter()  # as the fold's num_computed_tokens
    lost: Counter[str] = Counter()  # by preemption, until it is back
    for event in events:
        data, req = event.data, str(event.req)
        if event.kind == "req.arrive":
            found[req] = RequestMetrics(req=req, arrived=event.step, arrived_ns=event.t_ns)
        elif event.kind == "sched.ledger":
            for row in data.rows:
                computed[row.req] += row.granted
        if req not in found:
            continue
        request = found[req]
        if event.kind in ("req.admit", "req.resume"):
            if request.admitted is None:
                request.admitted, request.admitted_ns = event.step, event.t_ns
            request.again += max(lost[req] - data.hit, 0)
            request.reused_first += max(data.hit - lost[req], 0)
            computed[req], lost[req] = data.hit, 0
        elif event.kind == "req.preempt":
            lost[req], computed[req] = data.tokens_lost, 0
        elif event.kind == "spec.reject":
            computed[req] -= data.n
        elif event.kind == "req.token":
            request.output_tokens += 1
            if request.last_token is not None and request.last_token_ns is not None:
                request.gap = max(request.gap or 0, event.step - request.last_token)
                request.gap_ns = max(request.gap_ns or 0, event.t_ns - request.last_token_ns)
            request.last_token, request.last_token_ns = event.step, event.t_ns
            if data.index == 0:
                request.first_token, request.first_token_ns = event.step, event.t_ns
    for req, request in found.items():
        request.needed = computed[req] + lost[req]
    return found


def spread(values: Sequence[float | None]) -> Spread | None:
    """Of those that are there; None if none is."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None

    def rank(share: float) -> float:
        return known[max(math.ceil(share * len(known)), 1) - 1]

    return Spread(mean=fmean(known), p50=rank(0.5), p95=rank(0.95), max=known[-1], n=len(known))


def _memory(steps: list[StepMemory]) -> Memory | None:
    steps = [step for step in steps if step.taken]  # an idle pool is nobody's merit
    if not steps:
        return None

    def share(tokens: list[int]) -> Share:
        shares = [n / step.pool for n, step in zip(tokens, steps, strict=True)]
        return Share(mean=fmean(shares), max=max(shares))

    return Memory(
        taken=share([step.taken for step in steps]),
        token_states=share([step.token_states for step in steps]),
        wasted=share([step.reserved + step.never_used for step in steps]),
        scattered=share([step.scattered for step in steps]),
    )


def _milliseconds(
    of: dict[str, list[Event]], requests: dict[str, RequestMetrics]
) -> Milliseconds | None:
    begun, ended = of.get("step.begin"), of.get("step.end")
    if not begun or not ended:
        return None
    total = (ended[-1].t_ns - begun[0].t_ns) / 1e6
    ttft: list[float | None] = []
    tpot: list[float | None] = []
    queue: list[float | None] = []
    gap = [None if r.gap_ns is None else r.gap_ns / 1e6 for r in requests.values()]
    for r in requests.values():
        if r.admitted_ns is not None:
            queue.append((r.admitted_ns - r.arrived_ns) / 1e6)
        if r.first_token_ns is not None and r.last_token_ns is not None:
            ttft.append((r.first_token_ns - r.arrived_ns) / 1e6)
            if r.output_tokens > 1:
                between = (r.last_token_ns - r.first_token_ns) / 1e6
                tpot.append(between / (r.output_tokens - 1))
    return Milliseconds(
        total=total,
        output_tokens_per_second=len(of.get("req.token", [])) / total * 1e3 if total else 0.0,
        ttft=spread(ttft),
        tpot=spread(tpot),
        gap=spread(gap),
        queue=spread(queue),
    )
