"""How far the engine is: one small status, set by set-up, watched by terminal and dashboard.

The states follow one another as ``installing`` → ``model`` → ``loading`` → ``ready``; each can end
in ``failed`` instead. Standard library only, because it is used before anything is installed.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

STATES = ("installing", "model", "loading", "ready", "failed")


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One state, as it is shown: ``text`` is the pill's text, ``remedy`` what to do about it."""

    state: str
    """``installing`` | ``model`` | ``loading`` | ``ready`` | ``failed``."""
    text: str
    remedy: str | None = None
    """Only when it failed: one sentence."""
    done: int = 0
    """Bytes, while the model is fetched."""
    total: int = 0

    @classmethod
    def installing(cls, what: str = "") -> EngineStatus:
        """Stage 2; ``what`` is the package at hand, ``torch (192 MB)``."""
        return cls("installing", f"installing {what}".rstrip())

    @classmethod
    def model(cls, done: int, total: int) -> EngineStatus:
        """Stage 3, in bytes."""
        return cls("model", f"model {_mb(done)} of {_mb(total)} MB", None, done, total)

    @classmethod
    def loading(cls) -> EngineStatus:
        return cls("loading", "loading")

    @classmethod
    def ready(cls) -> EngineStatus:
        return cls("ready", "ready")

    @classmethod
    def failed(cls, what: str, remedy: str) -> EngineStatus:
        return cls("failed", f"failed: {what}", remedy)


def _mb(size_bytes: int) -> int:
    return round(size_bytes / 1e6)


class StatusBoard:
    """The current status and its watchers; any thread may set it."""

    def __init__(self, status: EngineStatus | None = None) -> None:
        self._lock = threading.RLock()
        self._status = status or EngineStatus.installing()
        self._watchers: list[Callable[[EngineStatus], None]] = []

    def get(self) -> EngineStatus:
        return self._status

    def set(self, status: EngineStatus) -> None:
        """Take over a new status and tell every watcher; an equal one is not told again."""
        with self._lock:  # held while telling, so that watchers see the states in their order
            if status == self._status:
                return
            self._status = status
            for watcher in list(self._watchers):
                watcher(status)

    def subscribe(self, watcher: Callable[[EngineStatus], None]) -> Callable[[], None]:
        """Call ``watcher`` now with the current status, then at each change, on the setter's
        thread, so it must be quick. Returns what ends the subscription."""
        with self._lock:
            self._watchers.append(watcher)
            watcher(self._status)

        def unsubscribe() -> None:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return unsubscribe


class TerminalReporter:
    """A watcher that prints: one line a state; on a terminal the model's line counts in place."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._open = False  # the cursor stands at the end of a line that may be overwritten
        self._last = ""
        self._tenth = -1

    def __call__(self, status: EngineStatus) -> None:
        if status.text == self._last:
            return
        self._last = status.text
        counting = status.state == "model" and 0 < status.done < status.total
        if counting and not self._live and not self._crosses_a_tenth(status):
            return
        start = "\r\x1b[K" if self._open and self._live else ""
        line = f"engine: {status.text}"
        if status.remedy:
            line += f"\n  what to do: {status.remedy}"
        # What goes on is overwritten; the last count of a download stays to be read.
        goes_on = status.state == "installing" or (
            status.state == "model" and status.done < max(status.total, 1)
        )
        self._open = self._live and goes_on
        self._out.write(start + line + ("" if self._open else "\n"))
        self._out.flush()

    def close(self) -> None:
        """Whatever is printed next begins a line of its own."""
        if self._open:
            self._out.write("\n")
            self._out.flush()
        self._open = False

    def _crosses_a_tenth(self, status: EngineStatus) -> bool:
        """In a log file, ten lines tell a download as well as four hundred."""
        tenth = 10 * status.done // status.total
        crossed, self._tenth = tenth != self._tenth, tenth
        return crossed


@contextlib.contextmanager
def told_download() -> Iterator[Callable[[int, int], None]]:
    """What counts a download on the terminal, for whoever did not bring a display of his own."""
    reporter = TerminalReporter()
    try:
        yield lambda done, total: reporter(EngineStatus.model(done, total))
    finally:
        reporter.close()
