"""``minivllm`` with an engine that needs no model: ``python -m tests.load.scripted serve ...``.

It says the letters from a to z over and over, one token each, so that a text's length is its number
of tokens. A step takes MINIVLLM_TEST_STEP_S seconds.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine import async_llm
from minivllm.executor.scripted import ScriptedExecutor
from tests.serve.fakes import FakeTokenizer


def letters(req_id: str, index: int) -> int:
    return ord("a") + index % 26


class SlowExecutor(ScriptedExecutor):
    """As a model does, it takes its time and lets other threads run meanwhile."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, letters)
        self._step_s = float(os.environ.get("MINIVLLM_TEST_STEP_S", "0.002"))

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        time.sleep(self._step_s)
        return super().execute_model(scheduler_output)


def make_tokenizer(config: EngineConfig) -> FakeTokenizer:
    return FakeTokenizer()


if __name__ == "__main__":
    names = {"executor_factory": "SlowExecutor", "tokenizer": "make_tokenizer"}
    async_llm.build = partial(
        async_llm.build, **{part: f"tests.load.scripted:{name}" for part, name in names.items()}
    )
    from minivllm.cli.main import main

    main(sys.argv[1:])
