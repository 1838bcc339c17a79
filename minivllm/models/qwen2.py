"""Qwen2 (and 2.5): Llama with a bias on Q, K and V, and nowhere else.

Counterpart in vLLM: ``vllm/model_executor/models/qwen2.py``. Left out: sliding windows, which its
configuration can switch on for the upper layers, and YaRN.
"""

from __future__ import annotations

from minivllm.models.causal_lm import CausalLM
from minivllm.models.llama import LlamaAttention, LlamaLayer, LlamaMLP
from minivllm.models.registry import Architecture
from minivllm.models.spec import ModelSpec


def make_layer(spec: ModelSpec) -> LlamaLayer:
    return LlamaLayer(spec, LlamaAttention(spec, qkv_bias=True), LlamaMLP(spec))


ARCHITECTURE = Architecture(
    build=lambda spec: CausalLM(spec, make_layer),
    config_defaults={"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    gguf="qwen2",
)
