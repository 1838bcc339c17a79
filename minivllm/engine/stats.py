"""Statistics on the front end's side: what a step brought, and each request's times.

The core says when a request was queued, admitted and preempted, and how the engine stands
(``core_stats.py``); the front end knows when it arrived and when its text left. Here the two become
the numbers that ``/metrics`` shows. All times come from ``time.perf_counter_ns``, which every
process of a machine shares.

    arrival ── queued ── scheduled ──────── first token ─── … ─── last token ── finished
               └─ queue ─┘└──── prefill ────┘└──── decode ────────┘
                          └──────────── inference ────────────────┘
    └───────────── TTFT ────────────────────┘
    └───────────────────────────────── e2e ────────────────────────────────────┘

Counterpart in vLLM: ``IterationStats``, ``RequestStateStats`` and ``FinishedRequestStats`` in
``vllm/v1/metrics/stats.py``; ``StatLoggerManager`` in ``loggers.py``. Left out: LoRA, multimodal
caches, watermarks. Different here: an interval that a request never entered is None, not a number,
and requests that their callers abort are counted, too (vLLM's front end forgets them), but without
what the core had still to tell of them: a request that is aborted while it waits after a preemption
has that preemption in ``num_preempted_reqs`` of its step, and not among its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    SchedulerStats,
)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestStateStats:
    """What is noted of one sample while it runs; a time of 0 has not come."""

    arrival_ns: int
    num_prompt_tokens: int
    max_tokens: int | None
    engine: int = 0
    """That which it was sent to."""
    queued_ns: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    num_generation_tokens: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0

    def take_in(self, events: Iterable[EngineCoreEvent]) -> None:
        for event in events:
            if event.type is EngineCoreEventType.QUEUED:  # a second time where it began anew
                self.queued_ns = self.queued_ns or event.t_ns
            elif event.type is EngineCoreEventType.PREEMPTED:
                self.num_preemptions += 1
            elif not self.scheduled_ns:  # a return after a preemption is no start
                self.scheduled_ns = event.t_ns


@dataclass(frozen=True, slots=True)
class FinishedRequestStats:
    """One sample that has ended. Seconds; None for an interval that it never entered."""

    engine: int
    finish_reason: str
    num_prompt_tokens: int
    num_generation_tokens: int
    num_cached_tokens: int
    num_preemptions: int
    max_tokens: int | None
    e2e_latency: float
    queued_time: float | None
    prefill_time: float | None
    decode_time: float | None
    inference_time: float | None
    mean_time_per_output_token: float | None


@dataclass(frozen=True, slots=True)
class FinishedParentStats:
    """One request all of whose samples have ended."""

    engine: int
    """Its first sample's."""
    n: int
    max_num_generation_tokens: int
    """Of the longest sample."""


@dataclass(slots=True)
class IterationStats:
    """What the outputs of one step brought, over all requests in it."""

    engine: int = 0
    core_ns: int = 0
    """When the core made the outputs: the time of every token in them."""
    now_ns: int = field(default_factory=time.perf_counter_ns)
    """When the front end takes them in."""
    num_prompt_tokens: int = 0
    """Prompts that have got their first token."""
    num_cached_tokens: int = 0
    """Of them, tokens that were found in the prefix cache."""
    time_to_first_tokens: list[float] = field(default_factory=list)
    inter_token_latencies: list[float] = field(default_factory=list)
    """One for each output but a request's first: with drafts it may bring several tokens."""
    finished_requests: list[FinishedRequestStats] = field(default_factory=list)
    finished_parents: list[FinishedParentStats] = field(default_factory=list)

    @classmethod
    def of(cls, step: EngineCoreOutputs) -> IterationStats:
        return cls(engine=step.engine, core_ns=step.t_ns)

    @property
    def is_empty(self) -> bool:
        return not (self.num_prompt_tokens or self.inter_token_latencies or self.finished_requests)

    def take_in(self, stats: RequestStateStats, output: EngineCoreOutput) -> None:
        """One output of a sample, before anything that it ends is ended."""
        stats.engine = self.engine
        stats.take_in(output.events)
        if not output.new_token_ids:
            return
        if not stats.first_token_ns:
            stats.first_token_ns = self.core_ns
            stats.num_cached_tokens = output.num_cached_tokens
            self.num_prompt_tokens += stats.num_prompt_tokens
            self.num_cached_tokens += output.num_cached_tokens
            self.time_to_first_tokens.append((self.now_ns - stats.arrival_ns) / 1e9)
        else:
            self.inter_token_latencies.append((self.core_ns - stats.last_token_ns) / 1e9)
        stats.last_token_ns = self.core_ns
        stats.num_generation_tokens += len(output.new_token_ids)

    def finish(self, stats: RequestStateStats, reason: str) -> None:
        decode_time = _seconds(stats.first_token_ns, stats.last_token_ns)
        more = stats.num_generation_tokens - 1  # the first token belongs to the prefill
        self.finished_requests.append(
            FinishedRequestStats(
                engine=stats.engine,
                finish_reason=reason,
                num_prompt_tokens=stats.num_prompt_tokens,
                num_generation_tokens=stats.num_generation_tokens,
                num_cached_tokens=stats.num_cached_tokens,
                num_preemptions=stats.num_preemptions,
                max_tokens=stats.max_tokens,
                e2e_latency=(self.now_ns - stats.arrival_ns) / 1e9,
                queued_time=_seconds(stats.queued_ns, stats.scheduled_ns),
                prefill_time=_seconds(stats.scheduled_ns, stats.first_token_ns),
                decode_time=decode_time,
                inference_time=_seconds(stats.scheduled_ns, stats.last_token_ns),
                mean_time_per_output_token=(
                    decode_time / more if decode_time is not None and more > 0 else None
                ),
            )
        )

    def finish_request(self, samples: Iterable[RequestStateStats]) -> None:
        """All samples of a request have ended."""
        every = list(samples)
        longest = max(stats.num_generation_tokens for stats in every)
        self.finished_parents.append(FinishedParentStats(every[0].engine, len(every), longest))


def _seconds(start_ns: int, end_ns: int) -> float | None:
    return (end_ns - start_ns) / 1e9 if start_ns and end_ns else None


class StatLogger(Protocol):
    """Who wants to hear of every step. Called on the output thread, and on a caller's that aborts:
    several at once."""

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None
    ) -> None: ...


class StatLoggerManager:
    """Hands each step's statistics to whoever listens, and keeps each engine's newest.

    A listener that fails is told of in the log, once; it ends neither the thread that called it nor
    what the others hear.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loggers: tuple[StatLogger, ...] = ()
        self._failed: set[int] = set()
        self._last: dict[int, SchedulerStats] = {}

    def add(self, listener: StatLogger) -> None:
        with self._lock:
            self._loggers += (listener,)

    def newest(self) -> dict[int, SchedulerStats]:
        """How each engine stands, as far as it has said."""
        with self._lock:
            return dict(self._last)

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None
    ) -> None:
        if scheduler_stats is not None:
            with self._lock:
                self._last[scheduler_stats.engine] = scheduler_stats
        if iteration_stats is not None and iteration_stats.is_empty:
            iteration_stats = None
        if scheduler_stats is None and iteration_stats is None:
            return
        for listener in self._loggers:
            try:
                listener.record(scheduler_stats, iteration_stats)
            except Exception:
                self._tell_failure(listener)

    def engines_ended(self) -> None:
        """No engine runs any more: nothing runs, nothing waits."""
        for engine, last in self.newest().items():
            self.record(SchedulerStats.empty(engine, last.step), None)

    def _tell_failure(self, listener: StatLogger) -> None:
        if id(listener) not in self._failed:
            self._failed.add(id(listener))
            logger.exception("a listener for statistics failed (%s)", type(listener).__name__)
