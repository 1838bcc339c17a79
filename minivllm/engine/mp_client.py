"""MPClient: ONE engine core in ONE process, from its start to its end.

    caller ─ add, abort, … ─────► link.py ─► core_proc.py
           ◄─ answers ◄─ calls.py ◄─ │  ◄────
    reader ◄─ outputs ◄── queue ◄─── │
    TraceLog ◄─ collector ◄────────────────── PUB

Its process ended, a client only says so: ``get_output`` hands out what had come before and then
raises EngineDeadError. Whoever wants another engine makes another client.

Outputs wait here, without bound, for ``get_output``; its caller is the server's one output thread,
whose mailboxes merge what a slow reader leaves. That never holds up the engine's step; nor does
what waits on the way there (``link.py``).

Counterpart in vLLM: ``SyncMPClient`` in ``vllm/v1/engine/core_client.py``.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from minivllm.config import EngineConfig
from minivllm.engine import wire
from minivllm.engine.calls import Calls
from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineState, EngineStatus, check_only_engine
from minivllm.engine.core_proc import ARRAYS
from minivllm.engine.link import EngineLink
from minivllm.engine.messages import EngineCoreOutputs, EngineCoreRequest
from minivllm.engine.process import EngineProcess, private_directory, remove
from minivllm.engine.remote_gate import RemoteGate
from minivllm.engine.stall import SILENT_S
from minivllm.engine.wire_errors import made_anew
from minivllm.errors import (
    ConfigError,
    DuplicateRequestError,
    EngineDeadError,
    EngineStartError,
    EngineUnavailableError,
)
from minivllm.trace.collector import TraceCollector
from minivllm.trace.events import IpcRecv, IpcSend, Reason
from minivllm.trace.gate import check_rate
from minivllm.trace.gate_control import GateState
from minivllm.trace.log import TraceLog
from minivllm.trace.tracer import OFF, Tracer

logger = logging.getLogger(__name__)


class MPClient:
    """An :class:`~minivllm.engine.client.EngineCoreClient`. Make it after the last fork of this
    process: threads and sockets do not survive one."""

    def __init__(
        self,
        config: EngineConfig,
        index: int = 0,
        epoch: int = 1,
        *,
        trace_log: TraceLog | None = None,
        tracer: Tracer = OFF,
        executor: str | None = None,
        tokenizer: str | None = None,
        paused: bool = False,
        rate: float = 0.0,
        lockstep: bool = False,
        num_threads: int | None = None,
    ) -> None:
        """Starts the process and does not wait for it; see :meth:`wait_ready`.

        ``index``, ``epoch``: which engine, and which life of it. ``trace_log``: takes the engine's
        stream in, and stays open at the end. ``tracer``: the front end's own stream, which tells
        what is sent and what comes. ``executor``, ``tokenizer``: see ``factories.py``. ``paused``,
        ``rate``: the gate at the start. ``lockstep``: see ``core_loop.py``. ``num_threads``:
        torch's.

        Raises ConfigError for what cannot cross the boundary, EngineStartError.
        """
        flat = wire.flat(config)
        self.index, self.epoch = index, epoch
        self.gate = RemoteGate(self._steer, paused, check_rate(rate))
        self._tracer, self._log, self._lockstep = tracer, trace_log, lockstep
        self._outputs: queue.SimpleQueue[EngineCoreOutputs | None] = queue.SimpleQueue()
        self._num_taken = 0
        self._open: set[str] = set()
        self._calls = Calls(index)
        self._facts: dict[str, Any] = {}
        self._state: EngineState = "starting"
        self._start_error: Exception | None = None
        self._death: str | None = None
        self._closing = False
        self._settled = threading.Event()  # it is ready, or will never be
        self._stalled_s, self._beat_at = 0.0, time.monotonic()
        self._lock = threading.Lock()  # state, open requests
        self._directory = private_directory()
        settings = wire.CoreSettings(
            config=flat,
            directory=self._directory,
            index=index,
            epoch=epoch,
            lockstep=lockstep,
            paused=paused,
            rate=rate,
            start_ns=trace_log.start_ns if trace_log is not None else None,
            executor=executor,
            tokenizer=tokenizer,
            log_level=logger.getEffectiveLevel(),
        )
        self._link = EngineLink(
            self._directory, f"engine{index}-io", self._take, self._end_of_process
        )
        self._collector: TraceCollector | None = None
        if trace_log is not None:
            spool = Path(self._directory) / ARRAYS
            self._collector = TraceCollector(
                self._link.context,
                self._directory,
                f"engine{index}",
                trace_log,
                tracer,
                spool,
                epoch,
            )
        atexit.register(self._at_exit)
        try:
            self._process = EngineProcess(settings, self._link.note_exit, num_threads)
        except BaseException:
            self._closing = True
            self._link.note_exit()
            self._tidy()
            raise

    # --- its life ------------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None = None) -> None:
        """Until the engine takes requests. Raises what the engine raised at its start (ConfigError,
        ModelError, MissingExtraError, MemoryError …), or EngineStartError."""
        if not self._settled.wait(timeout):
            raise EngineStartError(f"engine {self.index} is not ready after {timeout:g} s")
        if self._start_error is not None:
            raise self._start_error
        self._raise_if_dead()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended its process. None while that runs."""
        return self._process.exit_code

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the engine after its current step, be it held or not; requests that are open then end
        by ``abort``. After ``timeout`` seconds, and if it hangs, its process is ended from outside.
        May be called twice, and after its death."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            was_ready = self._state == "ready"
        if was_ready:
            self._push_message(wire.Shutdown())
        # One that is still being started hears nothing; one that has failed is ending by itself.
        self._process.end(patience_s=timeout if self._settled.is_set() else 0.0)
        self._tidy()

    def kill(self) -> None:
        """End the process at once, whatever it does: for one that hangs. It is a death like any
        other; :meth:`shutdown` then tidies up."""
        self._process.kill()

    def _tidy(self) -> None:
        """The process is gone."""
        self._link.join()
        if self._collector is not None:
            self._collector.close()
        self._link.close()
        remove(self._directory)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.shutdown(timeout=2.0)

    # --- the protocol --------------------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> int:
        self.check_ready()
        with self._lock:
            if request.request_id in self._open:
                raise DuplicateRequestError(f"request id {request.request_id!r} is already in use")
            self._open.add(request.request_id)
        self._push_message(wire.Add(request=request), request.request_id)
        return self.index

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        self.check_ready()
        one = request_ids[0] if len(request_ids) == 1 else None
        self._push_message(wire.Abort(request_ids=request_ids, why=why), one)

    def reset_prefix_cache(self) -> None:
        self.check_ready()
        self._push_message(wire.ResetPrefixCache())

    def set_knobs(self, **knobs: Any) -> None:
        try:
            msgspec.msgpack.encode(knobs)
        except (TypeError, OverflowError) as error:
            raise ConfigError("knobs", knobs, "numbers, texts, True and False") from error
        self._ask(wire.SetKnobs(knobs=knobs))

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        check_only_engine(engine, self.index)
        is_word = step in ("next", "none")
        if not is_word and (type(step) is not int or not 0 <= step < 2**63):
            raise ConfigError("arm", step, "next, none, or the number of a step to come")
        self._ask(wire.Arm(step=step))

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        if self._lockstep and self._state == "ready":
            self._push_message(wire.Taken(num_taken=self._num_taken))
        try:
            outputs = self._outputs.get(timeout=timeout)
        except queue.Empty:
            return None
        if outputs is None:
            self._outputs.put(None)  # for whoever else waits
            raise EngineDeadError(self._death or "the engine was shut down")
        self._num_taken += 1
        return outputs

    def facts(self) -> dict[str, Any]:
        """Raises EngineUnavailableError before the engine is ready."""
        if not self._facts:
            self.check_ready()
        return dict(self._facts)

    def check_ready(self) -> None:
        self._raise_if_dead()
        if self._closing:
            raise EngineDeadError("the engine was shut down")
        if self._state == "starting":
            raise EngineUnavailableError(f"engine {self.index} is starting")

    def engines(self) -> list[EngineStatus]:
        with self._lock:
            silent_s = time.monotonic() - self._beat_at
            responsive = self._state != "ready" or silent_s <= SILENT_S
            stalled_s = self._stalled_s if responsive else silent_s
            status = EngineStatus(
                engine=self.index,
                epoch=self.epoch,
                state=self._state,
                pid=self.pid,
                open_requests=len(self._open),
                stalled_s=stalled_s if self._state == "ready" else 0.0,
                responsive=responsive,
                message=self._death or "",
            )
        return [status]

    # --- sending -------------------------------------------------------------------------------

    def _push_message(self, message: wire.Message, request_id: str | None = None) -> None:
        def tell(num_bytes: int) -> None:
            if isinstance(message, wire.Input):
                self._tracer.emit(
                    IpcSend,
                    None,
                    engine=self.index,
                    message=wire.name_of(message),
                    bytes=num_bytes,
                    request_id=request_id,
                )

        self._link.send(message, tell)

    def _ask(self, call: wire.Call) -> GateState | None:
        """Send a message that is answered, and wait. Raises what comes back."""
        self.check_ready()
        return self._calls.ask(call, self._push_message)

    def _steer(self, verb: str, value: int | float | str | None) -> GateState | None:
        return self._ask(wire.GateVerb(verb=verb, value=value))

    # --- on the link's thread ------------------------------------------------------------------

    def _take(self, message: wire.ToFront, num_bytes: int) -> None:
        self._beat_at = time.monotonic()  # whatever it is: a sign of life
        match message:
            case wire.Outputs():
                self._take_outputs(message, num_bytes)
            case wire.Heartbeat():
                self._stalled_s = message.stalled_s
            case wire.GateMoved():
                self.gate.take(message.state)
            case wire.Answer():
                self._calls.answer(message)
            case wire.Facts():
                self._facts = message.facts
            case wire.Ready():
                self._facts = message.facts
                self.gate.take(message.gate)
                if self._log is not None:
                    self._log.complete_header(**message.described)
                with self._lock:
                    self._state = "ready"
                self._settled.set()
            case wire.StartFailed():
                self._start_error = made_anew(message.error, EngineStartError)
                self._settled.set()

    def _take_outputs(self, message: wire.Outputs, num_bytes: int) -> None:
        outputs = message.outputs
        if outputs.error is not None:
            self._die(f"engine {self.index} has failed ({outputs.error}); its log says more")
            return
        self._tracer.emit(
            IpcRecv,
            None,
            engine=self.index,
            message=wire.name_of(message),
            bytes=num_bytes,
            ns=time.perf_counter_ns() - message.sent_ns,
            epoch=self.epoch,
            of_step=outputs.step,
        )
        ended = {o.request_id for o in outputs.outputs if o.finish_reason is not None}
        with self._lock:
            self._open -= ended
        self._outputs.put(outputs)

    # --- its death -------------------------------------------------------------------------------

    def _end_of_process(self) -> None:
        if self._closing:
            self._die("the engine was shut down", expected=True)
        else:
            how = self._process.how_it_ended()
            self._die(f"engine {self.index} (process {self.pid}) {how}")

    def _die(self, message: str, expected: bool = False) -> None:
        with self._lock:
            if self._state == "dead":
                return
            was_ready, self._state = self._state == "ready", "dead"
            if not expected:
                self._death = message
        if not was_ready and self._start_error is None:
            self._start_error = EngineStartError(f"{message} before it was ready")
        self._calls.end(message)
        self._outputs.put(None)
        self._settled.set()

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise EngineDeadError(self._death)
