"""From what was seen of each request to the numbers of a report: pure functions, no clock.

    TTFT   from the request's start to the first chunk with text
    TPOT   from there to the last one, divided by the output tokens less one
    ITL    each gap between two chunks with text: all of them, of all requests
    E2E    from the start to the last chunk with text

The start is the *planned* one where a rate was given. A client that waits for a slow server before
it sends the next request would else measure only the requests that were lucky (coordinated
omission): here the time a request waits for its turn counts, as it does for a user. Counterpart in
vLLM: ``calculate_metrics`` in ``vllm/benchmarks/serve.py``, where latency counts from the moment of
sending.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

PERCENTILES = (50, 95, 99)

INTERRUPTED = "interrupted"
"""The kind of what was still under way when Ctrl-C was pressed: neither done nor failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    kind: str
    message: str
    retry_after_s: float | None = None
    """What a 503 or 429 asked for."""


@dataclass(slots=True)
class Record:
    """What was seen of one request. All times in seconds from the run's beginning."""

    index: int
    planned: float
    """When it was to start; without a rate, when its turn came."""
    sent: float | None = None
    chunks: list[float] = field(default_factory=list)
    """When each chunk with text came in."""
    end: float | None = None
    """When ``[DONE]`` came in, or the failure was seen."""
    asked_prompt_tokens: int = 0
    asked_output_tokens: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    counted_by: str = "usage"
    """``usage``: the server's own count; ``chunks``: it sent none, a chunk is taken for a token."""
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        return self.failure is None and self.end is not None

    @property
    def ttft(self) -> float:
        return self.chunks[0] - self.planned

    @property
    def e2el(self) -> float:
        return self.chunks[-1] - self.planned

    @property
    def tpot(self) -> float | None:
        """None for a single token: nothing came after it."""
        if self.output_tokens < 2:
            return None
        return (self.chunks[-1] - self.chunks[0]) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        return [b - a for a, b in itertools.pairwise(self.chunks)]


METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}
"""Names as vLLM's ``--percentile-metrics`` has them, and what the table calls them."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """In the unit of the values."""

    count: int
    mean: float
    percentiles: dict[int, float]

    @staticmethod
    def of(values: Iterable[float]) -> Distribution | None:
        """None where there is nothing to describe."""
        ordered = sorted(values)
        if not ordered:
            return None
        at = {p: percentile(ordered, p) for p in PERCENTILES}
        return Distribution(len(ordered), fmean(ordered), at)


def percentile(ordered: list[float], p: float) -> float:
    """Of values in ascending order, between two of them by straight line (numpy's default)."""
    place = (len(ordered) - 1) * p / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of one run. Times in seconds, rates per second."""

    duration: float
    completed: int
    failed: dict[str, int]
    """By kind."""
    interrupted: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    """These three of completed requests alone."""
    counted_by: dict[str, int]
    request_throughput: float
    output_throughput: float
    total_throughput: float
    concurrency_mean: float
    concurrency_max: int
    sent_late: Distribution | None
    """How long after its planned start a request was sent."""
    latencies: dict[str, Distribution | None]
    goodput: float | None
    """Completed requests per second that kept to every limit; None without limits."""


def report(
    records: list[Record], duration: float, limits: Mapping[str, float] | None = None
) -> Report:
    """``duration``: of the whole run. ``limits``: metric → the most it may be, in seconds."""
    done = [r for r in records if r.done]
    kinds = Counter(r.failure.kind for r in records if r.failure is not None)
    interrupted = kinds.pop(INTERRUPTED, 0)
    prompt, output = sum(r.prompt_tokens for r in done), sum(r.output_tokens for r in done)
    mean, most = concurrency(records, duration)
    good = None if not limits else sum(within(r, limits) for r in done) / duration
    return Report(
        duration=duration,
        completed=len(done),
        failed=dict(kinds.most_common()),
        interrupted=interrupted,
        prompt_tokens=prompt,
        cached_tokens=sum(r.cached_tokens for r in done),
        output_tokens=output,
        counted_by=dict(Counter(r.counted_by for r in done)),
        request_throughput=len(done) / duration,
        output_throughput=output / duration,
        total_throughput=(prompt + output) / duration,
        concurrency_mean=mean,
        concurrency_max=most,
        sent_late=Distribution.of(r.sent - r.planned for r in records if r.sent is not None),
        latencies={
            "ttft": Distribution.of(r.ttft for r in done),
            "tpot": Distribution.of(t for r in done if (t := r.tpot) is not None),
            "itl": Distribution.of(gap for r in done for gap in r.itl),
            "e2el": Distribution.of(r.e2el for r in done),
        },
        goodput=good,
    )


def within(record: Record, limits: Mapping[str, float]) -> bool:
    """Did it keep to every limit? One that has no TPOT kept to TPOT's."""
    return all((getattr(record, name) or 0.0) <= most for name, most in limits.items())


def under_way(records: list[Record], duration: float) -> list[tuple[float, int]]:
    """(time, requests under way from then on), ascending.

    An instant at which one ends and another is sent counts one, not two.
    """
    changes: list[tuple[float, int]] = []
    for record in records:
        if record.sent is not None:
            changes += [(record.sent, 1), (duration if record.end is None else record.end, -1)]
    now, steps = 0, []
    for at, change in sorted(changes):
        now += change
        steps.append((at, now))
    return steps


def concurrency(records: list[Record], duration: float) -> tuple[float, int]:
    """Requests under way: the mean over the run, and the most at once."""
    steps = under_way(records, duration)
    ends = [*(at for at, _ in steps[1:]), duration]
    area = sum(n * (end - at) for (at, n), end in zip(steps, ends, strict=False))
    return area / duration, max((n for _, n in steps), default=0)
