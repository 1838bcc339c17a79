"""Engines that a test lets start, speak, stall and die, and a DPClient over them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from minivllm.config import EngineConfig, make_config
from minivllm.core.scheduler_output import TokenLogprobs
from minivllm.engine.backoff import Backoff
from minivllm.engine.capture import ArmedStep
from minivllm.engine.client import EngineStatus
from minivllm.engine.dp_client import DPClient
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    SchedulerStats,
)
from minivllm.engine.supervisor import EngineLife, SupervisorSettings
from minivllm.errors import ConfigError, EngineDeadError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Data, Reason
from minivllm.trace.gate import Gate
from minivllm.trace.tracer import Tracer

BLOCK = 4


def quick(first: float = 0.01, **settings: float) -> SupervisorSettings:
    """A supervisor that is in a hurry to start an engine again."""
    return SupervisorSettings(make_backoff=lambda: Backoff(first, 60), **settings)


QUICK = quick()


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition`` holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.002)


def request(
    request_id: str, prompt: Sequence[int] = (1, 2, 3), max_tokens: int = 8, **fields: Any
) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=list(prompt),
        sampling_params=SamplingParams(max_tokens=max_tokens, **fields.pop("params", {})),
        **fields,
    )


class Events(Tracer):
    """Keeps what it is told, from any thread."""

    on = True

    def __init__(self) -> None:
        self.all: list[Data] = []

    def emit(self, kind: Any, req: str | None, /, *args: Any, **kwargs: Any) -> None:
        self.all.append(kind(*args, **kwargs))

    def of(self, kind: str) -> list[Any]:
        return [event for event in list(self.all) if kind == event.KIND]


class FakeLife:
    """Does what the test says, and nothing else."""

    def __init__(self, index: int, epoch: int) -> None:
        self.index, self.epoch = index, epoch
        self.may_start = threading.Event()
        self.start_error: Exception | None = None
        self.added: list[str] = []
        self.aborted: list[tuple[str, Reason]] = []
        self.gate = Gate()
        self.knobs: dict[str, Any] = {}
        self.armed: list[ArmedStep] = []
        self.num_resets = 0
        self.stalled_s, self.responsive = 0.0, True
        self.refuses: Exception | None = None
        """Raised by ``add_request`` and ``set_knobs``."""
        self.was_shut_down = self.was_killed = False
        self.num_kv_blocks = 65
        self._outputs: queue.SimpleQueue[EngineCoreOutputs | None] = queue.SimpleQueue()
        self._step = 0

    # --- for the test --------------------------------------------------------------------------

    def say(
        self,
        request_id: str,
        *token_ids: int,
        finish: str | None = None,
        prefill: int = 0,
        events: Sequence[tuple[EngineCoreEventType, int]] = (),
    ) -> None:
        output = EngineCoreOutput(
            request_id=request_id,
            new_token_ids=list(token_ids),
            new_logprobs=[TokenLogprobs(token, -0.5, 1) for token in token_ids],
            finish_reason=finish,
            events=[EngineCoreEvent(*event) for event in events],
        )
        self._step += 1
        stats = SchedulerStats(
            engine=self.index,
            step=self._step,
            num_running_reqs=1,
            num_waiting_reqs=0,
            num_skipped_waiting_reqs=0,
            kv_cache_usage=0.5,
            num_prefill_tokens=prefill,
        )
        outputs = [output] if token_ids or finish else []
        self._outputs.put(EngineCoreOutputs(step=self._step, outputs=outputs, stats=stats))

    def die(self, message: str = "killed by the test") -> None:
        self._outputs.put(EngineCoreOutputs(step=-1, error=message))

    # --- EngineLife ----------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None = None) -> None:
        assert self.may_start.wait(timeout), "the test never let it start"
        if self.start_error is not None:
            raise self.start_error

    def add_request(self, request: EngineCoreRequest) -> int:
        if self.refuses is not None:
            raise self.refuses
        self.added.append(request.request_id)
        return self.index

    def abort_requests(self, request_ids: list[str], why: Reason = Reason.CLIENT) -> None:
        self.aborted += [(request_id, why) for request_id in request_ids]

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        try:
            outputs = self._outputs.get(timeout=timeout)
        except queue.Empty:
            return None
        if outputs is None or outputs.error is not None:
            self._outputs.put(outputs)
            raise EngineDeadError(outputs.error if outputs is not None else "ended")
        return outputs

    def set_knobs(self, **knobs: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.knobs |= knobs

    def arm(self, step: ArmedStep = "next", *, engine: int | None = None) -> None:
        self.armed.append(step)

    def reset_prefix_cache(self) -> None:
        self.num_resets += 1

    def facts(self) -> dict[str, Any]:
        return {
            "max_model_len": 256,
            "num_kv_blocks": self.num_kv_blocks,
            "block_size": BLOCK,
            "enable_prefix_caching": True,
            "max_num_seqs": 64,
        }

    def check_ready(self) -> None: ...

    def engines(self) -> list[EngineStatus]:
        return [
            EngineStatus(
                engine=self.index,
                state="ready",
                pid=100 + self.index,
                stalled_s=self.stalled_s,
                responsive=self.responsive,
            )
        ]

    def kill(self) -> None:
        self.was_killed = True
        self.die("killed")

    def shutdown(self) -> None:
        self.was_shut_down = True
        self.may_start.set()
        self._outputs.put(None)


class Fleet:
    """A DPClient over FakeLifes. ``fleet[0]`` is the newest life of engine 0."""

    def __init__(
        self,
        n: int = 2,
        policy: str = "round_robin",
        *,
        hold_starts_from: int = 2**31,
        settings: SupervisorSettings = QUICK,
        prepare: Callable[[FakeLife], None] = lambda life: None,
    ) -> None:
        """``hold_starts_from``: lives of this epoch and later start when the test says so."""
        self.lives: list[FakeLife] = []
        self.events = Events()
        self._hold_from, self._prepare = hold_starts_from, prepare
        self.client = DPClient(self._make, n, policy, self.events, settings)

    def _make(self, index: int, epoch: int) -> EngineLife:
        life = FakeLife(index, epoch)
        self._prepare(life)
        if epoch < self._hold_from:
            life.may_start.set()
        self.lives.append(life)
        return life

    def __getitem__(self, index: int) -> FakeLife:
        return [life for life in list(self.lives) if life.index == index][-1]

    def life(self, index: int, epoch: int) -> FakeLife:
        """Waits until there is one."""
        eventually(lambda: self[index].epoch >= epoch)
        return next(e for e in self.lives if (e.index, e.epoch) == (index, epoch))

    def states(self) -> list[str]:
        return [status.state for status in self.client.engines()]

    def wait_states(self, *states: str) -> None:
        eventually(lambda: self.states() == list(states))

    def next(self) -> EngineCoreOutput:
        """The next output of a request."""
        while True:
            outputs = self.client.get_output(timeout=10)
            assert outputs is not None, "no output came"
            said = [output for output in outputs.outputs if not output.begins_anew]
            if said:
                assert len(said) == 1
                return said[0]


class ThreadLife(InprocClient):
    """A real core and scheduler on a thread, that can be killed as a process can: from then on
    nothing comes out of it."""

    def __init__(self, index: int, config: EngineConfig, next_token: Any = None) -> None:
        executor = ScriptedExecutor(config, next_token or (lambda req, i: 1000 + i))
        self.index = index
        self._killed = threading.Event()
        super().__init__(EngineCore(config, executor))

    def wait_ready(self, timeout: float | None = None) -> None: ...

    def kill(self) -> None:
        self._killed.set()

    def add_request(self, request: EngineCoreRequest) -> int:
        if not self._killed.is_set():
            super().add_request(request)
        return self.index

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs | None:
        outputs = super().get_output(timeout)
        if self._killed.is_set():
            raise EngineDeadError("killed")
        return outputs


def thread_config(**flat: Any) -> EngineConfig:
    return make_config(**{"block_size": BLOCK, "num_kv_blocks": 65, "max_model_len": 256} | flat)


def no_knob() -> ConfigError:
    return ConfigError("max_num_seqs", 0, "1 or more")
