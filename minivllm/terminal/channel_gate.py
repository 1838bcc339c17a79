"""The gate of a server's engine, at the other end of its live channel."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec

from minivllm.terminal.channel import Channel
from minivllm.trace.code import HeldCode
from minivllm.trace.gate_control import Held
from minivllm.trace.until import Until

ASK_S = 0.03
"""How often to ask where the engine stands: the server's channel publishes no more often."""


class ChannelGate:
    """A :class:`~minivllm.trace.gate_control.GateControl` at the other end of the channel."""

    def __init__(self, channel: Channel, engine: int) -> None:
        self._channel, self._engine = channel, engine
        self._who = uuid.uuid4().hex  # this debugger, whatever connection it comes over
        self.found: str | None = None
        self._listeners: list[Any] = []
        self.mode, self._rate = "run", 0.0
        self._held: Held | None = None

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, steps_per_second: float) -> None:
        self._verb("rate", steps_per_second)

    @property
    def held(self) -> Held | None:
        self.ask()
        return self._held

    def ask(self) -> None:
        """How the gate stands now."""
        state = self._channel.command("gate", engine=self._engine)
        self.mode, self._rate = state["mode"], state["rate"]
        held = state["held"]
        code = msgspec.convert(held.get("code"), HeldCode | None) if held else None
        self._held = Held(held["at"], held["phase"], None, held["seq"], code) if held else None

    def wait_held(self, timeout: float | None = None) -> Held | None:
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.held is None and time.monotonic() < deadline:
            time.sleep(ASK_S)
        return self._held

    def hold(self) -> str:
        """The engine stands for this debugger; how its gate was found before the first one came.
        It is set back so when the last has let go, or is gone for some seconds."""
        self.found = str(self._channel.command("hold", self.holding, engine=self._engine))
        return self.found

    def release(self) -> None:
        self._channel.command("release", self.holding, engine=self._engine)

    @property
    def holding(self) -> dict[str, str | None]:
        """Who holds, and how the gate was found; None before the first answer."""
        return {"who": self._who, "found": self.found}

    def pause(self) -> None:
        self._verb("pause")

    def resume(self) -> None:
        self._verb("resume")

    def step(self, n: int = 1) -> None:
        self._verb("step", n)

    def next_phase(self, n: int = 1) -> None:
        for _ in range(n):
            self._verb("phase")

    def next_event(self, n: int = 1) -> None:
        for _ in range(n):
            self._verb("event")

    def until(self, where: str | Until) -> None:
        self._verb("until", where if isinstance(where, str) else where.words)

    def on_change(self, listener: Any) -> None:
        self._listeners.append(listener)

    def _verb(self, op: str, value: Any = None) -> None:
        self._channel.command(op, value, engine=self._engine)
