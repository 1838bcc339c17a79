"""SupervisedEngine: one of several engines, life after life.

    starting ──► ready ◄──resume── draining ──► drained
       ▲           │  ──drain──►       │           │
       │           ▼                   ▼           │ restart: a clean end
       └─back-off─ dead ◄──────────────┴───────────┴──► starting, the next epoch

One thread an engine does all of it in turn: it starts a life (``make_client``), reads that one's
outputs until it dies or is to end, buries it, waits, starts the next. Whoever steers only says what
is wanted; what happens to the requests of a dead engine is decided in ``dp_client.py``.

Counterpart in vLLM: none; there, a dead engine ends the server, and its orchestrator starts it anew
(``EngineDeadError``, and the watch thread of ``MPClient`` in ``vllm/v1/engine/core_client.py``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from minivllm.engine.backoff import Backoff
from minivllm.engine.client import EngineCoreClient, EngineState, EngineStatus
from minivllm.engine.messages import EngineCoreOutputs
from minivllm.engine.router import OpenRequest
from minivllm.engine.stall import StallWatch
from minivllm.errors import EngineDeadError, EngineUnavailableError
from minivllm.trace.events import EngineDrain, EngineReady, EngineResume, EngineStart, EngineWhy
from minivllm.trace.tracer import Tracer

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often an engine's thread looks up from its outputs: whether it is to end, or stalls."""


class EngineLife(EngineCoreClient, Protocol):
    """One life of an engine: an ``MPClient``."""

    def wait_ready(self, timeout: float | None = None) -> object:
        """Raises what the engine's start failed with, or EngineDeadError."""
        ...

    def reset_prefix_cache(self) -> None: ...

    def kill(self) -> None:
        """End it at once, whatever it does; ``get_output`` then raises EngineDeadError."""
        ...


MakeClient = Callable[[int, int], EngineLife]
"""(engine's number, epoch) → a new life of it, which is being started."""


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    stall_timeout: float = 15.0
    """Seconds without a sign of life after which an engine is killed; 0: never. See stall.py."""
    step_timeout: float = 600.0
    """Seconds that one step may take, likewise."""
    start_timeout: float = 600.0
    """Seconds; a model that has not loaded by then never will."""
    make_backoff: Callable[[], Backoff] = Backoff


class Owner(Protocol):
    """What a supervised engine asks of its DPClient. All else is called under the lock."""

    def take(self, engine: SupervisedEngine, outputs: EngineCoreOutputs) -> None: ...
    def joining(self, life: EngineLife) -> AbstractContextManager[None]:
        """It has started; within this it is made as its fellows are. Not under the lock."""
        ...

    def prepare(self, engine: SupervisedEngine, facts: dict[str, Any]) -> None:
        """It will be ready at once."""
        ...

    def bury(self, engine: SupervisedEngine, message: str, stalled: bool) -> None:
        """It is dead; see to its requests, and tell. ``stalled``: it was killed since it stood
        still."""
        ...

    def abandon(self, engine: SupervisedEngine) -> None:
        """All is shut down; end what it has open."""
        ...


class SupervisedEngine:
    """Number ``index``. Everything is read and written under ``changed``, which all engines and
    their DPClient share; only the calls that take time are made without it."""

    def __init__(
        self,
        index: int,
        make_client: MakeClient,
        owner: Owner,
        changed: threading.Condition,
        tracer: Tracer,
        settings: SupervisorSettings,
    ) -> None:
        self.index = index
        self.epoch = 0
        self.state: EngineState = "starting"
        self.client: EngineLife | None = None
        self.requests: dict[str, OpenRequest] = {}
        """Those it has, in the order in which they were sent."""
        self.start_error: Exception | None = None
        """Why its very first start failed: nothing is tried again then."""
        self._wish: Literal["serve", "drain", "restart"] = "serve"
        self._hurry = False  # a restart was asked for while it waits for its next start
        self._closing = False
        self._message = ""
        self._pid: int | None = None
        self._stalled_s, self._responsive = 0.0, True
        self._was_stalled = False  # killed for it, in the life that just ends
        self._make_client, self._owner, self._changed = make_client, owner, changed
        self._trace, self._settings = tracer, settings
        self._backoff = settings.make_backoff()
        self._thread = threading.Thread(target=self._run, name=f"engine{index}", daemon=True)
        self._thread.start()

    # --- for whoever steers, under the lock -------------------------------------------------------

    @property
    def is_responsive(self) -> bool:
        return self._responsive

    def status(self) -> EngineStatus:
        return EngineStatus(
            engine=self.index,
            state=self.state,
            epoch=self.epoch,
            pid=self._pid,
            open_requests=len(self.requests),
            stalled_s=self._stalled_s,
            responsive=self._responsive,
            message=self._message,
        )

    def drain(self) -> None:
        """No new requests from now on, nor after a death; what it has is finished."""
        self._wish = "drain"
        if self.state == "ready":
            self.state = "draining"
            self._trace.emit(
                EngineDrain,
                None,
                engine=self.index,
                epoch=self.epoch,
                open_requests=len(self.requests),
            )
            self._trace.flush()
        self.settle()

    def resume(self) -> None:
        """Take new requests again; calls off a restart that has not begun."""
        self._wish = "serve"
        if self.state in ("draining", "drained"):
            self.state = "ready"
            self._trace.emit(EngineResume, None, engine=self.index, epoch=self.epoch)
            self._trace.flush()
        self._changed.notify_all()

    def restart(self) -> None:
        """Drain, end cleanly, start the next epoch. One that is dead is started at once."""
        if self.state == "starting":
            self._wish = "serve"
            return
        if self.state == "dead":
            self._wish, self._hurry = "serve", True
            self._changed.notify_all()
            return
        self.drain()
        self._wish = "restart"

    def settle(self) -> None:
        """A request of it has ended, or it was told to drain."""
        if self.state == "draining" and not self.requests:
            self.state = "drained"
        self._changed.notify_all()

    def close(self) -> None:
        self._closing = True
        self._changed.notify_all()

    def join(self) -> None:
        with self._changed:
            starting = self.client if self.state == "starting" else None
        if starting is not None:
            starting.shutdown()  # its thread waits for it to become ready
        self._thread.join()

    # --- on the engine's own thread ---------------------------------------------------------------

    def _run(self) -> None:
        why = EngineWhy.SERVER_START
        while not self._closing:
            client = self._start(why)
            if client is None and (self.epoch == 1 or self._closing):
                return  # a wrong configuration: the caller is told
            died = ""
            if client is not None:
                died = self._read_until_it_ends(client)
                if self._closing:
                    self._end(client)
                    return
                if died:
                    self._bury(died)
                with contextlib.suppress(Exception):  # its process and its sockets
                    client.shutdown()
            why = self._wait_for_next_start() if died or client is None else EngineWhy.ADMIN

    def _start(self, why: EngineWhy) -> EngineLife | None:
        began = time.perf_counter_ns()
        with self._changed:
            self.epoch += 1
            self.state, self.client, self._pid = "starting", None, None
            self._changed.notify_all()
        client: EngineLife | None = None
        try:
            client = self._make_client(self.index, self.epoch)
            with self._changed:
                self.client = client
                if self._closing:
                    raise EngineDeadError("the engine was shut down")
            self._pid = client.engines()[0].pid
            pid, epoch = self._pid or 0, self.epoch
            self._trace.emit(EngineStart, None, engine=self.index, epoch=epoch, pid=pid, why=why)
            self._trace.flush()
            client.wait_ready(self._settings.start_timeout)
            with self._owner.joining(client), self._changed:
                facts = client.facts()
                self._owner.prepare(self, facts)
                self._begin_to_serve(facts, time.perf_counter_ns() - began)
            return client
        except Exception as error:
            if client is not None:
                with contextlib.suppress(Exception):
                    client.kill()
                    client.shutdown()
            self._could_not_start(error)
            return None

    def _begin_to_serve(self, facts: dict[str, Any], took_ns: int) -> None:
        self._trace.emit(
            EngineReady,
            None,
            engine=self.index,
            epoch=self.epoch,
            num_kv_blocks=facts["num_kv_blocks"],
            ns=took_ns,
        )
        self._trace.flush()
        self._backoff.is_up()
        self._message, self._stalled_s, self._responsive = "", 0.0, True
        self.state = "ready"
        if self._wish == "drain":  # who was told to drain stays so, even if death came in between
            self.drain()
        else:
            self._wish = "serve"
        self._changed.notify_all()

    def _could_not_start(self, error: Exception) -> None:
        with self._changed:
            self.state, self.client, self._pid = "dead", None, None
            self._message = f"could not be started: {type(error).__name__}: {error}"
            if self.epoch == 1:
                self.start_error = error
            self._changed.notify_all()

    def _read_until_it_ends(self, client: EngineLife) -> str:
        """Hand on its outputs. Returns why it died; nothing if it is to be ended."""
        stalled = ""
        self._was_stalled = False
        watch = StallWatch(self._settings.stall_timeout, self._settings.step_timeout)
        while not self._closing:
            try:
                outputs = client.get_output(timeout=POLL_S)
                if outputs is not None and outputs.error is not None:
                    raise EngineDeadError(outputs.error)
                if outputs is not None:
                    self._stalled_s, self._responsive = 0.0, True
                    self._owner.take(self, outputs)
                else:
                    stalled = stalled or self._kill_if_stalled(client, watch)
            except EngineDeadError as error:
                return stalled or str(error) or "it has ended"
            except Exception as error:  # what it says cannot be read: it is no use any more
                logger.exception("engine %d: its outputs cannot be read", self.index)
                client.kill()
                return f"its outputs cannot be read ({type(error).__name__})"
            with self._changed:
                if self._wish == "restart" and self.state == "drained":
                    self.state = "starting"  # before the lock is gone: nobody resumes it now
                    return ""
        return ""

    def _kill_if_stalled(self, client: EngineLife, watch: StallWatch) -> str:
        status = client.engines()[0]
        self._stalled_s, self._responsive = status.stalled_s, status.responsive
        why = watch.why_end_it(status)
        if why:
            self._was_stalled = True
            client.kill()
        return why

    def _bury(self, message: str) -> None:
        logger.error("engine %d has died: %s", self.index, message)
        with self._changed:
            self.state, self.client, self._message = "dead", None, message
            self._pid, self._stalled_s, self._responsive = None, 0.0, True
            if self._wish == "restart":
                self._wish = "serve"  # death was quicker; the next life is the restart
            self._owner.bury(self, message, self._was_stalled)
            self._changed.notify_all()

    def _wait_for_next_start(self) -> EngineWhy:
        with self._changed:
            delay = self._backoff.next_delay()
            logger.warning("engine %d: %s; next start in %g s", self.index, self._message, delay)
            self._message += f" (next start in {delay:g} s)"
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or self._hurry, timeout=delay)
            hurried, self._hurry = self._hurry, False
            return EngineWhy.ADMIN if hurried else EngineWhy.DEATH

    def _end(self, client: EngineLife) -> None:
        """The whole server ends: what it still says is heard, then what is open is given up."""
        with contextlib.suppress(Exception):
            client.shutdown()
            while (outputs := client.get_output(timeout=0)) is not None:
                self._owner.take(self, outputs)
        with self._changed:
            self.state, self.client, self._pid = "dead", None, None
            self._message = "the engine was shut down"
            self._owner.abandon(self)
            self._changed.notify_all()


def why_unavailable(engines: list[SupervisedEngine]) -> EngineUnavailableError:
    states = ", ".join(f"engine {engine.index} is {engine.state}" for engine in engines)
    return EngineUnavailableError(f"no engine takes requests at the moment: {states}")
