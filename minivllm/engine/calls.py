"""Calls: what is sent to an engine's process and answered, each by its number.

A call has a deadline that travels with it. An engine that was frozen finds calls in its socket
whose callers have long given up: it does none of them, so what was refused here stays undone there,
and the engines of a fleet stay alike. No counterpart in vLLM: its ``call_utility`` just waits.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from minivllm.engine import wire
from minivllm.engine.wire_errors import made_anew
from minivllm.errors import EngineDeadError, EngineUnavailableError, MiniVLLMError
from minivllm.trace.gate_control import GateState

ANSWER_S = 3.0
"""How long after it was sent a call may still be done. The engine takes it in the middle of a step,
so that who has not by then is frozen, or starved."""
ON_THE_WAY_S = 1.0
"""What the answer to one that was done at the last moment has for its way back."""


class _Call:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self.gate: GateState | None = None


class Calls:
    """Those of one engine that are not answered yet. All methods may be called from any thread."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._open: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self._over: str | None = None

    def ask(self, message: wire.Call, send: Callable[[wire.Message], None]) -> GateState | None:
        """Send ``message``, and wait. Raises what comes back, EngineDeadError, and
        EngineUnavailableError where nothing does."""
        call, patience_s = _Call(), ANSWER_S
        message.call_id = next(self._ids)
        message.deadline_ns = time.perf_counter_ns() + round(patience_s * 1e9)
        with self._lock:
            if self._over is not None:
                raise EngineDeadError(self._over)
            self._open[message.call_id] = call
        try:
            send(message)
            if not call.done.wait(patience_s + ON_THE_WAY_S):
                raise EngineUnavailableError(
                    f"engine {self._engine} has not answered for {patience_s:g} s; it may be "
                    "stopped. Nothing was changed"
                )
        finally:
            with self._lock:
                self._open.pop(message.call_id, None)
        if call.error is not None:
            raise call.error
        return call.gate

    def answer(self, answer: wire.Answer) -> None:
        with self._lock:
            call = self._open.get(answer.call_id)
        if call is not None:
            call.gate = answer.gate
            if answer.error is not None:
                call.error = made_anew(answer.error, MiniVLLMError)
            call.done.set()

    def end(self, message: str) -> None:
        """The engine is dead: nothing is answered any more."""
        with self._lock:
            self._over = message
            calls = list(self._open.values())
        for call in calls:
            call.error = EngineDeadError(message)
            call.done.set()
