"""Which request has which hue: a pure function of the trace, so every viewer sees the same.

At its arrival a request takes the lowest hue that no living request holds; when none is left it
stays grey. It keeps its hue after it has finished, though another may take it then.
"""

from __future__ import annotations

from collections.abc import Iterable

from minivllm.trace.events import Event

NUM_HUES = 8
GREY = -1


class Hues:
    """Feed it every event of one engine's stream, in order."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        """Request → hue, 0 to 7, or GREY."""
        self._held: dict[str, int] = {}

    def see(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.req is None:
                continue
            if event.kind == "req.arrive":
                taken = set(self._held.values())
                hue = next((h for h in range(NUM_HUES) if h not in taken), GREY)
                self.of[event.req] = hue
                if hue != GREY:
                    self._held[event.req] = hue
            elif event.kind == "req.finish":
                self._held.pop(event.req, None)
