"""Which kernels run: chosen once, by the device and ``--attention-backend``.

Counterpart in vLLM: ``vllm/v1/attention/selector.py``. Triton is imported here and nowhere else
outside its own kernels, and only when it was chosen.
"""

from __future__ import annotations

import importlib.util

import torch

from minivllm.attention.metadata import AttentionBackend
from minivllm.attention.torch_backend import TorchAttention
from minivllm.errors import ConfigError, MissingExtraError
from minivllm.models.operators import Operators, TorchOperators


def select_kernels(name: str, device: torch.device) -> tuple[AttentionBackend, Operators]:
    """``name``: ``torch`` | ``triton`` | ``auto``, which is Triton on a GPU where it is installed.

    Raises ConfigError for Triton without a GPU or interpreter, MissingExtraError without Triton.
    """
    installed = importlib.util.find_spec("triton") is not None
    if name == "auto":
        name = "triton" if device.type == "cuda" and installed else "torch"
    if name == "torch":
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
