"""DPClient: several engines behind one client. Routes, retries, drains; ``serve`` always has one.

    add_request ─► router.py ─► engine 0's client ─► …
                               engine 1's client ─► …
    get_output  ◄── one queue ◄── the engines' threads (supervisor.py)

When an engine dies, requests of which nobody has heard anything yet begin anew on another one
(``retry.py``), all others end with an error; so do all of an engine that was killed since it stood
still. Where no other engine takes requests, nothing waits for the restart: they fail at once, and
their senders know where they stand.

Counterpart in vLLM: ``DPLBAsyncMPClient`` in ``vllm/v1/engine/core_client.py``. Left out: waves
and the coordinator, which lock-step engines of a mixture-of-experts model need.
"""

from __future__ import annotations

import atexit
import queue
import threading
from typing import Any

from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineStatus
from minivllm.engine.fleet_gate import FleetGate
from minivllm.engine.messages import EngineCoreOutputs, EngineCoreRequest
from minivllm.engine.retry import last_outputs, may_begin_anew, new_beginning
from minivllm.engine.router import OpenRequest, Router, run_prefill
from minivllm.engine.steering import Steering
from minivllm.engine.supervisor import (
    EngineLife,
    MakeClient,
    SupervisedEngine,
    SupervisorSettings,
    why_unavailable,
)
from minivllm.errors import (
    ConfigError,
    DuplicateRequestError,
    EngineBusyError,
    EngineDeadError,
    EngineUnavailableError,
)
from minivllm.trace.events import EngineDead, Reason
from minivllm.trace.tracer import OFF, Tracer


class DPClient:
    """An EngineCoreClient over ``n`` engines. All methods may be called from any thread."""

    def __init__(
        self,
        make_client: MakeClient,
        n: int = 1,
        policy: str = "prefix_aware",
        tracer: Tracer = OFF,
        settings: SupervisorSettings | None = None,
        *,
        paused: bool = False,
        rate: float = 0.0,
    ) -> None:
        """Start all engines, and wait for them. ``paused``, ``rate``: their gate at the start.

        Raises what the first start of one failed with."""
        self._trace = tracer
        self._router = Router(policy, tracer)
        # Reentrant: who asks under it how the engines are takes it again.
        self._changed = threading.Condition(threading.RLock())
        self._outputs: queue.SimpleQueue[EngineCoreOutputs | None] = queue.SimpleQueue()
        self._open: dict[str, OpenRequest] = {}
        self._facts: dict[int, dict[str, Any]] = {}
        self.steering = Steering(self._lives, self._alive, n, paused, rate)
        self._closed = False
        self._engines: list[SupervisedEngine] = []
        self.joining = self.steering.joining
        atexit.register(self.shutdown)  # before the lives' own, which would look like deaths
        settings = settings or SupervisorSettings()
        try:
            with self._changed:  # so that nobody is ready before all are known
                for index in range(n):
                    self._engines.append(
                        SupervisedEngine(index, make_client, self, self._changed, tracer, settings)
                    )
                self._changed.wait_for(self._have_all_started)
        except BaseException:  # Ctrl-C
            self.shutdown()
            raise
        errors = [e.start_error for e in self._engines if e.start_error is not None]
        if errors:
            self.shutdown()
            raise errors[0]

    def _have_all_started(self) -> bool:
        failed = any(engine.start_error for engine in self._engines)
        return failed or all(engine.state != "starting" for engine in self._engines)

    # --- requests ---------------------------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> int:
        """Raises DuplicateRequestError while a request of this id is open on any engine, and
        EngineUnavailableError where none takes requests."""
        with self._changed:
            self._check_open()
            if request.request_id in self._open:
                raise DuplicateRequestError(f"request id {request.request_id!r} is already in use")
            return self._send(OpenRequest(request))

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        with self._changed:
            of_engine: dict[int, list[str]] = {}
            for request_id in request_ids:
                open_request = self._open.get(request_id)
                if open_request is not None:
                    open_request.aborted = why  # so that it begins nowhere anew
                    of_engine.setdefault(open_request.engine, []).append(request_id)
            for index, ids in of_engine.items():
                client = self._engines[index].client
                if client is not None:
                    try:
                        client.abort_requests(ids, why)
                    except EngineDeadError:
                        pass  # its burial ends them

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        """Of whichever engine has some. Raises EngineDeadError only after :meth:`shutdown`: an
        engine's death ends requests, with an output for each."""
        try:
            outputs = self._outputs.get(timeout=timeout)
        except queue.Empty:
            return None
        if outputs is None:
            self._outputs.put(None)  # for whoever else waits
            raise EngineDeadError("the engines were shut down")
        return outputs

    def _send(self, open_request: OpenRequest) -> int:
        """To the engine that is picked; returns which. Raises EngineUnavailableError."""
        request = open_request.request
        ready = [engine for engine in self._engines if engine.state == "ready"]
        # A silent one may be back in a moment, so it is better than none.
        engines = [engine for engine in ready if engine.is_responsive] or ready
        while engines:
            engine = self._engines[self._router.route(open_request, engines)]
            try:
                assert engine.client is not None  # it is ready
                engine.client.add_request(request)
            except EngineDeadError:  # its thread has not noticed yet
                engines.remove(engine)
            else:
                self._open[request.request_id] = engine.requests[request.request_id] = open_request
                return engine.index
        raise why_unavailable(self._engines)

    # --- what the engines' threads bring ----------------------------------------------------------

    def take(self, engine: SupervisedEngine, outputs: EngineCoreOutputs) -> None:
        with self._changed:
            outputs.engine = engine.index
            if outputs.stats is not None:
                run_prefill(engine.requests.values(), outputs.stats.num_prefill_tokens)
            outputs.outputs = [o for o in outputs.outputs if o.request_id in engine.requests]
            for output in outputs.outputs:
                engine.requests[output.request_id].say(len(output.new_token_ids))
                if output.finish_reason is not None:
                    del engine.requests[output.request_id], self._open[output.request_id]
                    engine.settle()
            if outputs.has_news:
                self._outputs.put(outputs)

    def prepare(self, engine: SupervisedEngine, facts: dict[str, Any]) -> None:
        self._facts[engine.index] = facts
        self._router.started(engine.index, facts)

    def bury(self, engine: SupervisedEngine, message: str, stalled: bool) -> None:
        dead = list(engine.requests.values())
        # What one engine could not finish in all that time would be the end of the next one, too.
        elsewhere = not stalled and any(other.state == "ready" for other in self._engines)
        again = [r for r in dead if elsewhere and may_begin_anew(r)]
        self._trace.emit(
            EngineDead,
            None,
            engine=engine.index,
            epoch=engine.epoch,
            message=message,
            retried=len(again),
            failed=sum(r.aborted is None for r in dead) - len(again),
        )
        for request in dead:
            del engine.requests[request.request.request_id]
            del self._open[request.request.request_id]
        lost = [request for request in dead if request not in again]
        for request in again:
            request.num_retries += 1
            request.num_said = 0
            try:
                self._outputs.put(new_beginning(request, self._send(request)))
            except EngineUnavailableError:
                lost.append(request)
        self._outputs.put(last_outputs(engine.index, lost))
        self._trace.flush()

    def abandon(self, engine: SupervisedEngine) -> None:
        left = list(engine.requests.values())
        for request in left:
            request.aborted = request.aborted or Reason.SHUTDOWN
            del self._open[request.request.request_id]
        engine.requests.clear()
        self._outputs.put(last_outputs(engine.index, left))

    # --- all engines, or a named one: see steering.py ---------------------------------------------

    @property
    def gate(self) -> FleetGate:
        return self.steering.gate

    def set_knobs(self, *, engine: int | None = None, **knobs: Any) -> None:
        """On all engines, and on those that are started later; or on one, until it ends. Raises
        ConfigError, and changes nothing then."""
        self.steering.set_knobs(engine, knobs)

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        """``next`` and ``none`` on all engines, or on one; a numbered step on a named one, since
        each counts its own. Raises ConfigError."""
        self.steering.arm(engine, step)

    def reset_prefix_cache(self, *, engine: int | None = None) -> None:
        self.steering.reset_prefix_cache(engine)
        with self._changed:
            for index in range(len(self._engines)) if engine is None else [engine]:
                self._router.forget(index)

    def _lives(self, engine: int | None) -> list[EngineLife]:
        """Of the engines that live. Raises EngineUnavailableError where there are none."""
        with self._changed:
            lives = self._alive() if engine is None else self._alive([self._engine(engine)])
            if not lives:
                raise why_unavailable(self._engines)
            return lives

    def _alive(self, engines: list[SupervisedEngine] | None = None) -> list[EngineLife]:
        with self._changed:
            chosen = self._engines if engines is None else engines
            alive = [e for e in chosen if e.state in ("ready", "draining", "drained")]
            return [engine.client for engine in alive if engine.client is not None]

    # --- how they are -----------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """The engines are alike; of what may differ (pools sized by memory) the smallest counts, so
        that a request which is let in fits everywhere."""
        with self._changed:
            known = list(self._facts.values())
            smallest = min(facts["num_kv_blocks"] for facts in known)
            return known[0] | self.steering.knobs | {"num_kv_blocks": smallest}

    def check_ready(self) -> None:
        with self._changed:
            self._check_open()
            if all(engine.state != "ready" for engine in self._engines):
                raise why_unavailable(self._engines)

    def engines(self) -> list[EngineStatus]:
        with self._changed:
            return [engine.status() for engine in self._engines]

    # --- drain, resume, restart -------------------------------------------------------------------

    def drain(self, engine: int) -> EngineStatus:
        """Send it no new requests; ``drained`` once those it has are finished. Raises ConfigError
        for a number that no engine has."""
        with self._changed:
            self._engine(engine).drain()
            return self._engine(engine).status()

    def resume(self, engine: int) -> EngineStatus:
        """Send it requests again; calls off a restart that still drains."""
        with self._changed:
            self._engine(engine).resume()
            return self._engine(engine).status()

    def restart(self, engine: int, timeout: float | None = None) -> EngineStatus:
        """Drain it, end it cleanly, start it anew. No request is lost: what it has is finished
        first, and new ones go to the others (with no other they are refused, HTTP 503: the front
        end holds no queue of its own, whose length and patience nobody could see).

        Waits ``timeout`` seconds (0: not at all) until the new life is ready. Raises
        EngineBusyError if it is not by then (it is restarted as soon as it can be, unless
        :meth:`resume` comes first), and where somebody has called it off.
        """
        with self._changed:
            chosen = self._engine(engine)
            epoch = chosen.epoch if chosen.state == "starting" else chosen.epoch + 1
            chosen.restart()
            if timeout == 0:
                return chosen.status()

            def is_settled() -> bool:  # ready in the old epoch: it was resumed
                return self._closed or chosen.state not in ("draining", "starting", "dead")

            settled = self._changed.wait_for(
                lambda: is_settled() and (chosen.state != "drained" or chosen.epoch >= epoch),
                timeout,
            )
            if not settled or chosen.epoch < epoch:
                raise EngineBusyError(
                    f"engine {engine} is not restarted: it is {chosen.state} with "
                    f"{len(chosen.requests)} open requests. It will be once they have ended, "
                    "unless resume calls that off"
                )
            return chosen.status()

    def _engine(self, index: int) -> SupervisedEngine:
        if not 0 <= index < len(self._engines):
            raise ConfigError("engine", index, f"0 to {len(self._engines) - 1}")
        return self._engines[index]

    # --- the end ----------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End all engines after their current step; what is open ends by ``abort``."""
        with self._changed:
            self._closed = True
            for engine in self._engines:
                engine.close()
        for engine in self._engines:
            engine.join()
        self._outputs.put(None)
        atexit.unregister(self.shutdown)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engines were shut down")
