"""AsyncLLM: the entry for a server. Requests come and go at any time, outputs flow as they come.

One output thread reads the core's steps and puts each request's news into its mailbox. Callers
are tasks of an asyncio loop (:meth:`AsyncLLM.generate`) or plain threads such as Flask's
(:meth:`AsyncLLM.stream`); an asyncio loop is woken once a step, however many of its requests
that step served. Whoever stops reading ends the request: the core is told to abort it.

    caller ── process ──► client.add_request ──►  core
       ▲                                           │
    mailbox ◄── output thread ◄── client.get_output ┘

Counterpart in vLLM: ``vllm/v1/engine/async_llm.py``, where the output handler is a task of the
one loop. Left out: pause and resume, LoRA, profiling, elastic scaling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec.structs import replace

from minivllm.config import EngineConfig, make_config
from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineCoreClient, EngineStatus
from minivllm.engine.input_processor import ProcessedInput, Prompt, TokenizerLike
from minivllm.engine.mailbox import Mailboxes, OutputMailbox, OutputStream
from minivllm.engine.messages import EngineCoreOutputs, SchedulerStats
from minivllm.engine.parts import Parts, build, join
from minivllm.engine.queue_limit import QueueLimit
from minivllm.engine.stats import IterationStats, StatLogger
from minivllm.errors import EngineDeadError, MiniVLLMError
from minivllm.outputs import OutputKind, RequestOutput
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Reason
from minivllm.trace.gate import Gate
from minivllm.trace.gate_control import GateControl
from minivllm.trace.tracer import OFF, Tracer

logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often the output thread looks whether it should end, in seconds. It sets no pace: an
output that is there is taken at once."""


class AsyncLLM:
    """An engine for many callers at once. All methods may be called from any thread."""

    def __init__(
        self, config: EngineConfig | None = None, *, gate: Gate | None = None, **engine_args: Any
    ) -> None:
        """Start the engine from a configuration, flat arguments as ``LLM`` takes them, or both.

        ``gate``: how it begins, paused or slow. Steer by ``llm.gate``: an engine in a process of
        its own has another.
        """
        self._start(build(make_config(config, **engine_args), gate=gate))

    @classmethod
    def from_parts(
        cls, client: EngineCoreClient, tokenizer: TokenizerLike, tracer: Tracer = OFF
    ) -> AsyncLLM:
        """An AsyncLLM around an engine that runs already, or around a scripted one."""
        llm = cls.__new__(cls)
        llm._start(join(client, tokenizer, tracer))
        return llm

    def _start(self, parts: Parts) -> None:
        self.client = parts.client
        self.tokenizer = parts.tokenizer
        self.tracer = parts.tracer
        self.trace_log = parts.trace_log
        self.max_model_len = parts.inputs.max_model_len
        self._inputs, self._outputs = parts.inputs, parts.outputs
        self._stats = parts.stats
        # Guards the output processor, the mailboxes, and the order in which the core is told: an
        # abort must not overtake its request, nor reach the next one of the same name.
        self._lock = threading.Lock()
        self._mailboxes = Mailboxes()
        self.queue = QueueLimit(seats=parts.client.facts().get("max_num_seqs", 0))
        self._death: EngineDeadError | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_outputs, name="outputs", daemon=True)
        self._thread.start()

    @property
    def gate(self) -> GateControl:
        """By which the engine is paused, stepped and slowed down."""
        return self.client.gate

    def set_knobs(self, **knobs: Any) -> None:
        """Change knobs of the scheduler (``config.STEP_KNOBS``) from the next step on.

        Raises ConfigError, and changes nothing then.
        """
        self.client.set_knobs(**knobs)

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        """Capture the arrays of one step to come (attention weights, K and V), whatever the trace
        level; they are then in ``trace_log.artifacts``. Raises ConfigError."""
        self.client.arm(step, engine=engine)

    def add_stat_logger(self, listener: StatLogger) -> None:
        """From now on ``listener`` hears of every step; see :class:`StatLogger`."""
        self._stats.add(listener)

    def stats(self) -> dict[int, SchedulerStats]:
        """How each engine stood when it last said so."""
        return self._stats.newest()

    # --- for callers -----------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str | None = None,
        *,
        kind: OutputKind = OutputKind.CUMULATIVE,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Yield outputs until the request has finished; closing or cancelling this aborts it.

        Raises what :meth:`InputProcessor.process` raises, DuplicateRequestError,
        EngineUnavailableError while no engine takes requests, and EngineDeadError when the last
        one dies on the way.
        """
        loop = asyncio.get_running_loop()
        _, mailbox = self._submit(
            [prompt], sampling_params, request_id, kind, priority, cache_salt, loop
        )
        try:
            while not mailbox.done:
                await mailbox.wait_async()
                for output in mailbox.take():
                    yield output
        finally:  # CancelledError and GeneratorExit too; after the end nothing is open
            self.abort(mailbox.open_ids())

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str | None = None,
        *,
        kind: OutputKind = OutputKind.DELTA,
        priority: int = 0,
        cache_salt: str | None = None,
        tick_s: float | None = None,
    ) -> OutputStream:
        """As :meth:`generate`, for a thread: an iterator that must be closed (or finished).

        The prompt is checked and sent before this returns, not at the first ``next()``. With
        ``tick_s`` the iterator yields None whenever nothing has come for so many seconds, so
        that its reader can see whether anybody still listens.
        """
        names, mailbox = self._submit(
            [prompt], sampling_params, request_id, kind, priority, cache_salt, loop=None
        )
        return OutputStream(names, mailbox, self.abort, tick_s)

    def stream_many(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams,
        request_id: str | None = None,
        *,
        kind: OutputKind = OutputKind.DELTA,
        priority: int = 0,
        cache_salt: str | None = None,
        tick_s: float | None = None,
    ) -> OutputStream:
        """One stream of several requests, named ``{request_id}-{i}``; all are checked first."""
        names, mailbox = self._submit(
            prompts, sampling_params, request_id, kind, priority, cache_salt, loop=None
        )
        return OutputStream(names, mailbox, self.abort, tick_s)

    def check(
        self, prompts: Sequence[Prompt], sampling_params: SamplingParams, request_id: str
    ) -> list[ProcessedInput]:
        """Tokenise and check as :meth:`stream_many` does, and send nothing."""
        return self._process(prompts, sampling_params, request_id)[1]

    def abort(self, request_ids: Sequence[str], why: Reason = Reason.CLIENT) -> None:
        """End these requests; who reads one of them gets its last output, with ``abort``.

        Ids that are unknown or finished are ignored.
        """
        iteration = IterationStats()
        with self._lock:
            last, core_ids = self._outputs.abort_requests(request_ids, iteration)
            self._mailboxes.post(last)
            for request_id in request_ids:
                self._mailboxes.forget(request_id)
            self.queue.ended(core_ids)
            if core_ids:
                with contextlib.suppress(MiniVLLMError):  # a dead engine has nothing to abort
                    self.client.abort_requests(core_ids, why)
        self._stats.record(None, iteration)

    @property
    def num_open(self) -> int:
        """Requests that have not finished."""
        with self._lock:
            return self._outputs.num_open

    def engines(self) -> list[EngineStatus]:
        """How each engine does, in order of their numbers."""
        return self.client.engines()

    @property
    def is_dead(self) -> bool:
        """Nothing runs here, and nothing ever will again."""
        return self._death is not None

    def check_health(self) -> None:
        """Raises EngineDeadError once the last engine has died for good, or was shut down."""
        if self._death is not None:
            raise EngineDeadError(str(self._death)) from self._death

    def check_ready(self) -> None:
        """Raises EngineUnavailableError while no engine takes requests, EngineDeadError once none
        ever will."""
        self.check_health()
        self.client.check_ready()

    async def shutdown(self) -> None:
        """Abort what is open and end the engine."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """:meth:`shutdown` for a thread. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            open_ids = self._outputs.open_ids()
        self.abort(open_ids, Reason.SHUTDOWN)
        self._die(EngineDeadError("the engine was shut down"))
        self.tracer.flush()
        self.client.shutdown()
        self._thread.join()
        if self.trace_log is not None:
            self.tracer.flush()
            self.trace_log.close()

    # --- on the way in ---------------------------------------------------------------------------

    def _submit(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams,
        request_id: str | None,
        kind: OutputKind,
        priority: int,
        cache_salt: str | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> tuple[list[str], OutputMailbox]:
        """Check all prompts, then send them; on any error nothing stays behind."""
        self.check_ready()
        with self._lock:
            self._check_queue()  # before a prompt is tokenised in vain
        names, inputs = self._process(
            prompts,
            sampling_params,
            request_id or uuid.uuid4().hex,
            priority=priority,
            cache_salt=cache_salt,
        )
        mailbox = OutputMailbox(kind, set(names), loop)
        added: list[str] = []
        try:
            for given in inputs:
                with self._lock:
                    self.check_health()  # or nobody would end a request that came after the death
                    if not added:
                        self._check_queue()
                    self._outputs.add_request(given, kind)
                    self._mailboxes.add(given.request_id, mailbox)
                    added.append(given.request_id)
                    for sample in given.samples:
                        self.queue.sent(sample.request_id)
                        final_only = kind is OutputKind.FINAL_ONLY
                        engine = self.client.add_request(replace(sample, final_only=final_only))
                        self._outputs.sent_to(sample.request_id, engine)
        except BaseException:
            self.abort(added)
            raise
        return names, mailbox

    def _process(
        self, prompts: Sequence[Prompt], params: SamplingParams, name: str, **order: Any
    ) -> tuple[list[str], list[ProcessedInput]]:
        names = [name] if len(prompts) == 1 else [f"{name}-{i}" for i in range(len(prompts))]
        process = self._inputs.process
        return names, [process(names[i], p, params, **order) for i, p in enumerate(prompts)]

    def _check_queue(self) -> None:
        """Raises QueueFullError. Holds the lock."""
        if self.queue.limit is not None:
            ready = [status.engine for status in self.client.engines() if status.state == "ready"]
            self.queue.check(ready)

    # --- on the way out, on the output thread ----------------------------------------------------

    def _read_outputs(self) -> None:
        try:
            while not self._closing.is_set():
                step = self.client.get_output(timeout=POLL_S)
                if step is None:
                    continue
                if step.error is not None:
                    raise EngineDeadError(step.error)
                self._deliver(step)
        except EngineDeadError as error:
            self._die(error)
        except Exception as error:
            logger.exception("the output thread failed")
            self._die(EngineDeadError(f"the output thread failed: {type(error).__name__}"))
        self._stats.engines_ended()  # whoever ends this thread: nothing runs behind it

    def _deliver(self, step: EngineCoreOutputs) -> None:
        iteration = IterationStats.of(step)
        with self._lock:
            if step.stats is not None:
                self.queue.told(step.stats)
            self.queue.ended(o.request_id for o in step.outputs if o.finish_reason is not None)
            processed = self._outputs.process_outputs(step.outputs, iteration)
            for output in processed.request_outputs:
                output.engine = step.engine
            self._mailboxes.post(processed.request_outputs)
            self.queue.ended(processed.to_abort)
            if processed.to_abort:
                self.client.abort_requests(processed.to_abort, Reason.STOP_STRING)
        self._stats.record(step.stats, iteration)
        self.tracer.flush()

    def _die(self, death: EngineDeadError) -> None:
        """End every open request with the error; nobody waits on a dead engine."""
        iteration = IterationStats()
        with self._lock:
            if self._death is None:
                self._death = death
            open_ids = self._outputs.open_ids()
            self._outputs.abort_requests(open_ids, iteration, finish_reason="error")
            self.queue.all_ended()
            self._mailboxes.end_all(lambda: EngineDeadError(str(death)))
        self._stats.record(None, iteration)
