"""The model with its weights packed for a CPU by torch: the same arithmetic, in faster calls.

``llama.py`` is the reference, and what runs in float32; ``quantized.py`` is faster, for a file with
4- or 8-bit codes and a CPU that multiplies bytes. For all else in bfloat16 on a CPU, :func:`pack`
replaces each layer by a :class:`PackedLayer`: weights laid out anew (``cpu_linear.py``), additions
and SiLU computed within the matrix products, and one Python function a layer, since at one token a
step the interpreter's share counts. There are two ways through it::

    few tokens   norm ─ q|k|v ─ rotate ─ attention ─ o ─ +norm ─ gate|up ─ silu·mul ─ down ─ +
    more         norm ─ q|k|v ─ rotate ─ attention ─ o+ ─ norm ─ gate,silu ─ up,mul ─ down+

Few means by the 4-bit weights, which are there if the checkpoint has them. They take a third of the
bfloat16 ones' memory beside these, on which a prompt runs. Which way a token takes, and with it the
last bits of its numbers, depends on who else is in the batch: ``kernel_path`` says so in a trace's
header. No counterpart in vLLM, which compiles the model (``vllm/compilation/``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.models.causal_lm import CausalLM
from minivllm.models.cpu_linear import (
    MOST_INT4_ROWS,
    Int4Weight,
    OneDNNWeight,
    Weight,
    available,
    make_weight,
)
from minivllm.models.gguf_file import GROUP_SIZE, Groups
from minivllm.models.layers import FusedLinear, Linear, empty_parameter
from minivllm.models.llama import LlamaAttention, LlamaLayer, LlamaMLP
from minivllm.models.operators import Operators, TorchOperators
from minivllm.models.quantized import FindGroups, QuantizedLayer

MOST_INT4_HEAD_ROWS = 2
"""As MOST_INT4_ROWS, for the head: its eight bits are as two matrices of four."""
ROWS_MULTIPLE = 64
"""The 4-bit kernel takes rows by so many."""


@dataclass(slots=True)
class FewTokens:
    """A layer's four matrices in 4 bit."""

    qkv: Int4Weight
    o: Int4Weight
    gate_up: Int4Weight
    down: Int4Weight


class PackedLayer(nn.Module):
    """A LlamaLayer's work by packed weights; the layer itself is no longer needed then."""

    ops: Operators = TorchOperators()

    def __init__(self, layer: LlamaLayer, few: FewTokens | None) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        assert isinstance(attention, LlamaAttention)  # what layers of this module are made of
        assert isinstance(mlp, LlamaMLP)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.num_turning = attention.num_heads + attention.num_kv_heads
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.few = few
        self.qkv, self.o = _packed(attention.qkv_proj), _packed(attention.o_proj)
        self.gate, self.up = _packed_parts(mlp.gate_up_proj)
        self.down = _packed(mlp.down_proj)

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        ops, norm, few = self.ops, self.second_norm, self.few
        normed = ops.rms_norm(x, self.first_norm.weight, self.first_norm.eps)
        if few is not None and x.shape[0] <= MOST_INT4_ROWS:
            attended = self._attend(few.qkv(normed), cos_sin, kv_cache, attention)
            normed, x = ops.add_rms_norm(few.o(attended), x, norm.weight, norm.eps)
            return x + few.down(ops.silu_mul(few.gate_up(normed)))
        attended = self._attend(self.qkv(normed), cos_sin, kv_cache, attention)
        x = self.o.add(attended, x)
        normed = ops.rms_norm(x, norm.weight, norm.eps)
        return self.down.add(self.up.mul(normed, self.gate.silu(normed)), x)  # (num_tokens, hidden)

    def _attend(
        self,
        qkv: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        """(num_tokens, q + k + v) → (num_tokens, q); as in ``LlamaAttention``."""
        num_tokens = qkv.shape[0]
        qkv = qkv.view(num_tokens, -1, self.head_dim)
        qk, v = qkv[:, : self.num_turning], qkv[:, self.num_turning :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk[:, : self.num_heads], qk[:, self.num_heads :]
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        qk = self.ops.rotate(qk, *cos_sin)
        out = attention.forward(qk[:, : self.num_heads], qk[:, self.num_heads :], v, kv_cache)
        return out.reshape(num_tokens, -1)


class PackedHead:
    """Scores the vocabulary. At 49,152 × 576 it is a quarter of a small model's weights."""

    def __init__(self, weight: Weight, few: Int4Weight | None, times: int) -> None:
        self._weight, self._few, self._times = weight, few, times

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._few is None or hidden.shape[0] > MOST_INT4_HEAD_ROWS:
            return self._weight(hidden)  # (num_rows, vocab)
        return self._few(hidden.repeat(1, self._times) if self._times > 1 else hidden)


def pack(model: CausalLM, find: FindGroups) -> None:
    """Pack every layer that is still Llama's, and the head; say in ``model.kernels`` whose matrix
    products the model has now."""
    dtype = model.embed_tokens.dtype
    int4 = dtype == torch.bfloat16 and available(Int4Weight, dtype)
    kinds = dict.fromkeys("codes" for layer in model.layers if type(layer) is QuantizedLayer)
    packed = "onednn" if available(OneDNNWeight, dtype) else "linear"
    for i, layer in enumerate(model.layers):
        if type(layer) is not LlamaLayer or type(layer.self_attn) is not LlamaAttention:
            continue  # somebody's own, or quantised: it stays what it is
        few = _few_tokens(layer, f"model.layers.{i}", find) if int4 else None
        model.layers[i] = PackedLayer(layer, few)
        kinds[packed] = None
        if few is not None:
            kinds[f"int4 up to {MOST_INT4_ROWS} tokens"] = None
            model.has_int4 = True
    if model.head is None:
        model.head = _packed_head(model, find if int4 else None)
        kinds[packed] = None
    model.kernels = ", ".join(kinds)


def _packed_head(model: CausalLM, find: FindGroups | None) -> PackedHead:
    tied = model.spec.tie_word_embeddings
    weight, groups = make_weight(model.lm_head.data), None
    if find is not None:
        groups = _whole(find("model.embed_tokens.weight" if tied else "lm_head.weight"))
        groups = groups.halved() if groups is not None and groups.bits == 8 else groups
    if not tied:
        model.lm_head = empty_parameter(0)
    if groups is None:
        return PackedHead(weight, None, 1)
    return PackedHead(weight, Int4Weight(groups), groups.codes.shape[1] // model.spec.hidden_size)


def _packed(linear: Linear) -> Weight:
    return make_weight(linear.weight.data, None if linear.bias is None else linear.bias.data)


def _packed_parts(linear: FusedLinear) -> list[Weight]:
    rows = list(linear.parts.values())
    weights = linear.weight.data.split(rows)
    biases = [None] * len(rows) if linear.bias is None else linear.bias.data.split(rows)
    return [make_weight(w, b) for w, b in zip(weights, biases, strict=True)]


def _few_tokens(layer: LlamaLayer, prefix: str, find: FindGroups) -> FewTokens | None:
    """The layer's four matrices in 4 bit; None unless the checkpoint has all of them so."""
    packed = []
    for path in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"):
        linear = layer.get_submodule(path)
        assert isinstance(linear, Linear)
        beside = path.rsplit(".", 1)[0]
        names = (
            [f"{beside}.{part}" for part in linear.parts]
            if isinstance(linear, FusedLinear)
            else [path]
        )
        parts = [find(f"{prefix}.{name}.weight") for name in names]
        groups = _whole(*parts)
        if groups is None or groups.bits != 4 or groups.codes.shape != linear.weight.shape:
            return None
        packed.append(Int4Weight(groups, None if linear.bias is None else linear.bias.data))
    return FewTokens(*packed)


def _whole(*parts: Groups | None) -> Groups | None:
    """The parts' rows one below the other, if all are there and the kernel takes them."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    whole = there[0] if len(there) == 1 else Groups.joined(there)
    rows, cols = whole.codes.shape
    return None if rows % ROWS_MULTIPLE or cols % GROUP_SIZE else whole
