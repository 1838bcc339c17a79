"""The forward pass of a language model over one flat batch, and how its weights come in.

``input_ids`` holds the scheduled tokens of all requests, one after the other: there is no batch
dimension and no padding to a common length. What is between the embedding and the final norm is
the architecture's own: ``make_layer`` (``llama.py``, ``qwen2.py`` …) makes one layer. Counterpart
in vLLM: ``LlamaForCausalLM`` and ``LlamaModel`` in ``vllm/model_executor/models/llama.py``. Left
out: tensor and pipeline parallelism, LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from minivllm.attention.metadata import AttentionStep
from minivllm.errors import ModelFileError
from minivllm.models.layers import FusedLinear, RMSNorm, RotaryEmbedding, empty_parameter
from minivllm.models.operators import Operators
from minivllm.models.spec import ModelSpec


class CausalLM(nn.Module):
    """Embedding, layers, final norm, and the head that scores the vocabulary."""

    def __init__(self, spec: ModelSpec, make_layer: Callable[[ModelSpec], nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        self.embed_tokens = empty_parameter(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(make_layer(spec) for _ in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.rotary = RotaryEmbedding(spec.head_dim, spec.rope_theta, spec.rope_divisors)
        self.lm_head = (
            self.embed_tokens
            if spec.tie_word_embeddings
            else empty_parameter(spec.vocab_size, spec.hidden_size)
        )
        self.embed: Callable[[torch.Tensor], torch.Tensor] | None = None
        """Who looks ``input_ids`` up, if ``embed_tokens`` is in codes (``quantized.py``)."""
        self.head: Callable[[torch.Tensor], torch.Tensor] | None = None
        """Who multiplies by ``lm_head``, if that is in codes or packed (``packed.py``)."""
        self.kernels, self.has_int4 = "", False
        """Whose matrix products, for the trace's header; empty: torch's. Is 4 bit among them?"""

    def use(self, ops: Operators) -> None:
        """Who computes what is between the matrix products, from now on; torch, unless said."""
        for module in self.modules():
            if hasattr(module, "ops"):
                setattr(module, "ops", ops)  # noqa: B010 (mypy takes a module's attribute for a tensor)

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
        look_up = self.embed or partial(F.embedding, weight=self.embed_tokens)
        x = look_up(input_ids)  # (num_tokens, hidden)
        cos_sin = self.rotary(positions, x.dtype)
        for layer, kv_cache in zip(self.layers, kv_caches, strict=True):
            x = layer(x, cos_sin, kv_cache, attention)
        return x

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of every vocabulary id, float32, for the rows that are to be sampled.

        The head is the largest matrix of a small model, so only those rows are passed in.
        """
        normed = self.norm(hidden)
        logits = F.linear(normed, self.lm_head) if self.head is None else self.head(normed)
        return logits.float()  # (num_rows, vocab)

    def load_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], elsewhere: Iterable[str] = ()
    ) -> None:
        """Copy a checkpoint's tensors (Hugging Face names) into the parameters, part by part.
        ``elsewhere``: names of parameters that are not to be filled.

        Raises ModelFileError for a tensor that is missing, unknown or of the wrong shape.
        """
        waiting = self._destinations()
        for name in elsewhere:
            del waiting[name]
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
        for path, module in self.layers.named_modules(prefix="model.layers"):
            for kind, parameter in module.named_parameters(recurse=False):  # "weight", "bias"
                if not isinstance(module, FusedLinear):
                    result[f"{path}.{kind}"] = parameter.data
                    continue
                parent = path.rsplit(".", 1)[0]  # "model.layers.0.mlp", of ".gate_up_proj"
                rows = list(module.parts.values())
                for part, piece in zip(module.parts, parameter.data.split(rows), strict=True):
                    result[f"{parent}.{part}.{kind}"] = piece
        return result
