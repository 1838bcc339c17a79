"""A live engine without a model: the real scheduler, pool, gate and recorder; words as tokens."""

from __future__ import annotations

import itertools
import re
from typing import Any

from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import EngineCoreRequest
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.sampling_params import SamplingParams
from minivllm.trace.events import Header
from minivllm.trace.gate import Gate
from minivllm.trace.log import TraceLog
from minivllm.trace.recorder import Recorder

KNOBS = {
    "num_kv_blocks": 65,
    "block_size": 4,
    "max_num_batched_tokens": 32,
    "max_num_seqs": 8,
    "max_model_len": 256,
}
SAYS = [
    "I",
    "say",
    "what",
    "I",
    "was",
    "told",
    "to",
    "say",
    "<b>not",
    "markup</b>",
    "你好",
    "🙂",
    ".",
]


class ScriptedEngine:
    """What ``BoardApp.attach_engine`` takes. Every request answers with ``SAYS``."""

    def __init__(self, run_id: str = "scripted-1", paused: bool = False, **knobs: int) -> None:
        self._words: list[str] = []
        self._ids = itertools.count(1)
        config = make_config(**dict[str, Any](KNOBS | knobs))
        header = Header(run_id=run_id, created="", engine_version="test", model="none")
        self.log = TraceLog(header)
        self.gate = Gate(paused=paused)
        recorder = Recorder(self.log, token_text=lambda token_id, _: self._words[token_id])
        said = [self._id(" " + word) for word in SAYS]
        executor = ScriptedExecutor(config, lambda req, index: said[index % len(said)])
        self.client = InprocClient(EngineCore(config, executor, recorder), self.gate)

    def _id(self, word: str) -> int:
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word)

    def submit(self, prompt: str, max_tokens: int = len(SAYS)) -> str:
        request_id = f"page-{next(self._ids)}"
        self.client.add_request(
            EngineCoreRequest(
                request_id=request_id,
                prompt_token_ids=[self._id(piece) for piece in re.findall(r"\s*\S+", prompt)],
                sampling_params=SamplingParams(max_tokens=max_tokens, ignore_eos=True),
            )
        )
        return request_id

    def run_workload(self, name: str) -> list[str]:
        shared = "You are a kind and patient teacher . Question :"
        return [self.submit(f"{shared} number {i} ?") for i in range(1, 9)]

    def set_knobs(self, knobs: dict[str, Any]) -> None:
        self.client.set_knobs(**knobs)

    def arm(self, step: Any, engine: int | None = None) -> None:
        self.client.arm(step, engine=engine)

    def close(self) -> None:
        self.client.shutdown()
