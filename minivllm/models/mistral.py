"""Mistral: Llama without any bias.

Its first release sees only the last 4,096 tokens of a longer context (a sliding window) and is
refused; later ones attend to everything. Its GGUF files call themselves ``llama`` and say nothing
of a window. Counterpart in vLLM: ``vllm/model_executor/models/mistral.py``. Left out: sliding
windows, Mistral's own checkpoint format.
"""

from __future__ import annotations

from minivllm.models.causal_lm import CausalLM
from minivllm.models.llama import LlamaAttention, LlamaLayer, LlamaMLP
from minivllm.models.registry import Architecture
from minivllm.models.spec import ModelSpec


def make_layer(spec: ModelSpec) -> LlamaLayer:
    return LlamaLayer(spec, LlamaAttention(spec), LlamaMLP(spec))


ARCHITECTURE = Architecture(
    build=lambda spec: CausalLM(spec, make_layer),
    config_defaults={"sliding_window": 4096},
)
