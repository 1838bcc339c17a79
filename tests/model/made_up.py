"""An architecture that nobody has: attention and MLP side by side on one norm, damped as
``config.json`` says. This file and one call of ``register`` are all that it takes."""

from __future__ import annotations

import torch
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.models.causal_lm import CausalLM
from minivllm.models.layers import RMSNorm
from minivllm.models.llama import LlamaAttention, LlamaMLP
from minivllm.models.registry import Architecture
from minivllm.models.spec import ModelSpec


class SideBySideLayer(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.self_attn = LlamaAttention(spec, qk_norm=True)
        self.mlp = LlamaMLP(spec)
        self.damping = float(spec.config["damping"])

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        y = self.input_layernorm(x)  # (num_tokens, hidden)
        return x + self.damping * (self.self_attn(y, cos_sin, kv_cache, attention) + self.mlp(y))


ARCHITECTURE = Architecture(build=lambda spec: CausalLM(spec, SideBySideLayer), gguf="sidebyside")
