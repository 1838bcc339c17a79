"""Llama's layer: attention, then an MLP, each on a normalised copy that is added to the stream.

    x ─┬─ norm ─ attention ─ + ─┬─ norm ─ MLP ─ + ─ x
       └────────────────────┘   └──────────────┘

Qwen2, Qwen3 and Mistral are put together from the same parts, with other options. Only attention
knows where a request begins and ends (``AttentionStep``); every other operation treats the batch's
tokens alike. Counterpart in vLLM: ``vllm/model_executor/models/llama.py``. Left out: tensor
parallelism, LoRA.

Matrices that read the same input are fused, because one large matrix product is faster than two
or three small ones: Q, K and V into ``qkv_proj``, gate and up into ``gate_up_proj``.
"""

from __future__ import annotations

import torch
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.models.causal_lm import CausalLM
from minivllm.models.layers import FusedLinear, Linear, RMSNorm
from minivllm.models.operators import Operators, TorchOperators
from minivllm.models.registry import Architecture
from minivllm.models.spec import ModelSpec


class LlamaAttention(nn.Module):
    """``qk_norm``: normalise each head of Q and of K before it is rotated."""

    ops: Operators = TorchOperators()

    def __init__(
        self,
        spec: ModelSpec,
        *,
        qkv_bias: bool = False,
        o_bias: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = spec.num_heads, spec.num_kv_heads
        self.head_dim = spec.head_dim
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        rows = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv_proj = FusedLinear(spec.hidden_size, rows, qkv_bias)
        self.o_proj = Linear(q_size, spec.hidden_size, o_bias)
        self.q_norm = RMSNorm(spec.head_dim, spec.rms_norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(spec.head_dim, spec.rms_norm_eps) if qk_norm else None

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        num_tokens = x.shape[0]
        qkv = self.qkv_proj(x).view(num_tokens, -1, self.head_dim)  # Q heads, K heads, V heads
        turning = self.num_heads + self.num_kv_heads
        qk, v = qkv[:, :turning], qkv[:, turning:]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk[:, : self.num_heads], qk[:, self.num_heads :]
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        qk = self.ops.rotate(qk, *cos_sin)  # V is not rotated
        q = qk[:, : self.num_heads]  # (num_tokens, num_heads, head_dim)
        k = qk[:, self.num_heads :]  # (num_tokens, num_kv_heads, head_dim)
        out = attention.forward(q, k, v, kv_cache)  # (num_tokens, num_heads, head_dim)
        return self.o_proj(out.reshape(num_tokens, -1))  # (num_tokens, hidden)


class LlamaMLP(nn.Module):
    ops: Operators = TorchOperators()

    def __init__(self, spec: ModelSpec, *, bias: bool = False) -> None:
        super().__init__()
        rows = {"gate_proj": spec.intermediate_size, "up_proj": spec.intermediate_size}
        self.gate_up_proj = FusedLinear(spec.hidden_size, rows, bias)
        self.down_proj = Linear(spec.intermediate_size, spec.hidden_size, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate_up = self.gate_up_proj(x)  # (num_tokens, 2 * intermediate)
        return self.down_proj(self.ops.silu_mul(gate_up))  # (num_tokens, hidden)


class LlamaLayer(nn.Module):
    def __init__(self, spec: ModelSpec, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.mlp = mlp

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x), cos_sin, kv_cache, attention)
        normed, x = self.post_attention_layernorm.add(attended, x)
        return x + self.mlp(normed)  # (num_tokens, hidden)


def make_layer(spec: ModelSpec) -> LlamaLayer:
    bias = spec.attention_bias
    return LlamaLayer(
        spec,
        LlamaAttention(spec, qkv_bias=bias, o_bias=bias),
        LlamaMLP(spec, bias=spec.mlp_bias),
    )


ARCHITECTURE = Architecture(
    build=lambda spec: CausalLM(spec, make_layer),
    config_defaults={"use_sliding_window": False},  # it has none, whatever a file says
    gguf="llama",
    gguf_permuted=True,
)
