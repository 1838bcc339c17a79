"""Which request has which hue: a pure function of the trace, so every viewer sees the same.

At its arrival a request takes the lowest hue that no living request holds; when none is left it
stays grey. It keeps its hue after it has finished, though another may take it then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
            if event.kind == "run.snapshot" and event.data.state is not None:
                self._begin(event.data.hues, event.data.state)
            elif event.req is not None and event.kind == "req.arrive":
                self._arrive(event.req)
            elif event.req is not None and event.kind == "req.finish":
                self._held.pop(event.req, None)

    def keep(self, requests: Iterable[str]) -> None:
        """Forget all others, of those that have finished."""
        wanted = self._held.keys() | set(requests)
        self.of = {req: hue for req, hue in self.of.items() if req in wanted}

    def _begin(self, told: dict[str, int], state: dict[str, Any]) -> None:
        living = [*state.get("running", ()), *state.get("waiting", ())]
        self.of = dict(told)
        self._held = {req: told[req] for req in living if told.get(req, GREY) != GREY}
        for req in living:
            if req not in told:
                self._arrive(req)

    def _arrive(self, req: str) -> None:
        taken = set(self._held.values())
        self.of[req] = next((hue for hue in range(NUM_HUES) if hue not in taken), GREY)
        if self.of[req] != GREY:
            self._held[req] = self.of[req]
