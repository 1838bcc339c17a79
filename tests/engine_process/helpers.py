"""A client of an engine's process, with what the tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minivllm.config import make_config
from minivllm.engine.messages import EngineCoreOutput, EngineCoreRequest
from minivllm.engine.mp_client import MPClient
from minivllm.engine.parts import start_log
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Event
from minivllm.trace.file import decode_event
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder
from minivllm.trace.tracer import OFF
from tests.engine_process.scripted import HERE

KNOBS: dict[str, Any] = {
    "num_kv_blocks": 17,
    "block_size": 4,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 8,
    "max_model_len": 64,
    "engine_processes": True,
}
NAMES = {"executor": f"{HERE}:executor", "tokenizer": f"{HERE}:tokenizer"}
PATIENCE = 30.0  # seconds until a test that waits for something gives up


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def request(request_id: str, num_prompt: int = 4, **params: Any) -> EngineCoreRequest:
    given = {"temperature": 0.0, "ignore_eos": True, **params}
    return EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=list(range(num_prompt)),
        sampling_params=SamplingParams(**given),
    )


class Client:
    def __init__(self, *, live: bool = True, names: Any = None, **given: Any) -> None:
        knobs = {name: given.pop(name) for name in list(given) if name not in _OPTIONS}
        config = make_config(**{**KNOBS, "live": live, **knobs})
        self.log: TraceLog | None = start_log(config)
        self.tracer = Recorder(self.log, "api") if self.log is not None else OFF
        self.mp = MPClient(
            config, trace_log=self.log, tracer=self.tracer, **{**NAMES, **(names or {}), **given}
        )
        self.got: list[EngineCoreOutput] = []

    def wait(self, *request_ids: str) -> None:
        """Take outputs until these have ended."""
        deadline = time.monotonic() + PATIENCE
        while not all(self.ended(request_id) for request_id in request_ids):
            assert time.monotonic() < deadline, f"no end; got {self.got}"
            self.take(0.5)

    def take(self, timeout: float) -> None:
        outputs = self.mp.get_output(timeout)
        if outputs is not None:
            self.got += outputs.outputs

    def ended(self, request_id: str) -> str | None:
        reasons = [o.finish_reason for o in self.got if o.request_id == request_id]
        return reasons[-1] if reasons else None

    def said(self, request_id: str) -> list[int]:
        return [t for o in self.got if o.request_id == request_id for t in o.new_token_ids]

    def events(self, stream: str = "engine0") -> list[Event]:
        assert self.log is not None
        self.tracer.flush()
        lines = self.log.lines(stream, 1, self.log.head_seq(stream))
        return [decode_event(line) for line in lines]

    def told(self, kind: str, stream: str = "engine0") -> list[Event]:
        return [event for event in self.events(stream) if event.kind == kind]


_OPTIONS = ("paused", "rate", "lockstep", "index", "epoch", "num_threads")


@contextmanager
def client(**given: Any) -> Iterator[Client]:
    one = Client(**given)
    try:
        one.mp.wait_ready(PATIENCE)
        yield one
    finally:
        one.mp.shutdown()
