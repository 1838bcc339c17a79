"""InprocClient: the engine core on a thread of this process.

Counterpart in vLLM: ``InprocClient`` in ``vllm/v1/engine/core_client.py``, which has no thread: its
caller steps the core. What all clients offer stands in ``client.py``, the loop in ``core_loop.py``.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineStatus, check_only_engine
from minivllm.engine.core_loop import CoreLoop
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutputs, EngineCoreRequest
from minivllm.engine.wire import Abort, Add, Arm, Input, ResetPrefixCache, SetKnobs
from minivllm.errors import DuplicateRequestError, EngineDeadError
from minivllm.trace.events import Reason
from minivllm.trace.gate import Gate


class InprocClient:
    """The core on a thread of this process."""

    def __init__(self, core: EngineCore, gate: Gate | None = None, lockstep: bool = False) -> None:
        """``lockstep``: see :class:`~minivllm.engine.core_loop.CoreLoop`."""
        self.core = core
        self.gate = gate or Gate()
        self._outputs: queue.SimpleQueue[EngineCoreOutputs] = queue.SimpleQueue()
        self._num_taken = 0  # outputs taken out of it
        self._open: set[str] = set()  # ids of requests that have not ended
        self._lock = threading.Lock()
        self._dead: BaseException | None = None
        self._loop = CoreLoop(
            core, self.gate, self._hand_out, on_death=self._die, lockstep=lockstep
        )
        self._thread = threading.Thread(target=self._loop.run, name="engine-core", daemon=True)
        self._thread.start()

    # --- called from any thread ----------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> int:
        with self._lock:
            if request.request_id in self._open:
                raise DuplicateRequestError(f"request id {request.request_id!r} is already in use")
            self._open.add(request.request_id)
        self._send(Add(request=request))
        return 0

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        self._send(Abort(request_ids=request_ids, why=why))

    def reset_prefix_cache(self) -> None:
        self._send(ResetPrefixCache())

    def set_knobs(self, **knobs: Any) -> None:
        self.core.check_knobs(**knobs)  # here, where the caller hears of it
        self._send(SetKnobs(knobs=knobs))

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        check_only_engine(engine)
        self.core.check_arm(step)  # here, where the caller hears of it
        self._send(Arm(step=step))

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        self._loop.answer(self._num_taken)
        try:
            outputs = self._outputs.get(timeout=timeout)
        except queue.Empty:
            self._raise_if_dead()
            return None
        if outputs.error is not None:
            self._outputs.put(outputs)  # for whoever else waits
            self._raise_if_dead()
        self._num_taken += 1
        return outputs

    def facts(self) -> dict[str, Any]:
        return self.core.facts()

    def check_ready(self) -> None:
        self._raise_if_dead()

    def engines(self) -> list[EngineStatus]:
        with self._lock:
            num_open = len(self._open)
        if self._dead is not None:
            return [EngineStatus(engine=0, state="dead", message=_named(self._dead))]
        if self._loop.is_stopping:
            return [EngineStatus(engine=0, state="dead", message="the engine was shut down")]
        stalled_s = self._loop.stalled_s()
        return [EngineStatus(engine=0, state="ready", open_requests=num_open, stalled_s=stalled_s)]

    def shutdown(self) -> None:
        """End the loop after its current step, be it held or not; requests that are open then end
        by ``abort``."""
        self._loop.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # --- on the core's thread ------------------------------------------------------------------

    def _hand_out(self, outputs: EngineCoreOutputs) -> None:
        ended = {o.request_id for o in outputs.outputs if o.finish_reason is not None}
        with self._lock:
            self._open -= ended
        self._outputs.put(outputs)

    def _die(self, error: BaseException) -> None:
        self._dead = error
        self._outputs.put(EngineCoreOutputs(step=-1, error=_named(error)))

    # --- helpers -------------------------------------------------------------------------------

    def _send(self, message: Input) -> None:
        self._raise_if_dead()
        if self._loop.is_stopping:
            raise EngineDeadError("the engine was shut down")
        self._loop.put(message)

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(
                f"the engine's loop has ended by an error: {_named(self._dead)}"
            ) from self._dead


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
