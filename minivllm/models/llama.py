"""The Llama family's forward pass over one flat batch.

``input_ids`` holds the scheduled tokens of all requests, one after the other: there is no batch
dimension and no padding to a common length. Only attention knows where a request begins and ends
(``AttentionStep``); every other operation treats tokens alike. Counterpart in vLLM:
``vllm/model_executor/models/llama.py``. Left out: tensor and pipeline parallelism, LoRA.

Two pairs of checkpoint matrices are fused, because one large matrix product is faster than two or
three small ones: Q, K and V into ``qkv_proj``, gate and up into ``gate_up_proj``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.errors import ModelFileError
from minivllm.models.layers import Linear, RMSNorm, RotaryEmbedding, empty_parameter, rotate
from minivllm.models.spec import LlamaSpec

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Fused matrix → the checkpoint's matrices, in the order of its rows."""


class LlamaAttention(nn.Module):
    def __init__(self, spec: LlamaSpec) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = spec.num_heads, spec.num_kv_heads
        self.head_dim = spec.head_dim
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.part_rows = (q_size, kv_size, kv_size)  # rows of Q, K and V in the fused matrix
        self.qkv_proj = Linear(spec.hidden_size, sum(self.part_rows), spec.attention_bias)
        self.o_proj = Linear(q_size, spec.hidden_size, spec.attention_bias)

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
        qk = rotate(qkv[:, :turning], *cos_sin)  # V is not rotated
        q = qk[:, : self.num_heads]  # (num_tokens, num_heads, head_dim)
        k = qk[:, self.num_heads :]  # (num_tokens, num_kv_heads, head_dim)
        v = qkv[:, turning:]  # (num_tokens, num_kv_heads, head_dim)
        out = attention.forward(q, k, v, kv_cache)  # (num_tokens, num_heads, head_dim)
        return self.o_proj(out.reshape(num_tokens, -1))  # (num_tokens, hidden)


class LlamaMLP(nn.Module):
    def __init__(self, spec: LlamaSpec) -> None:
        super().__init__()
        self.part_rows = (spec.intermediate_size, spec.intermediate_size)
        self.gate_up_proj = Linear(spec.hidden_size, sum(self.part_rows), spec.mlp_bias)
        self.down_proj = Linear(spec.intermediate_size, spec.hidden_size, spec.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)  # (num_tokens, intermediate) each
        return self.down_proj(F.silu(gate) * up)  # (num_tokens, hidden)


class LlamaLayer(nn.Module):
    def __init__(self, spec: LlamaSpec) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.self_attn = LlamaAttention(spec)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.mlp = LlamaMLP(spec)

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos_sin, kv_cache, attention)
        return x + self.mlp(self.post_attention_layernorm(x))  # (num_tokens, hidden)


class LlamaForCausalLM(nn.Module):
    """Embedding, layers, final norm, and the head that scores the vocabulary."""

    def __init__(self, spec: LlamaSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed_tokens = empty_parameter(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(LlamaLayer(spec) for _ in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.rotary = RotaryEmbedding(spec.head_dim, spec.rope_theta, spec.rope_scaling)
        self.lm_head = (
            self.embed_tokens
            if spec.tie_word_embeddings
            else empty_parameter(spec.vocab_size, spec.hidden_size)
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        kv_caches: list[torch.Tensor],
        attention: AttentionStep,
    ) -> torch.Tensor:
        """Hidden state after the last layer, (num_tokens, hidden); fills the KV cache on the way.

        ``input_ids`` and ``positions``: (num_tokens,); ``kv_caches``: one per layer.
        """
        x = F.embedding(input_ids, self.embed_tokens)  # (num_tokens, hidden)
        cos_sin = self.rotary(positions, x.dtype)
        for layer, kv_cache in zip(self.layers, kv_caches, strict=True):
            x = layer(x, cos_sin, kv_cache, attention)
        return x

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every vocabulary id, float32, for the rows that are to be sampled.

        The head is the largest matrix of a small model, so only those rows are passed in.
        """
        return F.linear(self.norm(hidden), self.lm_head).float()  # (num_rows, vocab)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy a checkpoint's tensors (Hugging Face names) into the parameters, part by part.

        Raises ModelFileError for a tensor that is missing, unknown or of the wrong shape.
        """
        waiting = self._destinations()
        for name, tensor in weights:
            if name.endswith("rotary_emb.inv_freq"):
                continue  # old checkpoints carry it; it is computed here
            if name == "lm_head.weight" and self.spec.tie_word_embeddings:
                continue  # a copy of the embedding
            if name not in waiting:
                raise ModelFileError(f"the checkpoint has a tensor this model does not: {name}")
            target = waiting.pop(name)
            if target.shape != tensor.shape:
                raise ModelFileError(
                    f"tensor {name} has shape {tuple(tensor.shape)}, but the configuration asks "
                    f"for {tuple(target.shape)}"
                )
            target.copy_(tensor)
        if waiting:
            names = sorted(waiting)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelFileError(f"the checkpoint lacks {', '.join(names[:3])}{more}")

    def _destinations(self) -> dict[str, torch.Tensor]:
        """Checkpoint name → the parameter, or the part of a fused one, that it fills."""
        result: dict[str, torch.Tensor] = {
            "model.embed_tokens.weight": self.embed_tokens.data,
            "model.norm.weight": self.norm.weight.data,
        }
        if not self.spec.tie_word_embeddings:
            result["lm_head.weight"] = self.lm_head.data
        for name, parameter in self.layers.named_parameters(prefix="model.layers"):
            module, kind = name.rsplit(".", 1)  # "model.layers.0.mlp.gate_up_proj", "weight"
            parent, leaf = module.rsplit(".", 1)
            if leaf not in FUSED:
                result[name] = parameter.data
                continue
            rows = self.get_submodule(parent.removeprefix("model.")).part_rows
            for part, piece in zip(FUSED[leaf], parameter.data.split(rows), strict=True):
                result[f"{parent}.{part}.{kind}"] = piece
        return result
