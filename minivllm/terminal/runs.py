"""Where the steps come from: a recorded trace, a scenario on the real scheduler, a live engine.

All three are one thing to the terminal: a history that may grow. Only ``advance`` touches an
engine, and only forward; whoever looks back reads the history.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from minivllm.config import EngineConfig, ModelConfig, make_config
from minivllm.errors import (
    ConfigError,
    EngineDeadError,
    MissingExtraError,
    ScenarioError,
)
from minivllm.executor.base import Executor
from minivllm.scenario import ScenarioRun, load_scenario, shipped_scenarios, start
from minivllm.terminal.history import History
from minivllm.trace.events import Reason
from minivllm.trace.file import decode_event, read_trace
from minivllm.trace.gallery import find_recording, gallery
from minivllm.trace.gate import Gate
from minivllm.trace.life import Way, way_of_req
from minivllm.trace.pick import pick

STREAM = "engine0"
POLL_S = 0.5
STEP_TIMEOUT_S = 600.0
"""A live step that takes longer than this is taken for a hang."""


class Run(Protocol):
    history: History

    def advance(self) -> None:
        """Run one more step, unless the history says that the run has ended."""
        ...

    def way(self, req: str) -> Way | None:
        """The request's hops over all streams, where these are known."""
        ...

    def close(self) -> None: ...


class RecordedRun:
    """A trace file; there is nothing to run."""

    def __init__(self, path: Path, life: int | None = None, engine: int | None = None) -> None:
        """``engine``: which of several; None: the first. ``life``: of an engine that was started
        more than once, which; None: the last.

        Raises TraceError, and ConfigError for an engine or a life that there is not.
        """
        self.trace = read_trace(path)
        picked = pick(self.trace, engine, life)
        header = self.trace.header
        name = ", ".join(filter(None, (header.name or path.name, picked.which)))
        self._place = picked.stream, picked.life
        self.others = picked.others
        """How to see the rest of the trace; empty where this is all."""
        self.history = History(msgspec.structs.replace(header, name=name))
        self.history.extend(picked.trace.events)
        self.history.close()

    def advance(self) -> None:
        pass

    def way(self, req: str) -> Way | None:
        return way_of_req(self.trace, *self._place, req)

    def close(self) -> None:
        pass


class ScenarioSteps:
    """A scenario, one real step of the engine core at a time, on this thread."""

    def __init__(self, run: ScenarioRun) -> None:
        self._run = run
        self._seq = 0
        self.history = History(run.recorder.log.header)
        self._take_in()

    def advance(self) -> None:
        self._run.step()
        self._take_in()

    def way(self, req: str) -> Way | None:
        return None

    def _take_in(self) -> None:
        recorder = self._run.recorder
        recorder.flush()
        lines = recorder.log.lines(recorder.stream, self._seq + 1, recorder.seq)
        self._seq = recorder.seq
        self.history.extend(decode_event(line) for line in lines)
        if self._run.done:
            self.history.close()

    def close(self) -> None:
        self._run.core.executor.shutdown()
        self._run.recorder.close()


class LiveRun:
    """A model behind its gate, in this process: each ``advance`` lets one step pass."""

    def __init__(
        self, prompts: Sequence[str], params: dict[str, Any], engine: dict[str, Any]
    ) -> None:
        """Raises what ``LLM(...)`` raises: ModelError, PromptError, MissingExtraError …"""
        from minivllm.engine.parts import build
        from minivllm.outputs import OutputKind
        from minivllm.sampling_params import SamplingParams

        sampling = SamplingParams(**params)  # wrong ones are told before the model is loaded
        self._gate = Gate(paused=True)
        self._parts = build(make_config(live=True, **engine), gate=self._gate)
        assert self._parts.trace_log is not None  # live=True keeps one
        self._log = self._parts.trace_log
        self._seq = 0
        self._idle = False
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._unsubscribe = self._log.subscribe(lambda stream, lines: self._told.put(stream))
        self.history = History(self._log.header)
        try:
            given = [
                self._parts.inputs.process(f"step-{i}", prompt, sampling)
                for i, prompt in enumerate(prompts, start=1)
            ]
            for processed in given:
                self._parts.outputs.add_request(processed, OutputKind.FINAL_ONLY)
                for sample in processed.samples:
                    self._parts.client.add_request(sample)
        except BaseException:
            self.close()
            raise
        self._take_in()

    def advance(self) -> None:
        before = self.history.last
        self._gate.step()
        while self.history.last == before:
            self._wait()
        self._take_outputs()
        if not self._parts.outputs.num_open:
            while not self._idle:  # an abort may have to be applied yet
                self._wait()
            self.history.close()

    def way(self, req: str) -> Way | None:
        return None

    def _wait(self) -> None:
        try:
            self._told.get(timeout=STEP_TIMEOUT_S)
        except queue.Empty:
            raise EngineDeadError(f"the engine said nothing for {STEP_TIMEOUT_S:g} s") from None
        self._take_in()

    def _take_in(self) -> None:
        head = self._log.head_seq(STREAM)
        events = [decode_event(line) for line in self._log.lines(STREAM, self._seq + 1, head)]
        self._seq = head
        if events:
            self._idle = events[-1].kind == "run.idle"
            self.history.extend(events)

    def _take_outputs(self) -> None:
        """As the front end does: a stop string ends its request, which the core cannot know."""
        last = self.history.last
        got = any(e.kind in ("req.token", "req.finish") for e in self.history.steps[last])
        while got:
            step = self._parts.client.get_output(timeout=POLL_S)
            if step is None:
                continue
            if step.error is not None:
                raise EngineDeadError(step.error)
            processed = self._parts.outputs.process_outputs(step.outputs)
            if processed.to_abort:
                self._parts.client.abort_requests(processed.to_abort, Reason.STOP_STRING)
            got = step.step < last

    def close(self) -> None:
        self._unsubscribe()
        self._parts.tracer.flush()
        self._parts.client.shutdown()


# --- by name -----------------------------------------------------------------------------------


def open_run(
    target: str,
    engine: dict[str, Any],
    with_model: bool = False,
    life: int | None = None,
    number: int | None = None,
) -> Run:
    """A trace by path or gallery name, or a scenario by path or name.

    ``engine`` overrides the scenario's knobs; ``number`` and ``life`` say which engine of a trace,
    and which life of it. Raises ScenarioError,
    TraceError, ConfigError, and with a model what loading one raises.
    """
    trace = find_trace(target)
    if trace is not None:
        if engine or with_model:
            knobs = ", ".join(sorted(engine)) or "a model"
            raise ScenarioError(
                f"{target} is a recording and shows what was; give a scenario "
                f"({', '.join(shipped_scenarios())}) to run one with {knobs}"
            )
        return RecordedRun(trace, life, number)
    for option, value in (("--engine", number), ("--life", life)):
        if value is not None:
            raise ConfigError(option, value, f"only for a recorded trace; {target} is run anew")
    if not target.endswith(".toml") and target not in shipped_scenarios():
        raise ScenarioError(
            f"{target!r} is no file, no scenario ({', '.join(shipped_scenarios())}) "
            f"and no recording ({', '.join(gallery()) or 'none is shipped'})"
        )
    engine = dict(engine)
    path = engine.pop("path", None)
    scenario = load_scenario(target)
    if with_model:
        executor, tokenizer = _model(engine.get("model", ModelConfig().model))
        run = start(scenario, executor=executor, tokenizer=tokenizer, trace_path=path, **engine)
        return ScenarioSteps(run)
    if any(request.needs_model for request in scenario.request):
        raise ScenarioError(
            f"scenario {scenario.name} has prompts without token ids, so it needs a model: "
            "add --with-model"
        )
    return ScenarioSteps(start(scenario, trace_path=path, **engine))


def find_trace(target: str) -> Path | None:
    """The trace file behind a path or a gallery name, if it is one of these.

    A name that is a scenario's as well means the scenario; ``NAME.trace.jsonl`` its recording.
    """
    path = Path(target)
    if path.suffix != ".toml" and path.is_file():
        return path
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return find_recording(target)
    return None if target in shipped_scenarios() else gallery().get(target)


def _model(model: str) -> tuple[Callable[[EngineConfig], Executor], Any]:
    """What makes the model's executor, and its tokenizer. Raises ModelError, MissingExtraError."""
    from minivllm.models.source import resolve

    source = resolve(model)
    try:
        from minivllm.executor.uniproc import UniprocExecutor
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise MissingExtraError(
            f"running a model needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    return UniprocExecutor, get_tokenizer(source)
