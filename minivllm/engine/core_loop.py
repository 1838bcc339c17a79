"""CoreLoop: the busy loop. Apply what came, pass the gate, run a step, hand out; again.

The one loop of both homes of a core: :class:`~minivllm.engine.inproc_client.InprocClient` runs it
on a thread, :mod:`~minivllm.engine.core_proc` in a process. Inputs wait in a queue and are applied
between two steps, in their order. Counterpart in vLLM: ``EngineCoreProc.run_busy_loop`` with
``_process_input_queue`` in ``vllm/v1/engine/core.py``.

Aborts are looked at first of all: a request whose abort has come before anybody took it in is
never taken in. vLLM, too, has a queue of aborts beside the one of its inputs.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from minivllm.engine.wire import Abort, Add, Arm, Input, ResetPrefixCache, SetKnobs, name_of
from minivllm.errors import OwnClassError
from minivllm.trace.events import (
    CoreDrop,
    GateChange,
    IpcRecv,
    Reason,
    RunEnd,
    RunError,
    RunIdle,
)
from minivllm.trace.gate import Gate

logger = logging.getLogger(__name__)


class CoreLoop:
    """``put``, ``answer`` and ``stop`` may be called on any thread, ``run`` on one."""

    def __init__(
        self,
        core: EngineCore,
        gate: Gate,
        hand_out: Callable[[EngineCoreOutputs], None],
        *,
        on_death: Callable[[BaseException], None],
        on_facts: Callable[[dict[str, Any]], None] | None = None,
        lockstep: bool = False,
        engine: int = 0,
    ) -> None:
        """``hand_out``: takes each step's outputs, at once. ``on_death``: is told of the error that
        has ended the loop. ``on_facts``: of the core's facts after a knob has changed them.

        ``lockstep``: no step begins before the one reader has come back for more, so that all it
        says to a step's outputs (an abort for a stop string) is applied before the next: what
        happens when does then not depend on which thread is faster. For offline use.
        """
        self.core, self.gate = core, gate
        self.lockstep = lockstep
        self._hand_on, self._on_death, self._on_facts = hand_out, on_death, on_facts
        self._engine = engine
        self._inputs: queue.SimpleQueue[tuple[Input | GateChange, int]] = queue.SimpleQueue()
        self._num_handed_out = 0  # outputs
        self._num_answered = -1  # of those, how many had been taken when the reader last came
        self._wake = threading.Event()
        self._stopping = False
        self._moved_ns = time.perf_counter_ns()
        self._asleep = False
        gate.on_change(self._tell_gate)
        gate.attach(core.trace)
        core.at_phase = self._pass_phase
        if core.grammars.source is not None:
            core.grammars.source.on_ready(self._wake.set)

    # --- called from any thread ----------------------------------------------------------------

    def put(self, message: Input, num_bytes: int = 0) -> None:
        """To be applied before the next step. ``num_bytes``: its size, if it has come from another
        process."""
        self._inputs.put((message, num_bytes))
        self._wake.set()
        self.gate.wake()

    def answer(self, num_taken: int) -> None:
        """The reader has come for more, after ``num_taken`` outputs."""
        self._num_answered = num_taken
        self._wake.set()

    def stop(self) -> None:
        """End after the current step, be it held or not; open requests then end by ``abort``."""
        self._stopping = True
        self._wake.set()
        self.gate.close()

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def stalled_s(self) -> float:
        """Seconds since it last moved; 0 while it has nothing to do, or somebody holds it."""
        if self._asleep or self.gate.held is not None:
            return 0.0
        return max(0.0, (time.perf_counter_ns() - self._moved_ns) / 1e9)

    # --- on the core's thread ------------------------------------------------------------------

    def run(self) -> None:
        """Until ``stop``, or an error; then the executor and the trace are closed."""
        try:
            while not self._stopping:
                self._moved_ns = time.perf_counter_ns()
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
            self._on_death(error)
            self.core.trace.emit(RunError, None, error=type(error).__name__, message=str(error))
        finally:
            self._asleep = True
            self.core.executor.shutdown()
            self.core.trace.emit(RunEnd, None, steps=self.core.scheduler.current_step)
            self.core.trace.close()

    def _apply_inputs(self) -> None:
        if self._inputs.empty():
            return
        batch: list[tuple[Input | GateChange, int]] = []
        while not self._inputs.empty():
            batch.append(self._inputs.get())
        dropped = _called_back([message for message, _ in batch])
        for message, num_bytes in batch:
            try:
                if num_bytes and not isinstance(message, GateChange):
                    self._tell_hop(message, num_bytes)
                if id(message) in dropped and isinstance(message, Add):
                    self._drop(message.request, dropped[id(message)])
                else:
                    self._apply(message)
            except Exception:  # one bad message must not end everybody's engine
                logger.exception("the engine could not apply a message")
        self._hand_out(self.core.take_outputs())

    def _apply(self, message: Input | GateChange) -> None:
        core = self.core
        match message:
            case Add():
                self._take_in(message.request)
            case Abort():
                for request_id in message.request_ids:
                    core.abort_request(request_id, message.why)
            case SetKnobs():
                core.set_knobs(**message.knobs)
                if self._on_facts is not None:
                    self._on_facts(core.facts())
            case Arm():
                core.apply_arm(message.step)
            case ResetPrefixCache():
                core.reset_prefix_cache()
            case GateChange():
                core.trace.emit(GateChange, None, mode=message.mode, rate=message.rate)

    def _take_in(self, request: EngineCoreRequest) -> None:
        try:
            self.core.add_request(request)
        except Exception as error:
            logger.exception("request %r could not be taken in", request.request_id)
            self.refuse(request.request_id, f"{type(error).__name__}: {error}")

    def refuse(self, request_id: str, problem: str) -> None:
        """Answer a request that the core never gets. May be called from any thread."""
        message = f"the request could not be taken in ({problem})"
        self._end_early(request_id, "error", message)

    def _drop(self, request: EngineCoreRequest, why: Reason) -> None:
        """Its abort is here already: nobody takes it in, so no block and no grammar is made."""
        self.core.begin_input()
        self.core.trace.emit(CoreDrop, None, request_id=request.request_id, why=why)
        self._end_early(request.request_id, "abort", None)

    def _end_early(self, request_id: str, reason: str, message: str | None) -> None:
        output = EngineCoreOutput(
            request_id=request_id, new_token_ids=[], finish_reason=reason, stop_reason=message
        )
        step = self.core.scheduler.current_step
        self._hand_out(EngineCoreOutputs(step=step, outputs=[output], engine=self._engine))

    def _tell_hop(self, message: Input, num_bytes: int) -> None:
        ids = message.request_ids if isinstance(message, Abort) else []
        request_id = message.request.request_id if isinstance(message, Add) else None
        self.core.begin_input()
        self.core.trace.emit(
            IpcRecv,
            None,
            engine=self._engine,
            message=name_of(message),
            bytes=num_bytes,
            ns=time.perf_counter_ns() - message.sent_ns,
            request_id=ids[0] if len(ids) == 1 else request_id,
        )

    def _sleep(self) -> None:
        """Until a message comes, or a grammar that everybody waits for is ready or out of time."""
        self._wake.clear()
        if self._inputs.empty() and not self._stopping and not self.core.can_step():
            self.core.trace.phase = "idle"
            self.core.trace.emit(RunIdle, None)
            self.core.trace.flush()
            source = self.core.grammars.source
            self._wait(source.seconds_left() if source is not None else None)

    def _await_reader(self) -> None:
        self._wake.clear()
        unanswered = self._num_answered != self._num_handed_out
        if unanswered and self._inputs.empty() and not self._stopping:
            self._wait(None)

    def _wait(self, timeout: float | None) -> None:
        self._asleep = True
        self._wake.wait(timeout)
        self._moved_ns = time.perf_counter_ns()
        self._asleep = False

    def _hand_out(self, outputs: EngineCoreOutputs) -> None:
        if outputs.has_news:
            self._num_handed_out += 1
            self._hand_on(outputs)

    # --- the gate ------------------------------------------------------------------------------

    def _pass_phase(self, phase: str) -> None:
        self.gate.pass_phase(phase)
        self._moved_ns = time.perf_counter_ns()

    def _tell_gate(self, mode: str, rate: float) -> None:
        self._inputs.put((GateChange(mode=mode, rate=rate), 0))
        self._wake.set()


def _called_back(messages: list[Input | GateChange]) -> dict[int, Reason]:
    """The requests (``id`` of their message) that a later abort of the batch ends, and why."""
    waiting: dict[str, int] = {}
    dropped: dict[int, Reason] = {}
    for message in messages:
        if isinstance(message, Add):
            waiting[message.request.request_id] = id(message)
        elif isinstance(message, Abort):
            for request_id in message.request_ids:
                if request_id in waiting:
                    dropped[waiting.pop(request_id)] = message.why
    return dropped
