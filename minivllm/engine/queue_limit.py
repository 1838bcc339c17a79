"""QueueLimit: how many requests may wait that no engine has begun.

Without one a server under overload takes everything, and everybody waits longer than they will.
Known here: what was sent and has not ended, and from each engine's last statistics how many of
these run and how many wait. What was sent since then waits, too, unless seats are free for it.

Counterpart in vLLM: ``max_num_queued_reqs`` and ``QueueOverflowError``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from minivllm.engine.messages import SchedulerStats
from minivllm.errors import QueueFullError


class QueueLimit:
    """Not thread-safe: AsyncLLM's lock guards it."""

    def __init__(self, limit: int | None = None, seats: int = 0) -> None:
        """``seats``: requests that one engine runs at once, at most (``max_num_seqs``)."""
        self.limit, self.seats = limit, seats
        self.refused = 0
        """Requests that were sent away."""
        self._open: set[str] = set()
        self._stats: dict[int, SchedulerStats] = {}

    def check(self, ready: Collection[int]) -> None:
        """May one more request come? ``ready``: the engines that take requests. One request may be
        many sequences: it is let in whole. Raises QueueFullError."""
        if self.limit is not None and self.num_waiting(ready) >= self.limit:
            self.refused += 1
            raise QueueFullError(f"as many requests wait as may, {self.limit}; try again later")

    def sent(self, request_id: str) -> None:
        self._open.add(request_id)

    def ended(self, request_ids: Iterable[str]) -> None:
        self._open.difference_update(request_ids)

    def all_ended(self) -> None:
        self._open.clear()

    def told(self, stats: SchedulerStats) -> None:
        """Only what a step has looked at counts: between two steps whoever has just come waits,
        and a seat may be free for them."""
        last = self._stats.get(stats.engine)
        if stats.step != (last.step if last is not None else 0):
            self._stats[stats.engine] = stats

    def num_waiting(self, ready: Collection[int]) -> int:
        """Requests that no engine has begun. An engine that is down has nothing."""
        known = [stats for engine, stats in self._stats.items() if engine in ready]
        running = sum(stats.num_running_reqs for stats in known)
        waiting = sum(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs for stats in known)
        unseen = max(0, len(self._open) - running - waiting)
        if not waiting:  # who waits has found no seat, or no room: then none is free
            unseen = max(0, unseen - max(0, self.seats * len(ready) - running))
        return min(waiting + unseen, len(self._open))
