"""A model in Hugging Face's layout: ``config.json`` and one or several ``*.safetensors``.

Counterpart in vLLM: ``vllm/model_executor/model_loader/default_loader.py``. Left out: ``.bin`` and
``.pth`` files (they are pickles, which can run code), quantised checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from minivllm.errors import ModelFileError, UnsupportedModelError
from minivllm.models.registry import MODELS, find
from minivllm.models.spec import ModelSpec

INDEX = "model.safetensors.index.json"
ROPE_TYPES = ("default", "llama3")
LAYER_TYPES = ("full_attention", "sliding_attention")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's directory; ModelFileError says what is wrong with the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: nested 20,000 deep
        raise ModelFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds no JSON object")
    return value


class HFCheckpoint:
    """``spec`` and ``weights()`` of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spec = read_spec(directory / "config.json")
        self.files = self._files()
        self.num_bytes = sum(path.stat().st_size for path in self.files)

    def weights(self, without: Container[str] = ()) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, one at a time; the files are mapped, not read as a whole."""
        for path in self.files:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (safe_open is no dict)
                        if name not in without:
                            yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise ModelFileError(
                    f"{path} is not a whole safetensors file: {error}. Fetch it again"
                ) from None

    def grouped(self) -> set[str]:
        return set()

    def groups(self, target: str) -> None:
        """No matrix here is quantised."""

    def _files(self) -> list[Path]:
        """The shards that the index names, or else the one file."""
        if (self.directory / INDEX).is_file():
            weight_map = read_json(self.directory / INDEX).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ModelFileError(f"{self.directory / INDEX} has no weight_map")
            # Path.name: an index must not lead out of its directory.
            paths = [self.directory / Path(name).name for name in sorted(set(weight_map.values()))]
        else:
            paths = [self.directory / "model.safetensors"]
            if not paths[0].is_file():
                paths = sorted(self.directory.glob("*.safetensors"))
        missing = [path.name for path in paths if not path.is_file()]
        if missing or not paths:
            raise ModelFileError(
                f"{self.directory} lacks {', '.join(missing) or 'any *.safetensors'}. "
                "Fetch it again"
            )
        return paths


def read_spec(path: Path) -> ModelSpec:
    """The numbers in a ``config.json``.

    Raises UnsupportedModelError for an architecture or an option that is not implemented.
    """
    config = read_json(path)
    name = _architecture(config, path)
    config = {**find(name).config_defaults, **config}
    if config.get("quantization_config"):
        raise UnsupportedModelError(
            f"{path} describes quantised weights; supported: float32, float16, bfloat16 in "
            "safetensors, or a GGUF file"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"{path}: hidden_act {config['hidden_act']}; supported: silu")
    try:
        num_heads = int(config["num_attention_heads"])
        hidden_size = int(config["hidden_size"])
        head_dim = int(config.get("head_dim") or hidden_size // num_heads)
        rope = _rope_fields(config)
        rope_theta = float(rope.get("rope_theta", 10000.0))
        vocab_size = int(config["vocab_size"])
        _check_eos(config.get("eos_token_id"), vocab_size)
        return ModelSpec(
            architecture=name,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=head_dim,
            max_model_len=int(config["max_position_embeddings"]),
            rope_theta=rope_theta,
            rms_norm_eps=float(config["rms_norm_eps"]),
            tie_word_embeddings=_flag(config, "tie_word_embeddings"),
            attention_bias=_flag(config, "attention_bias"),
            mlp_bias=_flag(config, "mlp_bias"),
            sliding_window=_sliding_window(config),
            rope_divisors=_rope_divisors(rope, rope_theta, head_dim, path),
            config=config,
        )
    except KeyError as error:
        raise ModelFileError(f"{path} lacks the field {error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelFileError(f"{path} has a field of the wrong type or value: {error}") from None


def _flag(config: dict[str, Any], name: str, default: bool = False) -> bool:
    """Any text counts as true to Python, "false" among them."""
    given = config.get(name, default)
    if given is not None and not isinstance(given, bool):
        raise ValueError(f"{name} is {given!r:.60}; allowed: true, false")
    return bool(given)


def _check_eos(given: Any, vocab_size: int) -> None:
    """Not used, since the tokenizer names the token; but a wrong one tells of a damaged file."""
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise ValueError(
            f"eos_token_id is {given!r:.60}; allowed: an id below {vocab_size}, or a list of ids"
        )


def _architecture(config: dict[str, Any], path: Path) -> str:
    names = config.get("architectures")
    names = [names] if isinstance(names, str) else names  # some write the one name alone
    name = str(names[0]) if isinstance(names, list) and names else "(none named)"
    if name not in MODELS:
        raise UnsupportedModelError(
            f"{path} names the architecture {name}; supported: {', '.join(MODELS)}"
        )
    return name


def _sliding_window(config: dict[str, Any]) -> int | None:
    """Tokens that the layers with a window see; None if every layer sees everything."""
    num_layers, layer_types = int(config["num_hidden_layers"]), config.get("layer_types")
    if layer_types is not None and (
        not isinstance(layer_types, list)
        or len(layer_types) != num_layers
        or not all(kind in LAYER_TYPES for kind in layer_types)
    ):
        raise ValueError(
            f"layer_types is {layer_types!r:.60}; allowed: for each of the {num_layers} layers "
            f"one of {', '.join(LAYER_TYPES)}"
        )
    uses_window = _flag(config, "use_sliding_window", default=True)
    if not uses_window or config.get("sliding_window") is None:
        return None
    full = int(config.get("max_window_layers", 0)) >= num_layers
    if layer_types:  # newer files say it layer by layer
        full = "sliding_attention" not in layer_types
    return None if full else int(config["sliding_window"])


def _rope_fields(config: dict[str, Any]) -> dict[str, Any]:
    """``rope_theta`` and the scaling, which transformers 5 writes as one ``rope_parameters``."""
    fields = {"rope_theta": config["rope_theta"]} if "rope_theta" in config else {}
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{name} is {given!r:.60}; allowed: an object")
        fields |= given
    return fields


def _rope_divisors(
    rope: dict[str, Any], theta: float, head_dim: int, path: Path
) -> tuple[float, ...] | None:
    """Llama 3.1's stretch of the rotary frequencies beyond the context of the first training.

    Waves longer than original / low_freq_factor (in tokens) are slow and divided by ``factor``,
    those shorter than original / high_freq_factor stay as they are, smooth between. Source:
    ``_compute_llama3_parameters`` in transformers' ``modeling_rope_utils.py``.
    """
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None:
        if unused := rope.keys() - {"rope_theta"}:
            raise ValueError(f"the rope scaling names {', '.join(sorted(unused))} and no rope_type")
        kind = "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"{path}: rope scaling {kind!r}; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        return None
    factor, original = float(rope["factor"]), int(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    divisors = []
    for i in range(0, head_dim, 2):
        turns = original / (2 * math.pi * theta ** (i / head_dim))  # within the old context
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(divisors)
