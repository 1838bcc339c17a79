"""Which kernels run: chosen once, by the device and ``--attention-backend``.

Counterpart in vLLM: ``vllm/v1/attention/selector.py``. Triton is imported here and nowhere else
outside its own kernels, and only when it was chosen.
"""

from __future__ import annotations

import importlib.util

import torch

from minivllm.attention.metadata import AttentionBackend
from minivllm.attention.native_backend import DIMS, MOST_ROWS, NativeAttention
from minivllm.attention.torch_backend import TorchAttention
from minivllm.errors import ConfigError, MissingExtraError
from minivllm.models.operators import Operators, TorchOperators
from minivllm.models.spec import ModelSpec
from minivllm.native.build import library, why_none
from minivllm.native.operators import NativeOperators


def select_kernels(name: str, device: torch.device) -> tuple[AttentionBackend, Operators]:
    """``name``: ``torch`` | ``triton`` | ``auto``, which is Triton on a GPU where it is installed;
    ``native`` is torch's until the model is known (:func:`select_native`).

    Raises ConfigError for Triton without a GPU or interpreter, MissingExtraError without Triton.
    """
    installed = importlib.util.find_spec("triton") is not None
    if name == "auto":
        name = "triton" if device.type == "cuda" and installed else "torch"
    if name in ("torch", "native"):
        return TorchAttention(), TorchOperators()
    if not installed:
        raise MissingExtraError(
            "--attention-backend triton needs Triton, which is not installed: pip install "
            "'minivllm[engine]' (Linux), or take --attention-backend torch"
        )
    from minivllm.attention.kernels.launch import INTERPRETED

    if device.type != "cuda" and not INTERPRETED:
        raise ConfigError(
            "attention_backend",
            name,
            "torch | auto without an NVIDIA GPU; or set TRITON_INTERPRET=1, and Triton's "
            "interpreter runs the kernels, some thousand times slower",
        )
    from minivllm.attention.kernels.operators import TritonOperators
    from minivllm.attention.triton_backend import TritonAttention

    return TritonAttention(device), TritonOperators()


def select_native(
    name: str, spec: ModelSpec, dtype: torch.dtype
) -> tuple[AttentionBackend, Operators] | None:
    """The compiled kernels, for a model on a CPU: with ``auto`` and ``native``, where they fit it.

    Raises ConfigError where ``native`` was asked for and cannot be had.
    """
    if name not in ("auto", "native"):
        return None
    lacking = _lacking(spec, dtype)
    found = library() if not lacking else None
    if found is not None:
        return NativeAttention(found, spec.num_heads, spec.num_kv_heads), NativeOperators(found)
    if name == "auto":
        return None
    why = lacking or why_none()
    raise ConfigError("attention_backend", name, f"torch | auto here: native cannot run ({why})")


def _lacking(spec: ModelSpec, dtype: torch.dtype) -> str:
    """Why the compiled attention does not fit a model; empty if it does."""
    if dtype != torch.bfloat16:
        return f"it needs dtype bfloat16, this is {str(dtype).removeprefix('torch.')}"
    if spec.head_dim not in DIMS:
        return f"it takes heads of {' | '.join(map(str, DIMS))} numbers, these have {spec.head_dim}"
    if _share(spec) > MOST_ROWS:
        return f"it takes {MOST_ROWS} query heads to a K/V head, this has {_share(spec)}"
    return ""


def _share(spec: ModelSpec) -> int:
    return spec.num_heads // spec.num_kv_heads
