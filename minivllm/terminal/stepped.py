"""A core on a thread of this process that goes on only as its gate lets it: a scenario, or a fork.

Mostly without a model: each request says the tokens that were given or recorded. What is typed may
join it: the words of a prompt are its tokens then, and what it says are placeholders. Where a model
runs the scenario, its tokenizer reads what is typed, and the model answers.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from minivllm.config import STEP_KNOBS
from minivllm.engine.chat_messages import check_surrogates
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.messages import EngineCoreRequest
from minivllm.errors import EngineDeadError, PromptError, PromptTooLongError
from minivllm.replay.fork import ForkRun
from minivllm.replay.recording import read_recording
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import ScenarioRun
from minivllm.terminal.history import History
from minivllm.terminal.steered import LET_BE, Source
from minivllm.terminal.typed import TYPED, TypedAgain, reader_of
from minivllm.trace.events import Event, Reason
from minivllm.trace.file import Trace, decode_event
from minivllm.trace.gate import Gate
from minivllm.trace.recorder import Recorder
from minivllm.trace.words import count, knob_value

Again = Callable[[dict[str, Any]], ScenarioRun]
"""The same scenario from its start, with these knobs."""


class Stepped(Protocol):
    """A ``ScenarioRun``, that with what was typed into it, or a ``ForkRun``."""

    core: EngineCore
    recorder: Recorder

    @property
    def done(self) -> bool: ...
    @property
    def num_requests(self) -> int: ...
    def step(self) -> None: ...


class ScenarioSteps:
    """A :class:`~minivllm.terminal.steered.Source`."""

    news = which = ""

    def __init__(self, run: Stepped, label: str = "NO MODEL", again: Again | None = None) -> None:
        """``again``: makes the run anew, for a fork; else that is made of what it has told."""
        self.run, self.label, self._again = run, label, again
        self.header = run.recorder.log.header
        self.gate = Gate(paused=True)
        self.gate.attach(run.recorder)
        run.recorder.flush()  # a fork's knobs were told, and no step has ended since
        run.core.at_phase = self.gate.pass_phase
        self._reads_typed = reader_of(run)
        self._seq = 0
        self._num_typed = 0
        self._inputs: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._idle = False
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="stepped-core", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        try:
            while not self._closing:
                self._wake.clear()
                while self._inputs:
                    self._inputs.popleft()()
                    self.run.recorder.flush()
                if self.run.done:
                    self._idle = True
                    if not self._inputs:
                        self._wake.wait()
                    continue
                self._idle = False
                if self.gate.may_step(timeout=1.0) and not self._closing:
                    self.run.step()
        except BaseException as error:
            self._error = error
            self.run.recorder.flush()
        finally:
            self.gate.close()

    # --- for the debugger ------------------------------------------------------------------------

    def take(self) -> list[Event]:
        recorder, error = self.run.recorder, self._error
        head = recorder.log.head_seq(recorder.stream)
        lines = recorder.log.lines(recorder.stream, self._seq + 1, head)
        self._seq = head
        if error is not None and not lines:
            raise EngineDeadError(_where(error)) from error
        return [decode_event(line) for line in lines]

    def began_anew(self) -> bool:
        return False

    def is_idle(self) -> bool:
        return self._idle and not self._inputs and self._error is None

    def can_come(self, number: int) -> bool:
        return number <= self.run.num_requests + self._num_typed

    def submit(self, prompt: Any, max_tokens: int, params: Any = None) -> str:
        if not isinstance(prompt, str):
            raise PromptError(f"a prompt is typed here: text, not {type(prompt).__name__}")
        check_surrogates(prompt, "the prompt")
        read = self._reads_typed(prompt)
        if len(read.prompt_token_ids) >= (limit := self.run.core.max_model_len):
            raise PromptTooLongError(
                f"the prompt has {count(len(read.prompt_token_ids), 'token')}, and max_model_len "
                f"is {limit}: no room is left for an answer"
            )
        self._num_typed += 1
        request = EngineCoreRequest(
            # A recording may have some that were typed; its own count is behind theirs.
            request_id=f"{TYPED}{self.run.num_requests + self._num_typed}",
            prompt_token_ids=read.prompt_token_ids,
            eos_token_id=read.eos_token_id,
            sampling_params=params
            or SamplingParams(
                max_tokens=max_tokens, temperature=0.0, ignore_eos=read.eos_token_id is None
            ),
        )
        self._put(lambda: self.run.core.add_request(request))
        return request.request_id

    def abort(self, request_id: str) -> None:
        self._put(lambda: self.run.core.abort_request(request_id, Reason.CLIENT))

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self.run.core.check_knobs(**knobs)
        self._put(lambda: self.run.core.set_knobs(**knobs))

    def fork(self, at_step: int, knobs: dict[str, Any], history: History) -> Source:
        if self._again is None or history.first:  # what was done to it at first is not kept
            return fork_of(history, at_step, knobs)
        again, from_start = self._again, knobs
        if at_step > 1 and all(name in STEP_KNOBS for name in knobs):
            from_start = {}
        run = TypedAgain(again(from_start), history, 1 if from_start else at_step, knobs)
        _run_up(run, at_step)
        if knobs and not from_start:
            run.core.set_knobs(**knobs)
        return ScenarioSteps(run, _label(knobs), lambda more: again({**from_start, **more}))

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self.gate.close()
        self._thread.join()
        self.run.core.executor.shutdown()
        self.run.recorder.close()

    def _put(self, do: Callable[[], Any]) -> None:
        self._inputs.append(do)
        self._wake.set()
        self.gate.wake()


def _where(error: BaseException) -> str:
    """What ended the engine, and the line that raised it: mostly one of the reader's own class."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"the engine has ended: {type(error).__name__}: {error}{place}"


def fork_of(history: History, at_step: int, knobs: dict[str, Any]) -> ScenarioSteps:
    """A recorded run again, with the tokens that it holds; it stands before ``at_step``.

    Raises ReplayError where the recording does not suffice, ConfigError for a knob.
    """
    events = [event for events in history.steps.values() for event in events]
    stream = events[0].stream if events else "engine0"
    recording = read_recording(Trace(history.header, events, history.header.name), stream)
    if any(name not in STEP_KNOBS for name in knobs):
        run = ForkRun(recording, knobs, 1, goes_on=True)
    else:
        run = ForkRun(recording, knobs, max(at_step, 1), goes_on=True)
    _run_up(run, at_step)
    return ScenarioSteps(run, _label(knobs))


def _label(knobs: dict[str, Any]) -> str:
    return " ".join(["FORK", *(f"{name}={knob_value(value)}" for name, value in knobs.items())])


def _run_up(run: Stepped, at_step: int) -> None:
    """To the place before that step, past all ``set_trace`` in the code that runs."""
    LET_BE.add(run.core)
    try:
        while run.core.scheduler.current_step < at_step - 1 and not run.done:
            run.step()
    finally:
        LET_BE.discard(run.core)
