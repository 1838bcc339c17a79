"""Executors and a tokenizer that an engine's process can make by name: no torch, no model."""

from __future__ import annotations

from minivllm.config import EngineConfig
from minivllm.executor.scripted import ScriptedExecutor
from tests.serve.fakes import FakeTokenizer

SAYS = list(b"one two three four five six seven eight nine ten")


def executor(config: EngineConfig) -> ScriptedExecutor:
    """Each request says the same line, from its start, again and again."""
    return ScriptedExecutor(config, lambda _req, index: SAYS[index % len(SAYS)])


def tokenizer(_config: EngineConfig) -> FakeTokenizer:
    return FakeTokenizer()
