"""Executors and a tokenizer that an engine's process can make by name: no torch, no model."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

from minivllm.config import EngineConfig
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.errors import ModelFileError
from minivllm.executor.scripted import ScriptedExecutor
from tests.serve.fakes import EOS, FakeTokenizer

HERE = "tests.engine_process.scripted"
SAYS = list(b"one two three four five six seven eight nine ten ")


def tokenizer(_config: EngineConfig) -> FakeTokenizer:
    return FakeTokenizer()


def executor(config: EngineConfig) -> ScriptedExecutor:
    """Each request says the same line, from its start, again and again."""
    return ScriptedExecutor(config, lambda _req, index: SAYS[index % len(SAYS)])


class Masked(ScriptedExecutor):
    """Says the smallest token that its grammar allows, and EOS as soon as that is allowed."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        self.masks = scheduler_output.grammar_bitmask
        return super().execute_model(scheduler_output)

    def say(self, req_id: str, _index: int) -> int:
        words = self.masks.get(req_id, b"\xff" * 64)
        allowed = [i for i in range(8 * len(words)) if words[i // 8] >> i % 8 & 1]
        return EOS if EOS in allowed else allowed[0]


def masked(config: EngineConfig) -> Masked:
    made = Masked(config)
    made.next_token = made.say
    return made


class Hangs(ScriptedExecutor):
    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        threading.Event().wait()
        return super().execute_model(scheduler_output)


class Dies(ScriptedExecutor):
    """Breaks the loop itself: a result that makes no sense to whoever takes it."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return ModelRunnerOutput(sampled_token_ids={}, errors=None)  # type: ignore[arg-type]


def lean(config: EngineConfig) -> ScriptedExecutor:
    """Refuses to run beside what an engine without a model does not need."""
    heavy = {"torch", "numpy", "transformers", "xgrammar", "flask", "viz", "typer"}
    if found := heavy & {name.split(".")[0] for name in sys.modules}:
        raise ModelFileError(f"loaded: {found}")
    return executor(config)


def out_of_memory(_config: EngineConfig) -> NoReturn:
    raise MemoryError("no room for 9 GB")


def broken_file(_config: EngineConfig) -> NoReturn:
    raise ModelFileError("model.gguf is cut; fetch it again")


def fault(_config: EngineConfig) -> NoReturn:
    raise ZeroDivisionError("a fault of ours")


def exits(_config: EngineConfig) -> NoReturn:
    os._exit(3)


def sleeps(_config: EngineConfig) -> NoReturn:
    while True:
        threading.Event().wait()
