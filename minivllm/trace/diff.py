"""Diff: where two runs first decide otherwise, and why. Pure; ``compare`` and the page use it, too.

    comparison = compare(read_trace("a.jsonl"), read_trace("b.jsonl"))

Steps are laid side by side by their numbers. A step's decisions are who ran and how much, why
others did not, who gave way, who ended (``decisions.py``); they are compared as the phrases in
which they are told. Block ids, budgets and free blocks are not decisions: with another knob they
differ by nature, and are counted (``by_nature``) without being a divergence. Each side's story of
the step and its answer to "why?" come from the events, so a cause is told, never inferred.

What may have made the runs part is listed beside it: ``knobs`` that differ, ``inputs`` that differ,
the first ``token`` that does. Traces of different workloads are not comparable: their requests have
nothing to do with one another.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from minivllm.trace.decisions import decisions
from minivllm.trace.events import Event, RunSource
from minivllm.trace.file import Trace
from minivllm.trace.fold import State, apply
from minivllm.trace.inputs import InputPair, arrivals, breaks_off, input_pairs
from minivllm.trace.story import story
from minivllm.trace.structural import is_structural, structural
from minivllm.trace.why import why_request
from minivllm.trace.words import knob_value

NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Side:
    """One run's half of the step at which they part."""

    headline: str
    why: tuple[str, ...]
    """Of the first request whose lot differs: its state, then the reason with its numbers."""
    source: str | None
    """``file:line function`` that decided it."""


@dataclass(frozen=True, slots=True)
class Other:
    """What one request did in A and in B; ``req`` is None for the batch as a whole."""

    req: str | None
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first step with another decision."""

    step: int
    others: tuple[Other, ...]
    a: Side
    b: Side


@dataclass(frozen=True, slots=True)
class KnobPair:
    """A knob that is not the same; ``step`` is that of its change, 0 for the start."""

    name: str
    step: int
    a: Any
    b: Any

    @property
    def words(self) -> str:
        since = f" from step {self.step} on" if self.step else ""
        return f"{self.name} is {knob_value(self.a)} in A and {knob_value(self.b)} in B{since}"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The first output token that is not the same."""

    step: int
    req: str
    index: int
    a: str
    b: str


@dataclass(slots=True)
class Comparison:
    steps: tuple[int, int]
    not_comparable: str | None = None
    """Why the rest says nothing."""
    first: Divergence | None = None
    knobs: list[KnobPair] = field(default_factory=list)
    inputs: list[InputPair] = field(default_factory=list)
    token: TokenPair | None = None
    by_nature: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Kind → how many events of it the two runs have that the other lacks, up to the divergence."""
    cause: list[str] = field(default_factory=list)
    """What came before the divergence and may have made it, a sentence each."""

    @property
    def same(self) -> bool:
        """No other decision, no other input, no other token."""
        return not (self.not_comparable or self.first or self.inputs or self.token)


def compare(a: Trace, b: Trace) -> Comparison:
    """Where ``b`` first goes another way than ``a``."""
    result = Comparison(steps=(a.last_step, b.last_step))
    result.not_comparable = _why_not(a, b)
    if result.not_comparable:
        return result
    result.knobs = _knobs(a, b)
    result.inputs = input_pairs(a, b)
    first = _first_other_step(a, b)
    result.token = _first_other_token(a, b)
    if first is not None:
        result.first = _divergence(a, b, first)
    result.by_nature = _by_nature(a, b, first)
    result.cause = _cause(result, a, b)
    return result


# --- the step at which they part ----------------------------------------------------------------


def _first_other_step(a: Trace, b: Trace) -> int | None:
    for step in range(1, max(a.last_step, b.last_step) + 1):
        if decisions(a.steps.get(step, [])) != decisions(b.steps.get(step, [])):
            return step
    return None


def _divergence(a: Trace, b: Trace, step: int) -> Divergence:
    sides = [decisions(trace.steps.get(step, [])) for trace in (a, b)]
    others = [
        Other(req, sides[0].get(req, NOTHING), sides[1].get(req, NOTHING))
        for req in sides[0] | sides[1]
        if sides[0].get(req) != sides[1].get(req)
    ]
    requests = [other for other in others if other.req is not None]
    shown = tuple(requests or others)  # the batch's order only where nothing else tells it
    about = shown[0].req
    return Divergence(step, shown, _side(a, step, about), _side(b, step, about))


def _side(trace: Trace, step: int, req: str | None) -> Side:
    events = trace.steps.get(step, [])
    if not events:
        return Side(f"This run has no step {step}: it ended after {trace.last_step}.", (), None)
    before = trace.state_before(step)
    headline = story(before, events).headline
    after: State = before
    for event in events:
        apply(after, event)
    if req is None or req not in after.requests:
        return Side(headline, (), None)
    sources: dict[int, RunSource] = {
        event.data.src: event.data for event in trace.engine_events if event.kind == "run.source"
    }
    answer = why_request(_Record(trace.steps, sources), after, step, req)
    return Side(headline, (answer.now, *answer.why), answer.source)


@dataclass(frozen=True, slots=True)
class _Record:
    steps: dict[int, list[Event]]
    sources: dict[int, RunSource]


# --- what may have made it ---------------------------------------------------------------------


def _why_not(a: Trace, b: Trace) -> str | None:
    for trace, name in ((a, "A"), (b, "B")):
        if not trace.last_step:
            return f"{name} has no step"
        if not any(event.kind == "run.config" for event in trace.engine_events):
            return f"the beginning of {name} was cut off, so its steps cannot be laid beside others"
    if a.header.redacted != b.header.redacted:
        which = "A" if a.header.redacted else "B"
        return (
            f"{which} was redacted, so whether its prompts are the other's cannot be seen; "
            "record both with redaction, or both without"
        )
    ours, theirs = arrivals(a), arrivals(b)
    common = [req for req in ours if req in theirs]
    if not common:
        return "the workloads differ: the runs share no request"
    for req in common:
        if ours[req].data.prompt_token_ids != theirs[req].data.prompt_token_ids:
            return f"the workloads differ: {req} has another prompt in B"
    return None


def _knobs(a: Trace, b: Trace) -> list[KnobPair]:
    sides: list[dict[tuple[str, int], Any]] = []
    for trace in (a, b):
        values: dict[tuple[str, int], Any] = {}
        for event in trace.engine_events:
            if event.kind == "run.config":
                fields = msgspec.to_builtins(event.data)
                values |= {(name, 0): value for name, value in fields.items()}
            elif event.kind == "run.knob":
                values[(event.data.name, event.step)] = event.data.value
        sides.append(values)

    def in_force(values: dict[tuple[str, int], Any], name: str, step: int) -> Any:
        steps = [at for knob, at in values if knob == name and at <= step]
        return values.get((name, max(steps, default=0)))

    changes = sorted(sides[0] | sides[1], key=lambda change: change[1])
    pairs = [
        KnobPair(name, step, in_force(sides[0], name, step), in_force(sides[1], name, step))
        for name, step in changes
    ]
    return [pair for pair in pairs if pair.a != pair.b]


def _first_other_token(a: Trace, b: Trace) -> TokenPair | None:
    """Compared by request and place; when it was said does not matter, nor how far each came."""
    ours, theirs = (
        {
            (str(event.req), event.data.index): event
            for event in trace.engine_events
            if event.kind == "req.token"
        }
        for trace in (a, b)
    )
    pairs = [
        TokenPair(min(one.step, other.step), *key, one.data.text, other.data.text)
        for key, one in ours.items()
        if (other := theirs.get(key)) is not None and other.data.token_id != one.data.token_id
    ]
    return min(pairs, key=lambda pair: pair.step, default=None)


def _by_nature(a: Trace, b: Trace, until: int | None) -> dict[str, tuple[int, int]]:
    """Events before the divergence that only one of the two has."""
    counts = []
    for trace in (a, b):
        events = [
            event
            for event in trace.engine_events
            if is_structural(event)
            and event.kind.startswith(("kv.", "sched.", "batch."))
            and (until is None or event.step < until)
        ]
        counts.append(Counter(zip((e.kind for e in events), structural(events), strict=True)))
    only = [Counter(kind for kind, _ in (counts[i] - counts[1 - i]).elements()) for i in (0, 1)]
    return {kind: (only[0][kind], only[1][kind]) for kind in sorted(only[0] | only[1])}


def _cause(result: Comparison, a: Trace, b: Trace) -> list[str]:
    first = result.first
    if first is None:
        return []
    for name, trace in (("A", a), ("B", b)):
        end = breaks_off(trace)
        if end is not None and end.step < first.step:
            return [f"{name} {end.words}"]
    cause = [pair.words for pair in result.knobs if pair.step <= first.step]
    cause += [pair.words for pair in result.inputs if pair.step <= first.step]
    if (token := result.token) is not None and token.step <= first.step:
        cause.append(
            f"{token.req} says {token.a!r} in A and {token.b!r} in B as its output token "
            f"{token.index + 1}, in step {token.step}"
        )
    if not cause and a.header.redacted:
        cause = [
            "knobs and inputs are the same up to there; what was said is redacted in both, so "
            "another token would not be seen"
        ]
    if not cause:
        cause = [
            "knobs, inputs and tokens are the same up to there: the code decided otherwise, or the "
            "machine failed in one of the runs"
        ]
    return cause
