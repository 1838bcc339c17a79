"""Qwen3: each head of Q and of K is normalised before it is rotated; that took Qwen2's bias away.

Heads have a width of their own: ``num_heads * head_dim`` need not be ``hidden_size``.
Counterpart in vLLM: ``vllm/model_executor/models/qwen3.py``. Left out: sliding windows, YaRN, and
the mixture of experts (``Qwen3MoeForCausalLM``).
"""

from __future__ import annotations

from minivllm.models.causal_lm import CausalLM
from minivllm.models.llama import LlamaAttention, LlamaLayer, LlamaMLP
from minivllm.models.qwen2 import ARCHITECTURE as QWEN2
from minivllm.models.registry import Architecture
from minivllm.models.spec import ModelSpec


def make_layer(spec: ModelSpec) -> LlamaLayer:
    bias = spec.attention_bias  # False in every released model
    attention = LlamaAttention(spec, qkv_bias=bias, o_bias=bias, qk_norm=True)
    return LlamaLayer(spec, attention, LlamaMLP(spec))


ARCHITECTURE = Architecture(
    build=lambda spec: CausalLM(spec, make_layer),
    config_defaults={**QWEN2.config_defaults, "head_dim": 128},
    gguf="qwen3",
    gguf_tensors={"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
)
