"""LlamaSpec: the numbers that shape a Llama-family model, whatever file they came from.

Both checkpoint readers (``hf.py`` from ``config.json``, ``gguf.py`` from the file's metadata)
fill in this one dataclass, and the model is built from it alone. Counterpart in vLLM:
``vllm/config/model.py`` and transformers' ``LlamaConfig``. Left out: every other family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
class Llama3Rope:
    """Llama 3.1's stretch of the rotary frequencies beyond the context it was first trained on."""

    factor: float
    """The slow (long-wave) frequencies are divided by this."""
    low_freq_factor: float
    high_freq_factor: float
    """Waves longer than original / low are slow, shorter than original / high are fast."""
    original_max_len: int
    """Context length, in tokens, of the first training."""

    def divisors(self, frequencies: list[float]) -> list[float]:
        """What each rotary frequency is divided by: 1 (fast) … ``factor`` (slow), smooth between.

        Source: ``_compute_llama3_parameters`` in transformers' ``modeling_rope_utils.py``.
        """
        result = []
        for frequency in frequencies:
            turns = self.original_max_len * frequency / (2 * math.pi)  # within the old context
            smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            smooth = min(1.0, max(0.0, smooth))
            result.append(1 / ((1 - smooth) / self.factor + smooth))
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSpec:
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
    rope_scaling: Llama3Rope | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ModelFileError(f"the model's {name} is {getattr(self, name)}; it must be > 0")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise UnsupportedModelError(
                f"{self.architecture} with {self.num_heads} query heads, {self.num_kv_heads} K/V "
                f"heads and head_dim {self.head_dim}: the query heads must be a multiple of the "
                "K/V heads, and head_dim must be even"
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
