"""EngineCoreClient: how the front end reaches the engine core, wherever that runs.

    InprocClient   one core on a thread of this process
    MPClient       one core in one process; one life of it
    DPClient       several of them: routes, restarts, drains

The interface passes messages only, so it does not matter who stands behind it. Counterpart in
vLLM: ``EngineCoreClient`` in ``vllm/v1/engine/core_client.py``.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from minivllm.engine.capture import ArmedStep
from minivllm.engine.messages import EngineCoreOutputs, EngineCoreRequest
from minivllm.errors import ConfigError
from minivllm.trace.events import Reason
from minivllm.trace.gate_control import GateControl

EngineState = Literal["starting", "ready", "draining", "drained", "dead"]


def check_only_engine(engine: int | None, own: int = 0) -> None:
    """What is meant for a named engine has come to a client of one. Raises ConfigError."""
    if engine not in (None, own):
        raise ConfigError("engine", engine, f"{own}, the only one")


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one engine does, for ``/health``, ``/load``, the router and ``minivllm admin``."""

    engine: int
    state: EngineState
    epoch: int = 1
    """Which life of it this is."""
    pid: int | None = None
    """None where it runs on a thread."""
    open_requests: int = 0
    """Sent to it and not finished."""
    stalled_s: float = 0.0
    """Seconds since its loop last moved, though it has work and is not held by the gate; or, where
    it is not responsive, since its process last gave a sign of life."""
    responsive: bool = True
    """Its process gives signs of life; while it does not, new requests go elsewhere."""
    message: str = ""
    """What went wrong, if something did."""


class EngineCoreClient(Protocol):
    """What the front end may ask of an engine core. All calls may come from any thread."""

    @property
    def gate(self) -> GateControl:
        """By which the engine is paused, stepped and slowed down."""
        ...

    def add_request(self, request: EngineCoreRequest) -> int:
        """Queue a request; it enters at the next step's boundary. Returns the number of the engine
        that it was sent to.

        Raises DuplicateRequestError while a request of the same id is open."""
        ...

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        """End these requests; ids that are unknown or finished are ignored."""
        ...

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        """The next step's outputs, which may be none but statistics; None after ``timeout`` seconds
        without any.

        Raises EngineDeadError once the core's loop has ended by an error.
        """
        ...

    def set_knobs(self, **knobs: Any) -> None:
        """Change knobs of the scheduler from the next step on. Raises ConfigError."""
        ...

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        """Capture the arrays of one step to come, of one engine or of all. Raises ConfigError; see
        ``EngineCore.arm``."""
        ...

    def facts(self) -> dict[str, Any]:
        """``max_model_len``, ``num_kv_blocks``, ``block_size`` … as the running core has them."""
        ...

    def check_ready(self) -> None:
        """Raises EngineUnavailableError while no engine takes requests, EngineDeadError once none
        ever will again."""
        ...

    def engines(self) -> list[EngineStatus]:
        """One entry per engine, in order of their numbers."""
        ...

    def shutdown(self) -> None: ...
