"""InprocClient: the engine core on a thread of this process.

Counterpart in vLLM: ``InprocClient`` in ``vllm/v1/engine/core_client.py``, which has no thread: its
caller steps the core. What all clients offer stands in ``client.py``.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineStatus
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from minivllm.errors import DuplicateRequestError, EngineDeadError, OwnClassError
from minivllm.trace.events import GateChange, Reason, RunEnd, RunError, RunIdle
from minivllm.trace.gate import Gate

logger = logging.getLogger(__name__)


class InprocClient:
    """The core on a thread of this process. What it is told waits in a queue; the loop applies it
    between two steps, in order."""

    def __init__(self, core: EngineCore, gate: Gate | None = None, lockstep: bool = False) -> None:
        """``lockstep``: no step begins before the one reader has come back for more, so that all
        it says to a step's outputs (an abort for a stop string) is applied before the next: what
        happens when does then not depend on which thread is faster. For offline use."""
        self.core = core
        self.lockstep = lockstep
        self._num_handed_out = 0  # outputs put into the queue
        self._num_taken = 0  # outputs taken out of it
        self._num_answered = -1  # of those, how many had been taken when the reader last came
        self.gate = gate or Gate()
        self.gate.on_change(self._tell_gate)
        self.gate.attach(core.trace)
        core.at_phase = self.gate.pass_phase
        self._inputs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._outputs: queue.SimpleQueue[EngineCoreOutputs] = queue.SimpleQueue()
        self._open: set[str] = set()  # ids of requests that have not ended
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._dead: BaseException | None = None
        if core.grammars.source is not None:
            core.grammars.source.on_ready(self._wake.set)
        self._thread = threading.Thread(target=self._loop, name="engine-core", daemon=True)
        self._thread.start()

    # --- called from any thread ----------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> None:
        with self._lock:
            if request.request_id in self._open:
                raise DuplicateRequestError(f"request id {request.request_id!r} is already in use")
            self._open.add(request.request_id)
        self._send(partial(self._take_in, request))

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        for request_id in request_ids:
            self._send(partial(self.core.abort_request, request_id, why))

    def reset_prefix_cache(self) -> None:
        self._send(self.core.reset_prefix_cache)

    def set_knobs(self, **knobs: Any) -> None:
        self.core.check_knobs(**knobs)  # here, where the caller hears of it
        self._send(partial(self.core.set_knobs, **knobs))

    def arm(self, step: ArmedStep = "next") -> None:
        self.core.check_arm(step)  # here, where the caller hears of it
        self._send(partial(self.core.apply_arm, step))

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        self._num_answered = self._num_taken
        self._wake.set()
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
        return [EngineStatus(engine=0, state="ready", open_requests=num_open)]

    def shutdown(self) -> None:
        """End the loop after its current step, be it held or not; requests that are open then end
        by ``abort``."""
        self._stopping = True
        self._wake.set()
        self.gate.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # --- on the core's thread ------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while not self._stopping:
                self._apply_inputs()
                if not self.core.can_step():
                    self._sleep()
                elif self.lockstep and self._num_answered != self._num_handed_out:
                    self._await_reader()
                elif self.gate.may_step(timeout=0.2) and not self._stopping:
                    self._apply_inputs()  # what came while the gate held belongs to this step
                    if self.core.can_step():
                        self._hand_out(self.core.step())
            self._apply_inputs()  # an abort that was told before the end is in the trace
            self.core.abort_all(Reason.SHUTDOWN)
            self._hand_out(self.core.take_outputs())
        except BaseException as error:
            self.gate.close()  # nobody waits on a dead engine, not even the engine itself
            fault_of_ours = not isinstance(error, OwnClassError)  # that names its place itself
            logger.error("the engine's loop has ended by an error", exc_info=fault_of_ours)
            self._dead = error
            self.core.trace.emit(RunError, None, error=type(error).__name__, message=str(error))
            self._outputs.put(EngineCoreOutputs(step=-1, error=_named(error)))
        finally:
            self.core.executor.shutdown()
            self.core.trace.emit(RunEnd, None, steps=self.core.scheduler.current_step)
            self.core.trace.close()

    def _apply_inputs(self) -> None:
        applied = False
        while not self._inputs.empty():
            apply = self._inputs.get()
            try:
                apply()
            except Exception:  # one bad message must not end everybody's engine
                logger.exception("the engine could not apply a message")
            applied = True
        if applied:
            self._hand_out(self.core.take_outputs())

    def _take_in(self, request: EngineCoreRequest) -> None:
        try:
            self.core.add_request(request)
        except Exception as error:
            logger.exception("request %r could not be taken in", request.request_id)
            refused = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason="error",
                stop_reason=f"the request could not be taken in ({_named(error)})",
            )
            step = self.core.scheduler.current_step
            self._hand_out(EngineCoreOutputs(step=step, outputs=[refused]))

    def _sleep(self) -> None:
        """Until a message comes, or a grammar that everybody waits for is ready or out of time."""
        self._wake.clear()
        if self._inputs.empty() and not self._stopping and not self.core.can_step():
            self.core.trace.phase = "idle"
            self.core.trace.emit(RunIdle, None)
            self.core.trace.flush()
            source = self.core.grammars.source
            self._wake.wait(source.seconds_left() if source is not None else None)

    def _await_reader(self) -> None:
        self._wake.clear()
        unanswered = self._num_answered != self._num_handed_out
        if unanswered and self._inputs.empty() and not self._stopping:
            self._wake.wait()

    def _hand_out(self, outputs: EngineCoreOutputs) -> None:
        ended = {o.request_id for o in outputs.outputs if o.finish_reason is not None}
        with self._lock:
            self._open -= ended
        if outputs.outputs:
            self._num_handed_out += 1
            self._outputs.put(outputs)

    # --- helpers -------------------------------------------------------------------------------

    def _send(self, apply: Callable[[], object]) -> None:
        self._raise_if_dead()
        if self._stopping:
            raise EngineDeadError("the engine was shut down")
        self._inputs.put(apply)
        self._wake.set()
        self.gate.wake()

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(
                f"the engine's loop has ended by an error: {_named(self._dead)}"
            ) from self._dead

    def _tell_gate(self, mode: str, rate: float) -> None:
        self._inputs.put(lambda: self.core.trace.emit(GateChange, None, mode=mode, rate=rate))
        self._wake.set()


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
