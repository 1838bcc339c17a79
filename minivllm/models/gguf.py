"""A model in a GGUF file: its numbers as a ModelSpec, its tensors under Hugging Face's names.

Counterpart in vLLM: ``vllm/model_executor/model_loader/gguf_loader.py``. Left out: files split in
several.

For Llama, llama.cpp turns neighbouring pairs (2i, 2i + 1) of a head where Hugging Face turns
(i, i + dim/2), so its converter re-orders the rows of Q and K. :func:`undo_permutation` puts them
back. Qwen's are left as they are.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minivllm.errors import ModelFileError, UnsupportedModelError
from minivllm.models.gguf_file import GGUFFile, Groups
from minivllm.models.registry import find, gguf_names
from minivllm.models.spec import ModelSpec

ROPE_FREQS = "rope_freqs.weight"
"""Llama 3.1's divisors of the rotary frequencies: the converter's one tensor that is no weight."""
_TOKENS = "tokenizer.ggml.tokens"

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFCheckpoint:
    """``spec`` and ``weights()`` of one file."""

    def __init__(self, path: Path) -> None:
        self.file = GGUFFile(path)
        self.num_bytes = path.stat().st_size
        try:
            self.spec = self._spec()
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelFileError(f"{path} has metadata of the wrong type: {error}") from None

    def _field(self, key: str, default: Any = None) -> Any:
        value = self.file.metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            raise ModelFileError(f"{self.file.path} lacks the metadata {self._architecture}.{key}")
        return value

    def _spec(self) -> ModelSpec:
        metadata, tensors = self.file.metadata, self.file.tensors
        self._architecture = str(metadata.get("general.architecture"))
        names = gguf_names()
        if self._architecture not in names:
            raise UnsupportedModelError(
                f"{self.file.path} holds the architecture {self._architecture!r}; "
                f"supported in GGUF: {', '.join(names)}"
            )
        if "token_embd.weight" not in tensors:
            raise ModelFileError(f"{self.file.path} lacks the tensor token_embd.weight")
        num_heads = int(self._field("attention.head_count"))
        hidden_size = int(self._field("embedding_length"))
        head_dim = int(self._field("attention.key_length", hidden_size // num_heads))
        if int(self._field("rope.dimension_count", head_dim)) != head_dim:
            raise UnsupportedModelError(
                f"{self.file.path} turns only a part of each head (rope.dimension_count); "
                "supported: rotary positions over the whole head"
            )
        scaling = self._field("rope.scaling.type", "none")
        if scaling != "none":
            raise UnsupportedModelError(
                f"{self.file.path} scales its rotary frequencies ({scaling}); supported in GGUF: "
                f"none, and Llama 3.1's ({ROPE_FREQS})"
            )
        rows, names_of_tokens = tensors["token_embd.weight"].shape[0], metadata.get(_TOKENS)
        if isinstance(names_of_tokens, list) and len(names_of_tokens) > rows:
            raise ModelFileError(
                f"{self.file.path} holds a tokenizer of {len(names_of_tokens)} tokens and a model "
                f"of only {rows}: they do not belong together. Fetch it again"
            )
        prefix = f"{self._architecture}."
        return ModelSpec(
            architecture=names[self._architecture],
            vocab_size=rows,
            hidden_size=hidden_size,
            intermediate_size=int(self._field("feed_forward_length")),
            num_layers=int(self._field("block_count")),
            num_heads=num_heads,
            num_kv_heads=int(self._field("attention.head_count_kv", num_heads)),
            head_dim=head_dim,
            max_model_len=int(self._field("context_length")),
            rope_theta=float(self._field("rope.freq_base", 10000.0)),
            rms_norm_eps=float(self._field("attention.layer_norm_rms_epsilon")),
            tie_word_embeddings="output.weight" not in tensors,
            attention_bias="blk.0.attn_q.bias" in tensors,
            mlp_bias="blk.0.ffn_up.bias" in tensors,
            sliding_window=int(self._field("attention.sliding_window", 0)) or None,
            rope_divisors=(
                tuple(self.file.load(ROPE_FREQS).tolist()) if ROPE_FREQS in tensors else None
            ),
            config={
                key.removeprefix(prefix): value
                for key, value in metadata.items()
                if key.startswith(prefix)
            },
        )

    def weights(self, without: Container[str] = ()) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, one at a time, so that only one is in memory unpacked."""
        for target, name in self._names().items():
            if target not in without:
                yield target, self._in_hf_order(target, self.file.load(name))

    def grouped(self) -> set[str]:
        """Names of the matrices that :meth:`groups` gives."""
        return {target for target, name in self._names().items() if self.file.is_grouped(name)}

    def groups(self, target: str) -> Groups | None:
        """The matrix of this name (Hugging Face's) in the file's own codes, rows in the order of
        ``weights``. None if the file has it in another type."""
        name = self._names().get(target)
        groups = None if name is None else self.file.groups(name)
        return None if groups is None else groups.map(partial(self._in_hf_order, target))

    def _names(self) -> dict[str, str]:
        """Hugging Face's name → the file's."""
        in_layer = {**_IN_LAYER, **find(self.spec.architecture).gguf_tensors}
        return {
            _name_in_hf(name, in_layer): name for name in self.file.tensors if name != ROPE_FREQS
        }

    def _in_hf_order(self, target: str, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of Q and K as Hugging Face has them; all else as it is."""
        permuted = find(self.spec.architecture).gguf_permuted
        if not permuted or not (".q_proj." in target or ".k_proj." in target):
            return tensor
        heads = self.spec.num_heads if ".q_proj." in target else self.spec.num_kv_heads
        if tensor.shape[0] != heads * self.spec.head_dim:  # the model refuses it
            return tensor
        return undo_permutation(tensor, heads)


def _name_in_hf(name: str, in_layer: dict[str, str]) -> str:
    """``blk.3.attn_q.weight`` → ``model.layers.3.self_attn.q_proj.weight``; else unchanged."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in in_layer:
        return f"model.layers.{parts[1]}.{in_layer[parts[2]]}.{parts[3]}"
    return name


def undo_permutation(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of each head from pairs side by side (GGUF) back to first half, second half (HF)."""
    pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])  # (heads, dim/2, 2, in)
    return pairs.transpose(1, 2).reshape(tensor.shape)
