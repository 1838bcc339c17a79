"""Until: where a run shall be held, in a few words, as a test of single events.

    preemption                  somebody is chosen to give way
    eviction                    a cached block is about to be overwritten
    prefix hit                  a look-up found something
    skip, skip no_free_blocks   somebody is looked at and not scheduled (for this reason)
    finish                      a request ends
    step 30                     step 30, or the first after it, begins
    sched.chunk, kv             an event of this kind, or of this group
    no_budget                   an event that gives this reason
    scheduler.py:210            an event that this source line emits

A request's name behind it (``finish r4``, ``kv r4``) asks for that request's events only; alone
(``r4``) it asks for any event of it. Of several, joined by ``or``, the first that comes counts.
Words that stay, a break, mean ``step 30`` alone; a gate that is asked to run until there holds at
the first from 30 on and is done, so it is asked only for steps that lie ahead (:func:`ahead`).
Twin: ``viz/static/core/breaks.js``.
Short forms, for who types: ``preempt``, ``evict``, ``hit``, ``skip:REASON``, ``line FILE:LINE``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from minivllm.errors import ConfigError
from minivllm.trace.events import KINDS, Event, Reason

Place = tuple[str, int]
"""File and line of what emitted an event."""
Test = Callable[[Event, Place], bool]

_GROUPS = {kind.split(".")[0] for kind in KINDS}
_REASONS = {reason.value for reason in Reason}
_NAMED: dict[str, Test] = {
    "preemption": lambda event, place: event.kind == "sched.victim",
    "eviction": lambda event, place: event.kind == "kv.evict",
    "prefix hit": lambda event, place: event.kind == "kv.hit" and event.data.tokens > 0,
    "skip": lambda event, place: event.kind == "sched.skip",
    "finish": lambda event, place: event.kind == "req.finish",
}
_SHORT = {"preempt": "preemption", "evict": "eviction", "hit": "prefix hit"}
_ALLOWED = (
    f"{', '.join(_NAMED)}, skip REASON, step N, a kind or group of events, a reason, FILE:LINE, "
    "each with a request (r4) behind it or not, several joined by or "
    "(minivllm trace vocabulary lists kinds and reasons)"
)


@dataclass(frozen=True, slots=True)
class Until:
    """``matches(event, place)`` says whether this is the place to hold."""

    words: str
    matches: Test


def parse(words: str, stays: bool = False) -> Until:
    """``stays``: for a break, which is asked again and again. Raises ConfigError for words that
    name nothing."""
    tests = [_single(part, words, stays) for part in _parts(words)]
    if len(tests) == 1:
        return Until(words, tests[0])
    return Until(words, lambda event, place: any(test(event, place) for test in tests))


def requests_named(words: str) -> list[str]:
    """Whose events are asked for, as ``r4`` in ``finish r4 or evict``."""
    return [found[2] for part in _parts(words) if (found := _REQUEST.fullmatch(part))]


def lines_named(words: str) -> list[Place]:
    """The source lines that are asked for, with or without a request behind them."""
    found = [_REQUEST.fullmatch(part) for part in _parts(words)]
    whats = [of[1] or "" if of else part for of, part in zip(found, _parts(words), strict=True)]
    return [(line[1], int(line[2])) for what in whats if (line := _LINE.fullmatch(what))]


def steps_named(words: str) -> list[int]:
    """The steps that are asked for."""
    return [int(found[1]) for part in _parts(words) if (found := _STEP.fullmatch(part))]


def ahead(words: str, step: int) -> str:
    """What of it a gate may be asked for, when that step has begun; empty where nothing is left."""
    left = [part for part in _parts(words) if all(n > step for n in steps_named(part))]
    return " or ".join(left)


def _parts(words: str) -> list[str]:
    return " ".join(words.split()).split(" or ")


_REQUEST = re.compile(r"(?:(.*) )?(r[1-9]\d*)")
_STEP = re.compile(r"step (\d{1,9})")
_LINE = re.compile(r"(?:line )?(\S+\.py):(\d{1,9})")


def _single(rest: str, words: str, stays: bool) -> Test:
    found = _REQUEST.fullmatch(rest)
    what, req = (found[1] or "", found[2]) if found else (rest, None)
    if what:
        test = _test(what, words, stays)
    elif req is not None:
        test = _any
    else:
        raise ConfigError("until", words, _ALLOWED)
    if req is not None:
        return lambda event, place: event.req == req and test(event, place)
    return test


def _any(event: Event, place: Place) -> bool:
    return True


def _test(what: str, words: str, stays: bool) -> Test:
    what = _SHORT.get(what, what)
    if what in _NAMED:
        return _NAMED[what]
    if what in KINDS:
        return lambda event, place: event.kind == what
    if what in _GROUPS:
        return lambda event, place: event.kind.startswith(what + ".")
    if what in _REASONS:
        return lambda event, place: _gives(event, what)
    if found := re.fullmatch(r"skip[ :](\w+)", what):
        reason = found[1]
        if reason in _REASONS:
            return lambda event, place: event.kind == "sched.skip" and _gives(event, reason)
    if found := _STEP.fullmatch(what):
        step = int(found[1])
        if stays:
            return lambda event, place: event.kind == "step.begin" and event.step == step
        return lambda event, place: event.kind == "step.begin" and event.step >= step
    if found := _LINE.fullmatch(what):
        file, line = found[1], int(found[2])
        return lambda event, place: place[1] == line and f"/{place[0]}".endswith(f"/{file}")
    raise ConfigError("until", words, _ALLOWED)


def _gives(event: Event, reason: str) -> bool:
    fields = ("reason", "why", "unused_reason")
    return any(getattr(event.data, field, None) == reason for field in fields)
