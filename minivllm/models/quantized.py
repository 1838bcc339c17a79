"""The model on its file's own 4- and 8-bit codes, by compiled C: the fastest way on a CPU.

A layer is three calls, whatever the number of tokens (``native/layer.c``, ``attention.c``)::

    norm ─ q|k|v ─ rotate  →  attention  →  o + ─ norm ─ silu(gate)·up ─ down +

The weights are never there in another form, so the model takes the memory of its file. With
``attention.c`` between the two others, a token's numbers depend on nothing but its own past: not on
who else is in the batch, nor on how its prompt was cut into chunks. Torch's attention (heads of
other sizes, ``--attention-backend torch``) and its matrix product (a head or a layer that is not in
codes) do not promise that. Counterpart in vLLM: its compiled model, and ``csrc/cpu/``; the
arithmetic is llama.cpp's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.errors import ModelFileError
from minivllm.models.causal_lm import CausalLM
from minivllm.models.gguf_file import Groups
from minivllm.models.layers import FusedLinear, Linear
from minivllm.models.llama import LlamaAttention, LlamaLayer
from minivllm.native import codes as native
from minivllm.native.build import library

FindGroups = Callable[[str], Groups | None]
"""A matrix, by its name in the checkpoint, in codes; None if it is not there in such."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MATRICES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


class QuantizedLinear:
    """y = x Wᵀ (+ b) for a (rows, cols) matrix in codes. ``matrix``: as the C code is given it."""

    def __init__(self, groups: Groups, bias: torch.Tensor | None = None) -> None:
        found = library()
        assert found is not None  # available() was asked
        self._blocks, self._bias = native.panels(groups), None if bias is None else bias.float()
        rows, cols = groups.codes.shape
        bias_at = None if self._bias is None else self._bias.data_ptr()
        self.matrix = native.Matrix(self._blocks.data_ptr(), bias_at, rows, cols, groups.bits)
        self._multiply = found.codes_linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, cols) bfloat16 → (tokens, rows) float32"""
        x = x.contiguous()
        y = torch.empty((x.shape[0], self.matrix.rows))
        matrix = ctypes.byref(self.matrix)
        self._multiply(y.data_ptr(), x.data_ptr(), matrix, x.shape[0], torch.get_num_threads())
        return y

    def rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """(num_rows,) → (num_rows, cols) bfloat16: an embedding."""
        return native.rows_of(self._blocks, self.matrix.bits, numbers).bfloat16()


class QuantizedLayer(nn.Module):
    """A LlamaLayer's work by codes; of the layer itself only the norms are still needed."""

    def __init__(self, layer: LlamaLayer, linears: list[QuantizedLinear]) -> None:
        super().__init__()
        found, attention = library(), layer.self_attn
        assert found is not None  # available() was asked
        assert isinstance(attention, LlamaAttention)  # what _llamas() has seen
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.num_turning = attention.num_heads + attention.num_kv_heads
        self.num_all = self.num_turning + attention.num_kv_heads
        norms = (
            layer.input_layernorm,
            layer.post_attention_layernorm,
            attention.q_norm,
            attention.k_norm,
        )
        self._kept = linears, norms  # the structure below has only addresses
        self._layer = native.Layer(
            *(linear.matrix for linear in linears),
            *(None if norm is None else norm.weight.data_ptr() for norm in norms),
            layer.input_layernorm.eps,
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
            layer.input_layernorm.weight.shape[0],
        )
        self._before, self._after = found.layer_before, found.layer_after

    def forward(
        self,
        x: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor],
        kv_cache: torch.Tensor,
        attention: AttentionStep,
    ) -> torch.Tensor:
        (cos, sin), num_tokens, layer = cos_sin, x.shape[0], ctypes.byref(self._layer)
        threads = torch.get_num_threads()
        qkv = torch.empty((num_tokens, self.num_all, self.head_dim), dtype=x.dtype)
        self._before(
            qkv.data_ptr(), x.data_ptr(), layer, cos.data_ptr(), sin.data_ptr(), num_tokens,
            threads,
        )  # fmt: skip
        k, v = qkv[:, self.num_heads : self.num_turning], qkv[:, self.num_turning :]
        attended = attention.forward(qkv[:, : self.num_heads], k, v, kv_cache).contiguous()
        out = torch.empty_like(x)
        self._after(out.data_ptr(), attended.data_ptr(), x.data_ptr(), layer, num_tokens, threads)
        return out  # (num_tokens, hidden)


def taken_as_codes(model: CausalLM, grouped: Collection[str]) -> set[str]:
    """Names of the matrices that :func:`quantize` takes straight from the checkpoint, which has
    ``grouped`` in codes: of the layers that have all of theirs so, and the head."""
    if not native.available() or model.embed_tokens.dtype != torch.bfloat16:
        return set()
    names: set[str] = set()
    for i, layer in _llamas(model):
        linears = _linears(layer, i)
        if all(native.fits(*linear.weight.shape) for linear in linears.values()):
            of_layer = {name for path, linear in linears.items() for name in _parts(path, linear)}
            names |= of_layer if of_layer <= set(grouped) else set()
    tables = {EMBEDDING: model.embed_tokens, HEAD: model.lm_head}
    if model.spec.tie_word_embeddings:
        del tables[HEAD]
    fitting = {name for name, table in tables.items() if native.fits(*table.shape)}
    return names | (fitting & set(grouped))


def quantize(model: CausalLM, names: set[str], find: FindGroups) -> None:
    """Replace the layers whose matrices are in ``names``, and the head. Raises ModelFileError for
    a matrix of the wrong shape."""
    for i, layer in _llamas(model):
        linears = _linears(layer, i)
        if all(names.issuperset(_parts(path, linear)) for path, linear in linears.items()):
            codes = [_quantized(path, linear, find) for path, linear in linears.items()]
            model.layers[i] = QuantizedLayer(layer, codes)
            model.has_int4 |= any(one.matrix.bits == 4 for one in codes)
    if EMBEDDING in names:
        table = QuantizedLinear(_joined({EMBEDDING: model.embed_tokens.shape}, find))
        model.embed, model.embed_tokens.data = table.rows, model.embed_tokens.new_empty(0)
        if model.spec.tie_word_embeddings:
            model.head = table
    if HEAD in names:
        model.head = QuantizedLinear(_joined({HEAD: model.lm_head.shape}, find))
        model.lm_head.data = model.lm_head.new_empty(0)


def _llamas(model: CausalLM) -> list[tuple[int, LlamaLayer]]:
    """Somebody's own layer stays what it is."""
    return [
        (i, layer)
        for i, layer in enumerate(model.layers)
        if type(layer) is LlamaLayer and type(layer.self_attn) is LlamaAttention
    ]


def _linears(layer: LlamaLayer, i: int) -> dict[str, Linear]:
    """Path → each of a layer's four, in the order of the C structure."""
    found = {path: layer.get_submodule(path) for path in MATRICES}
    return {
        f"model.layers.{i}.{path}": one for path, one in found.items() if isinstance(one, Linear)
    }


def _parts(path: str, linear: Linear) -> dict[str, tuple[int, int]]:
    """The checkpoint's names of the matrices that are one here, and the shape of each."""
    rows, cols = linear.weight.shape
    if not isinstance(linear, FusedLinear):
        return {f"{path}.weight": (rows, cols)}
    beside = path.rsplit(".", 1)[0]
    return {f"{beside}.{part}.weight": (rows, cols) for part, rows in linear.parts.items()}


def _quantized(path: str, linear: Linear, find: FindGroups) -> QuantizedLinear:
    groups = _joined(_parts(path, linear), find)
    bias = None if linear.bias is None else linear.bias.data
    if path.endswith("gate_up_proj"):
        groups, bias = groups.map(_alternate), None if bias is None else _alternate(bias)
    return QuantizedLinear(groups, bias)


def _alternate(rows: torch.Tensor) -> torch.Tensor:
    """First half and second half (gate, up) in turn, by half panels: so each panel has both of
    what is multiplied."""
    halves = rows.view(2, -1, native.PANEL // 2, *rows.shape[1:])
    return halves.transpose(0, 1).reshape(rows.shape)


def _joined(shapes: Mapping[str, Sequence[int]], find: FindGroups) -> Groups:
    """Matrices one below the other, each of the shape it must have."""
    parts = []
    for name, shape in shapes.items():
        part = find(name)
        if part is None or part.codes.shape != tuple(shape):
            is_there = None if part is None else tuple(part.codes.shape)
            raise ModelFileError(
                f"tensor {name} has shape {is_there}, but the configuration asks for {tuple(shape)}"
            )
        parts.append(part)
    return Groups.joined(parts)
