"""ModelSpec: the numbers that shape a model, whatever file they came from.

Both checkpoint readers (``hf.py`` from ``config.json``, ``gguf.py`` from the file's metadata)
fill in this one dataclass, and the model is built from it alone. Counterpart in vLLM:
``vllm/config/model.py`` and transformers' configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minivllm.errors import ModelFileError, UnsupportedModelError

_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_model_len",
    "rope_theta",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Shapes and constants of one model."""

    architecture: str
    """Name in the registry, as Hugging Face writes it: ``LlamaForCausalLM``."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the MLP."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Fewer than ``num_heads``: each K/V head serves a group of query heads (GQA)."""
    head_dim: int
    max_model_len: int
    """Context length, in tokens, the model was trained for."""
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    """The output head is the embedding matrix."""
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    """Most tokens a token attends to. None: all; a window shorter than the context is refused."""
    rope_divisors: tuple[float, ...] | None = None
    """What each of the head_dim / 2 rotary frequencies is divided by, to reach beyond the context
    of the first training. None: they stay as they are."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """All that the file says, for what only one architecture has: ``config.json``, or the GGUF
    file's metadata that begin with the architecture's name, without it."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ModelFileError(f"the model's {name} is {getattr(self, name)}; it must be > 0")
        if not 0 < self.rms_norm_eps < 1:
            raise ModelFileError(
                f"the model's rms_norm_eps is {self.rms_norm_eps}; it must be a small number > 0, "
                "like 1e-05"
            )
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise UnsupportedModelError(
                f"{self.architecture} with {self.num_heads} query heads, {self.num_kv_heads} K/V "
                f"heads and head_dim {self.head_dim}: the query heads must be a multiple of the "
                "K/V heads, and head_dim must be even"
            )
        if self.sliding_window is not None and self.sliding_window < self.max_model_len:
            raise UnsupportedModelError(
                f"{self.architecture} with a sliding_window of {self.sliding_window} tokens in a "
                f"context of {self.max_model_len}; supported: attention over the whole context"
            )
        scaled = self.rope_divisors
        if scaled and (len(scaled) != self.head_dim // 2 or not all(by > 0 for by in scaled)):
            raise ModelFileError(
                f"the model scales its rotary frequencies by {len(scaled)} numbers; that must be "
                f"{self.head_dim // 2} (half of head_dim), all > 0"
            )

    @property
    def num_params(self) -> int:
        """Parameters, the tied head counted once; biases and norms left out (below 0.1 %)."""
        q_and_o = 2 * self.hidden_size * self.num_heads * self.head_dim
        k_and_v = 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * (q_and_o + k_and_v + mlp) + embeddings

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of K and V that one token occupies over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes
