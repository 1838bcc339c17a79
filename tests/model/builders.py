"""Small models with known weights, written in both formats, and the references to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from minivllm.attention.metadata import AttentionMetadata
from minivllm.attention.torch_backend import TorchAttention
from minivllm.models.causal_lm import CausalLM
from minivllm.models.source import ModelSource

VOCAB = 160
CPU = torch.device("cpu")
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None, "eos_token_id": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},  # wider than hidden / heads, as in the released ones
}
"""model_type → what its small model has beside the fields that all have."""
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def reference_llama(seed: int = 0, **changes: Any) -> Any:
    return reference_model("llama", seed, **changes)


def reference_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A small model of transformers with seeded random weights, large enough to have opinions."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.15,
        "rms_norm_eps": 1e-5,
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**fields, **KINDS[kind], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:  # else ones and zeros, which hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save_hf(model: Any, directory: Path, **options: Any) -> ModelSource:
    model.save_pretrained(directory, **options)
    return ModelSource("safetensors", directory, directory.name)


def save_tokenizer(directory: Path, **config: Any) -> None:
    """A byte-level tokenizer without merges: every byte is a token, then the three of SPECIALS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    directory.mkdir(exist_ok=True)
    raw.save(str(directory / "tokenizer.json"))
    fields = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))


def permute_for_gguf(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's converter does with the rows of Q and K."""
    halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def save_gguf(
    model: Any,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str | None = None,
    extra: dict[str, np.ndarray] | None = None,
    metadata: dict[str, Any] | None = None,
    tokenizer: bool = False,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
) -> ModelSource:
    """Write the model as llama.cpp's converter would; matrices are quantised as ``kind``, and
    those named in ``kinds`` as that says."""
    config = model.config
    like_llama = config.model_type in ("llama", "mistral")
    writer = gguf.GGUFWriter(path, architecture or ("llama" if like_llama else config.model_type))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "head_dim"):
        writer.add_key_length(config.head_dim)
    if like_llama:
        writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if tokenizer:
        _add_tokenizer(writer, config.vocab_size)
    else:
        writer.add_token_list([f"token{i}" for i in range(config.vocab_size)])
    for key, value in (metadata or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    for name, array in {**tensors, **(extra or {})}.items():
        if like_llama and ".q_proj." in name:
            array = permute_for_gguf(array, config.num_attention_heads)
        elif like_llama and ".k_proj." in name:
            array = permute_for_gguf(array, config.num_key_value_heads)
        as_kind = (kinds or {}).get(name, kind)
        if array.ndim == 2 and as_kind != gguf.GGMLQuantizationType.F32:
            packed = gguf.quantize(array, as_kind)
            writer.add_tensor(_gguf_name(name), packed, raw_dtype=as_kind)
        else:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelSource("gguf", path, path.stem)


def _add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """The one of ``save_tokenizer``, as llama.cpp's converter writes it; one merge, because
    transformers' conversion asks for some; then padding, if the model has more rows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = [*alphabet, *SPECIALS, "ab"]
    padding = [f"[PAD{i}]" for i in range(len(tokens), vocab_size)]
    writer.add_token_list(tokens + padding)
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * 256
        + [gguf.TokenType.CONTROL] * 3
        + [gguf.TokenType.NORMAL]
        + [gguf.TokenType.UNUSED] * len(padding)
    )
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)


def _gguf_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top or not name.startswith("model.layers."):
        return top.get(name, name)
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{number}.{GGUF_NAMES[module]}.{kind}"


@torch.inference_mode()
def logits_of(model: CausalLM, token_ids: list[int], block_size: int = 16) -> torch.Tensor:
    """Logits after every token of one sequence run in one step: (num_tokens, vocab)."""
    count = len(token_ids)
    num_blocks = -(-count // block_size)
    backend, spec = TorchAttention(), model.spec
    shape = backend.kv_cache_shape(num_blocks + 1, block_size, spec.num_kv_heads, spec.head_dim)
    caches = [torch.zeros(shape, dtype=model.embed_tokens.dtype) for _ in range(spec.num_layers)]
    metadata = AttentionMetadata(
        query_start_loc=torch.tensor([0, count], dtype=torch.int32),
        seq_lens=torch.tensor([count], dtype=torch.int32),
        block_table=torch.arange(1, num_blocks + 1, dtype=torch.int32)[None],
        slot_mapping=torch.arange(block_size, block_size + count),
    )
    hidden = model(
        torch.tensor(token_ids),
        torch.arange(count),
        caches,
        backend.prepare(metadata, block_size),
    )
    return model.compute_logits(hidden)


@torch.inference_mode()
def reference_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """The same from transformers."""
    return model(torch.tensor([token_ids])).logits[0].float()


@torch.inference_mode()
def reference_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation by transformers with its own cache; EOS is a token like any other."""
    output: list[int] = []
    ids, past = torch.tensor([prompt]), None
    for _ in range(count):
        result = model(ids, past_key_values=past, use_cache=True)
        past = result.past_key_values
        output.append(int(result.logits[0, -1].argmax()))
        ids = torch.tensor([[output[-1]]])
    return output


def random_prompt(length: int, seed: int, vocab: int = VOCAB) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (length,), generator=generator).tolist()
