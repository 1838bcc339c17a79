"""StallWatch: when an engine's process has stood still for so long that it is ended.

Two clocks, since a process can stand still in two ways:

    silent    no heartbeat comes: the whole process is frozen (a debugger, SIGSTOP, a machine that
              swaps), and nobody knows when it will be back        ``--engine-stall-timeout``
    stuck     heartbeats come, from their own thread, but the loop is in one and the same step. A
              long prompt on a loaded machine takes a minute for that: it may be healthy, so it has
              far more time                                        ``--engine-step-timeout``

Without a heartbeat for ``SILENT_S`` an engine is no longer responsive: new requests go to others
that are, and ``/load`` does not count it as ready. No counterpart in vLLM, where nothing watches
the loop of a process that lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from minivllm.engine.client import EngineStatus

SILENT_S = 1.0
"""Without a heartbeat for so long (five are due) an engine is not responsive."""


class StallWatch:
    """Looks at one life of an engine, every now and then."""

    def __init__(
        self,
        stall_timeout: float,
        step_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Seconds; 0: for ever."""
        self._stall_timeout, self._step_timeout, self._clock = stall_timeout, step_timeout, clock
        self._looked_at = clock()
        self._awake_since = float("-inf")

    def why_end_it(self, status: EngineStatus) -> str:
        """What is wrong with it, in a sentence; nothing where it may live on."""
        now = self._clock()
        if now - self._looked_at > SILENT_S:  # we have stood still ourselves, and what it sent
            self._awake_since = now  # meanwhile is still to be read
        self._looked_at = now
        if status.responsive:
            if not self._step_timeout or status.stalled_s < self._step_timeout:
                return ""
            return (
                f"it had been in one step for {status.stalled_s:.0f} s "
                f"(--engine-step-timeout {self._step_timeout:g})"
            )
        if not self._stall_timeout or status.stalled_s < self._stall_timeout:
            return ""
        if now - self._awake_since < SILENT_S:
            return ""
        return (
            f"its process had given no sign of life for {status.stalled_s:.0f} s "
            f"(--engine-stall-timeout {self._stall_timeout:g})"
        )
