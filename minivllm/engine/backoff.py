"""Backoff: how long a dead engine waits for its next start.

Twice as long after each death in a row, so that an engine which cannot live costs little, and no
longer than half a minute, so that one which can again is soon back. No counterpart in vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """All times in seconds."""

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 60.0
    """A life so long forgives the deaths before it."""
    clock: Callable[[], float] = time.monotonic
    _delay: float = 0.0
    _up_since: float | None = None

    def is_up(self) -> None:
        self._up_since = self.clock()

    def next_delay(self) -> float:
        """It has died, or could not be started."""
        up_since, self._up_since = self._up_since, None
        healthy = up_since is not None and self.clock() - up_since >= self.healthy_after
        again = self._delay and not healthy
        self._delay = min(2 * self._delay, self.longest) if again else self.first
        return self._delay
