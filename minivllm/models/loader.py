"""From a model's files to a model in memory.

Counterpart in vLLM: ``vllm/model_executor/model_loader/``. The model is created with empty
parameters; then the checkpoint yields one tensor at a time, which is copied (and cast) into its
place. So memory holds the weights once, plus one tensor, whatever the file's own format.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch

from minivllm.errors import ConfigError, ModelFileError, UnsupportedModelError
from minivllm.models.causal_lm import CausalLM
from minivllm.models.cpu_linear import bfloat16_pays
from minivllm.models.gguf import GGUFCheckpoint
from minivllm.models.hf import HFCheckpoint
from minivllm.models.packed import pack
from minivllm.models.quantized import quantize, taken_as_codes
from minivllm.models.registry import find
from minivllm.models.source import ModelSource
from minivllm.native.build import why_none
from minivllm.native.codes import available as codes_run

LEAST_BYTES_PER_PARAM = 1.5 / 8
"""The tightest packing there is (IQ1). Checked before any memory is asked for: a damaged number
in a header must not allocate what no file could fill."""


def choose_dtype(dtype: str, device: torch.device, in_codes: bool = False) -> torch.dtype:
    """``auto`` is float32 on a CPU, where it is exact, and bfloat16 on a GPU; ``fast`` is bfloat16
    on a CPU, too, if that is faster in it (measured), or if the matrices stay ``in_codes``."""
    if dtype in ("auto", "fast"):
        narrow = device.type != "cpu" or (dtype == "fast" and (in_codes or bfloat16_pays()))
        dtype = "bfloat16" if narrow else "float32"
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[dtype]


def load_model(
    source: ModelSource, dtype: str, device: torch.device, quantization: str = "none"
) -> CausalLM:
    """Read a model. ``dtype`` and ``quantization``: see ``ModelConfig``.

    Raises UnsupportedModelError (it lists what is supported) or ModelFileError.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.spec.num_params * LEAST_BYTES_PER_PARAM > checkpoint.num_bytes:
        raise ModelFileError(
            f"{source.path}: its configuration describes {checkpoint.spec.num_params} parameters, "
            f"but it holds only {checkpoint.num_bytes} bytes. Fetch it again"
        )
    on_cpu = device.type == "cpu"
    grouped = checkpoint.grouped() if on_cpu and quantization != "none" else set()
    chosen = choose_dtype(dtype, device, bool(grouped) and codes_run())
    if quantization == "q4":
        _check_q4(on_cpu, chosen, bool(grouped))
    previous = torch.get_default_dtype()
    torch.set_default_dtype(chosen)
    try:
        with device, torch.inference_mode():
            model = find(checkpoint.spec.architecture).build(checkpoint.spec)
    finally:
        torch.set_default_dtype(previous)
    as_codes = taken_as_codes(model, grouped)
    try:
        with torch.inference_mode(), _one_thread():
            model.load_weights(checkpoint.weights(as_codes), as_codes)
            quantize(model, as_codes, checkpoint.groups)
    except ModelFileError as error:
        if str(source.path) in str(error):
            raise
        raise ModelFileError(
            f"{source.path}: {error}. It is not whole, or its configuration is another model's. "
            "Fetch it again"
        ) from None
    if on_cpu and (dtype == "fast" or model.embed_tokens.dtype != torch.float32):
        with torch.inference_mode():
            pack(model, checkpoint.groups if grouped else _nothing)
    _give_memory_back()
    if quantization == "q4" and not model.has_int4:
        _refuse_q4(
            "no layer has all its matrices so, or neither the C code nor torch's 4-bit kernel runs "
            f"here ({why_none()})"
        )
    return model


def _check_q4(on_cpu: bool, dtype: torch.dtype, grouped: bool) -> None:
    """Before the weights are read."""
    if not on_cpu:
        _refuse_q4("this runs on a GPU")
    if dtype != torch.bfloat16:
        _refuse_q4(f"the dtype is {str(dtype).removeprefix('torch.')}")
    if not grouped:
        _refuse_q4("the checkpoint has no such matrix")


def _refuse_q4(why: str) -> NoReturn:
    raise ConfigError(
        "quantization",
        "q4",
        "auto | none here; q4 is for a checkpoint with Q4_0 or Q4_1 matrices, on a CPU, in "
        f"bfloat16: {why}",
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """For thousands of small operations: by several threads they are hardly faster, and where a
    core is busy with something else they wait for each other (5 s instead of 1)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _give_memory_back() -> None:
    """What the unpacking took: glibc keeps it, in pieces that are seldom of use (50 MB of 400)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _nothing(target: str) -> None:
    """No groups of any matrix."""


def open_checkpoint(source: ModelSource) -> GGUFCheckpoint | HFCheckpoint:
    """Open the files and read the model's numbers; the weights stay on disk."""
    if source.kind == "gguf":
        return GGUFCheckpoint(source.path)
    if source.kind == "safetensors":
        return HFCheckpoint(source.path)
    raise UnsupportedModelError(
        f"model files of kind {source.kind!r}; supported: gguf, safetensors"
    )
