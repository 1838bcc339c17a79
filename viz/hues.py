"""Which request has which hue: a pure function of the trace, so every viewer sees the same.

At its arrival a request takes the lowest hue that no living request holds; when none is left it
stays grey. Twin of ``static/core/hues.js``; needed here for snapshots, whose reader has not seen
the earlier arrivals.
"""

from __future__ import annotations

NUM_HUES = 8
GREY = -1


class HueAssigner:
    """Feed it every event of one engine's stream, in order."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        """Request → hue, 0 to 7, or −1 for grey; kept after the request has finished."""
        self._held: dict[str, int] = {}

    def see(self, kind: str, req: str | None) -> None:
        if req is None:
            return
        if kind == "req.arrive":
            taken = set(self._held.values())
            hue = next((h for h in range(NUM_HUES) if h not in taken), GREY)
            self.of[req] = hue
            if hue != GREY:
                self._held[req] = hue
        elif kind == "req.finish":
            self._held.pop(req, None)
