"""minivllm: the life of an inference request, as in vLLM V1, small enough to read and to watch.

    from minivllm import LLM, SamplingParams

The names below are imported when they are first used, so that the viewers, the trace tools and
the lessons can import this package without the ``[engine]`` extra (torch).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minivllm.config import EngineConfig
    from minivllm.engine.async_llm import AsyncLLM
    from minivllm.engine.llm import LLM
    from minivllm.outputs import CompletionOutput, Logprob, OutputKind, RequestOutput
    from minivllm.sampling_params import SamplingParams

_HOME = {
    "AsyncLLM": "minivllm.engine.async_llm",
    "CompletionOutput": "minivllm.outputs",
    "EngineConfig": "minivllm.config",
    "LLM": "minivllm.engine.llm",
    "Logprob": "minivllm.outputs",
    "OutputKind": "minivllm.outputs",
    "RequestOutput": "minivllm.outputs",
    "SamplingParams": "minivllm.sampling_params",
    "StructuredOutputsParams": "minivllm.structured_output.params",
}

__all__ = [
    "AsyncLLM",
    "CompletionOutput",
    "EngineConfig",
    "LLM",
    "Logprob",
    "OutputKind",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "debug":
        return import_module("minivllm.debug")
    if name not in _HOME:
        raise AttributeError(f"module 'minivllm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
