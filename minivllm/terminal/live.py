"""A live engine in this process, its gate closed: each verb lets it go so far.

The prompts go in by the front end's rooms, and its outputs are read on a thread of their own, as
they would be in ``LLM.generate``: a stop string ends its request before the next step begins.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from minivllm.engine.parts import Parts
from minivllm.errors import ConfigError, EngineDeadError, MiniVLLMError
from minivllm.outputs import OutputKind, RequestOutput
from minivllm.sampling_params import SamplingParams
from minivllm.terminal.history import History
from minivllm.terminal.steered import Source
from minivllm.terminal.stepped import fork_of
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import decode_event

POLL_S = 0.1
STREAM = "engine0"


class LiveEngine:
    """A :class:`~minivllm.terminal.steered.Source`: an engine, from its front end's parts."""

    label = "LIVE"
    news = which = ""

    def __init__(
        self,
        parts: Parts,
        *,
        turn: threading.Lock | None = None,
        params: dict[str, Any] | None = None,
        owned: bool = True,
    ) -> None:
        """``turn``: held by whoever reads the outputs, where others may, too. ``params``: of the
        prompts that are typed. ``owned``: the engine ends with this; else it only runs on.

        Raises ConfigError for an engine that is not traced.
        """
        if parts.trace_log is None:
            raise ConfigError(
                "live", False, "True (or trace=FILE): a debugger shows what the trace tells"
            )
        self._parts, self._log, self._owned = parts, parts.trace_log, owned
        self._params = {"temperature": 0.0, **(params or {})}
        self._turn = turn or threading.Lock()
        self._lock = threading.Lock()  # the output processor is used by two threads here
        self.header = self._log.header
        self.gate = parts.client.gate
        self._was_running = self.gate.mode == "run"
        self.gate.pause()
        self._seq = 0
        self._idle = True
        self._sent = 0
        self._arrived = 0
        self._ids = itertools.count(1)
        self.outputs: dict[str, RequestOutput] = {}
        """Of the requests that were sent from here and have ended, by their ids."""
        self._death: str | None = None
        self._closing = threading.Event()
        self._new = threading.Event()
        self._reader = threading.Thread(target=self._read_outputs, name="outputs", daemon=True)
        self._reader.start()

    def take(self) -> list[Event]:
        head = self._log.head_seq(STREAM)
        events = [decode_event(line) for line in self._log.lines(STREAM, self._seq + 1, head)]
        self._seq = max(head, self._seq)
        if events:
            self._idle = events[-1].kind in ("run.idle", "run.end")
            self._arrived += sum(event.kind == "req.arrive" for event in events)
        elif self._death is not None:
            raise EngineDeadError(self._death)
        return events

    def began_anew(self) -> bool:
        return False

    def is_idle(self) -> bool:
        return self._idle and self._arrived >= self._sent and self._death is None

    def can_come(self, number: int) -> bool:
        return not self._owned or number <= self._sent

    def submit(self, prompt: Any, max_tokens: int | None = None, params: Any = None) -> str:
        if params is not None:
            return self.send(prompt, params)
        given = self._params if max_tokens is None else {**self._params, "max_tokens": max_tokens}
        return self.send(prompt, SamplingParams(**given))

    def send(self, prompt: Any, params: SamplingParams) -> str:
        """Raises PromptError, SamplingParamsError."""
        name = f"step-{next(self._ids)}"
        processed = self._parts.inputs.process(name, prompt, params)
        with self._lock:
            self._parts.outputs.add_request(processed, OutputKind.FINAL_ONLY)
        for sample in processed.samples:
            self._sent += 1
            self._parts.client.add_request(sample)
        self._new.set()
        return name

    def abort(self, request_id: str) -> None:
        with self._lock:
            _, ids = self._parts.outputs.abort_requests([request_id])
        self._parts.client.abort_requests(ids or [request_id], Reason.CLIENT)

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self._parts.client.set_knobs(**knobs)

    def fork(self, at_step: int, knobs: dict[str, Any], history: History) -> Source:
        return fork_of(history, at_step, knobs)

    def close(self) -> None:
        self._closing.set()
        self._new.set()
        if self._owned:
            self._parts.tracer.flush()
            self._parts.client.shutdown()
        else:
            try:
                (self.gate.resume if self._was_running else self.gate.pause)()
            except MiniVLLMError:
                pass  # it has ended meanwhile
        if self._owned or self._was_running:  # what was sent from here runs to its end
            self._reader.join()

    # --- on the reader's thread ------------------------------------------------------------------

    def _read_outputs(self) -> None:
        """Whenever something was sent, until all of it has ended; with the turn, if others read."""
        while not self._closing.is_set():
            self._new.wait()
            self._new.clear()
            with self._turn:
                try:
                    self._read_until_done()
                except MiniVLLMError as error:
                    self._death = str(error)
                    return

    def _read_until_done(self) -> None:
        outputs, client = self._parts.outputs, self._parts.client
        while outputs.num_open and not (self._closing.is_set() and self._owned):
            step = client.get_output(timeout=POLL_S)
            if step is None:
                continue
            if step.error is not None:
                raise EngineDeadError(step.error)
            with self._lock:
                processed = outputs.process_outputs(step.outputs)
            if processed.to_abort:
                client.abort_requests(processed.to_abort, Reason.STOP_STRING)
            for output in processed.request_outputs:
                self.outputs[output.request_id] = output
        # The core waits for its reader before each step: the last word is that all was taken.
        if not self._closing.is_set():
            client.get_output(timeout=0.01)


def live_engine(
    prompts: Sequence[str], params: dict[str, Any], engine: dict[str, Any]
) -> LiveEngine:
    """A model of its own, with these prompts before its gate. Raises what ``LLM(...)`` raises."""
    from minivllm.config import make_config
    from minivllm.engine.parts import build
    from minivllm.trace.gate import Gate

    SamplingParams(**params)  # wrong ones are told before the model is loaded
    config = make_config(live=True, **engine)
    source = LiveEngine(build(config, gate=Gate(paused=True), lockstep=True), params=params)
    try:
        for prompt in prompts:
            source.submit(prompt)
    except BaseException:
        source.close()
        raise
    return source
