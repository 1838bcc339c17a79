"""Holds: debuggers that are attached over the live channel, and how the gate is left behind them.

A debugger says ``hold``, and the engine stands for it. The first one's word keeps how the gate was
found; the last one that lets go, or whose connection has been gone for ``GRACE_S``, has it set back
so. So neither a second debugger nor one that was killed leaves a server held for ever. A page that
pauses the engine is no debugger: its pause stays, and every page shows it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from minivllm.errors import MiniVLLMError
from minivllm.trace.gate_control import GateControl

logger = logging.getLogger(__name__)

GRACE_S = 15.0
"""A connection that is lost is made anew within seconds, under another socket's name."""


@dataclass(slots=True)
class _Held:
    gate: GateControl
    found: str
    """``run`` | ``pause``, before the first debugger came."""
    by: dict[str, str] = field(default_factory=dict)
    """Debugger → its socket."""


class Holds:
    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._held: dict[int | None, _Held] = {}

    def hold(
        self, who: str, sid: str, engine: int | None, gate: GateControl, found: str | None = None
    ) -> str:
        """Hold an engine for a debugger; how its gate was found before the first one came. One that
        comes back says what it was told: this server may have been started anew meanwhile."""
        with self._lock:
            held = self._held.setdefault(engine, _Held(gate, found or gate.mode))
            held.gate = gate
            held.by[who] = sid
            gate.pause()
            return held.found

    def release(self, who: str) -> None:
        """One debugger lets go of all that it held."""
        with self._lock:
            self._drop(lambda name, sid: name == who)

    def gone(self, sid: str) -> None:
        """A socket has closed. A debugger's may come back as another one: it has some time."""
        with self._lock:
            if not any(sid in held.by.values() for held in self._held.values()):
                return
        timer = threading.Timer(self._grace_s, self._end, [sid])
        timer.daemon = True
        timer.start()

    def _end(self, gone: str) -> None:
        with self._lock:
            self._drop(lambda name, sid: sid == gone)

    def _drop(self, ends: Callable[[str, str], bool]) -> None:
        for engine, held in list(self._held.items()):
            before = len(held.by)
            held.by = {name: sid for name, sid in held.by.items() if not ends(name, sid)}
            if held.by or not before:
                continue
            del self._held[engine]
            try:
                held.gate.resume() if held.found == "run" else held.gate.pause()
            except MiniVLLMError:
                logger.warning("the engine that a debugger held has ended")
