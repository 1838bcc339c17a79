"""The gate: where the engine's loop can be held, stepped and slowed down.

No counterpart in vLLM. The core passes the gate before each step, on its own thread; whoever
steers (page, terminal, demo) calls the other methods from theirs. Paused is healthy: requests are
still taken in and aborted, only no step begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from minivllm.errors import ConfigError

MIN_RATE, MAX_RATE = 0.01, 1000.0
"""Steps per second; slower is what ``pause`` and ``step`` are for."""


class Gate:
    """Modes: ``run`` (at most ``rate`` steps per second; 0 = full speed) and ``pause``."""

    def __init__(self, paused: bool = False, rate: float = 0.0) -> None:
        self._changed = threading.Condition()
        self._paused = paused
        self._rate = _check_rate(rate)
        self._allowed = 0  # steps that may pass while paused
        self._last_pass = 0.0  # time.monotonic(), seconds
        self._listeners: list[Callable[[str, float], None]] = []

    @property
    def mode(self) -> str:
        return "pause" if self._paused else "run"

    @property
    def rate(self) -> float:
        """Steps per second at most; 0 = full speed."""
        return self._rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        self._set(rate=_check_rate(steps_per_second))

    def pause(self) -> None:
        """Begin no further step, not even one that ``step`` allowed."""
        self._set(paused=True)

    def resume(self) -> None:
        self._set(paused=False)

    def step(self, n: int = 1) -> None:
        """Pause, and let ``n`` more steps pass."""
        if n < 1:
            raise ConfigError("gate step", n, "1 or more steps")
        self._set(paused=True, allow=n)

    def on_change(self, listener: Callable[[str, float], None]) -> None:
        """Tell ``listener(mode, rate)`` of every change."""
        self._listeners.append(listener)

    def wake(self) -> None:
        """Make a waiting ``may_step`` look again: there is input, or the end is asked for."""
        with self._changed:
            self._changed.notify_all()

    def may_step(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for leave to run one step; use it up and say so.

        False: not yet, or something else wants attention (``wake``).
        """
        with self._changed:
            wait = self._seconds_to_wait()
            if wait > 0:
                self._changed.wait(min(wait, timeout))
                if self._seconds_to_wait() > 0:
                    return False
            if self._paused:
                self._allowed -= 1
            self._last_pass = time.monotonic()
            return True

    def _seconds_to_wait(self) -> float:
        if self._paused:
            return 0.0 if self._allowed else float("inf")
        if not self._rate:
            return 0.0
        return self._last_pass + 1 / self._rate - time.monotonic()

    def _set(self, paused: bool | None = None, rate: float | None = None, allow: int = 0) -> None:
        with self._changed:
            before = (self._paused, self._rate)
            if paused is not None:
                self._allowed = self._allowed + allow if allow and self._paused else allow
                self._paused = paused
            if rate is not None:
                self._rate = rate
            changed = before != (self._paused, self._rate)
            self._changed.notify_all()
        if changed:
            for listener in self._listeners:
                listener(self.mode, self._rate)


def _check_rate(rate: float) -> float:
    if rate != 0 and not MIN_RATE <= rate <= MAX_RATE:
        allowed = f"0 (full speed), or {MIN_RATE:g} to {MAX_RATE:g} steps per second"
        raise ConfigError("gate rate", rate, allowed)
    return float(rate)
