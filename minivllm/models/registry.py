"""Which architectures run, and what sets each apart.

To add one, write one file in this directory, say ``minivllm/models/tiny.py``, with two things:

1. a function that makes one layer, put together from the parts in ``llama.py`` and ``layers.py``
   or from modules of your own (a layer takes ``(x, cos_sin, kv_cache, attention)`` and returns the
   new ``x``; parameters are named as in the checkpoint);
2. ``ARCHITECTURE = Architecture(build=lambda spec: CausalLM(spec, make_layer))``.

Then add one line to ``MODELS`` below: ``"TinyForCausalLM": "tiny"``, with the name under
``architectures`` in the model's ``config.json``. A script needs no file here: it calls
``register("TinyForCausalLM", ARCHITECTURE)`` before it makes its ``LLM``. ``qwen2.py`` is the
shortest example. Numbers that only your model has are in ``spec.config``; where more than the
layers differ, ``build`` may return a subclass of ``CausalLM``.

Counterpart in vLLM: ``vllm/model_executor/models/registry.py``. As there, a file is imported only
when its model is asked for. Left out: inspecting a model in a process of its own, plug-ins.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minivllm.models.spec import ModelSpec

if TYPE_CHECKING:
    from minivllm.models.causal_lm import CausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What the readers of checkpoints and the loader must know of one architecture."""

    build: Callable[[ModelSpec], CausalLM]
    """The model, its parameters still to be filled."""
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What holds where ``config.json`` is silent."""
    gguf: str | None = None
    """``general.architecture`` in GGUF files. None: it is not read from GGUF."""
    gguf_tensors: Mapping[str, str] = field(default_factory=dict)
    """What a layer has beside Llama's tensors: GGUF's name → the one in safetensors."""
    gguf_permuted: bool = False
    """llama.cpp's converter re-orders the rows of this architecture's Q and K."""


MODELS: dict[str, str | Architecture] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture, as ``config.json`` names it → the module beside this one that has its
``ARCHITECTURE``, or that itself."""


def register(name: str, architecture: Architecture) -> None:
    """Add an architecture, or replace the one of this name, in this process."""
    MODELS[name] = architecture


def find(name: str) -> Architecture:
    """The architecture of this name, which is one in ``MODELS``."""
    entry = MODELS[name]
    if isinstance(entry, Architecture):
        return entry
    found: Architecture = importlib.import_module(f"minivllm.models.{entry}").ARCHITECTURE
    return found


def gguf_names() -> dict[str, str]:
    """GGUF's ``general.architecture`` → the name in ``MODELS``."""
    known = {name: find(name).gguf for name in MODELS}
    return {gguf: name for name, gguf in known.items() if gguf}
