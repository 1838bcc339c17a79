"""What an answer to "why?" is made of; ``why.py`` and ``why_request.py`` give them.

Each is put together from one step's events, and from that step's place in the run: since when the
same can be said, and which step changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from minivllm.trace.events import REASONS, Event, Explained, GrantWhy, Reason, RunSource

GRANT_WORDS: dict[GrantWhy, str] = {
    GrantWhy.PREFILL: "its whole prompt, or what a prefix hit left of it",
    GrantWhy.CHUNK: "a piece of its prompt, not the last",
    GrantWhy.LAST_CHUNK: "the piece that completes its prompt",
    GrantWhy.RESUME: "prompt and output again, after a preemption",
    GrantWhy.DECODE: "the token it said last, and the drafts that may follow it",
}
GRANT_WORDS = Explained(GRANT_WORDS)


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
    """What the enum says that the name means; None, too, where that is not done yet."""
    source: str | None
    """``file:line function`` that emitted it."""
    since: int | None = None
    """The first step in a row of which the same can be said."""
    next: int | None = None
    """The step that changes it, where it is known."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer before it knows its place in the run."""

    now: str
    why: list[str]
    event: Event | None
    reason: Reason | GrantWhy | None = None
    holds: bool = True
    """False: it is decided, and not done yet; what the enum says of it would be too early."""


def find(events: Sequence[Event], kind: str, req: str) -> Event | None:
    return next((e for e in events if e.kind == kind and e.req == req), None)


def ledger_row(events: Sequence[Event], req: str) -> Any:
    rows = (row for e in events if e.kind == "sched.ledger" for row in e.data.rows)
    return next((row for row in rows if row.req == req), None)


def how_long(
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


def make_answer(
    record: Record, subject: str, told: Told, since: int | None, then: int | None
) -> Answer:
    reason = told.reason
    meaning = None
    if not told.holds:
        pass
    elif isinstance(reason, Reason):
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
