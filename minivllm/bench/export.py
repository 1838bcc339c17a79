"""A model as a directory that every engine reads: ``config.json`` and bfloat16 safetensors.

The peers of ``bench compare`` are to run the same weights, and not all of them read GGUF. There is
no tokenizer in it; prompts go in as token ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from minivllm.errors import UnsupportedModelError
from minivllm.models.loader import open_checkpoint
from minivllm.models.source import ModelSource, cache_dir


def as_directory(source: ModelSource) -> Path:
    """The source's own directory, or one in the cache that is made of a Llama GGUF file."""
    if source.kind == "safetensors":
        return source.path
    spec = (checkpoint := open_checkpoint(source)).spec
    if spec.architecture != "LlamaForCausalLM":
        raise UnsupportedModelError(
            f"{source.path} holds a {spec.architecture}; to compare engines, give a directory with "
            "safetensors, or a GGUF file with a Llama"
        )
    target = cache_dir() / "peers" / source.path.stem
    if (target / "config.json").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in checkpoint.weights()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [spec.architecture],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.max_model_len,
        "rope_theta": spec.rope_theta,
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }
    (target / "config.json").write_text(json.dumps(config, indent=1))  # last: says it is whole
    return target
