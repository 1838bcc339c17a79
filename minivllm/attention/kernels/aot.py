"""Compile a launch for a GPU that is not here, and read off what it would need there.

Triton's compiler and NVIDIA's assembler come with the package and run on any Linux machine: only
the running needs a GPU. The result lies in Triton's own cache (``~/.triton/cache``), so what was
compiled once is read the next time.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from minivllm.attention.kernels.launch import INTERPRETED, Launch
from minivllm.errors import ConfigError

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one program of a kernel occupies."""

    registers: int
    """Of each thread, 255 at most."""
    shared_bytes: int
    spilled_bytes: int
    """What a thread had no register for, and keeps in (slow) memory."""


def compile_launch(launch: Launch, arch: int) -> Compiled:
    """``launch``: of tensors on any device, ``meta`` too. ``arch``: 80 for sm_80, and so on.

    Raises ConfigError in a process whose kernels are interpreted.
    """
    if INTERPRETED:
        raise ConfigError("TRITON_INTERPRET", "1", "unset, to compile kernels")
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.args[parameter.name]
        kind, aligned = _specialise(parameter, value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[(i,)] = value
        elif aligned:
            attributes[(i,)] = _ALIGNED
    compiled = triton.compile(
        ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", arch, 32),
        options=launch.options,
    )
    registers, spilled = _resources(compiled.asm["cubin"])
    return Compiled(registers, compiled.metadata.shared, spilled)


def _specialise(parameter: Any, value: Any) -> tuple[str, bool]:
    """(type, divisible by 16), as Triton decides when it launches: 1 and None are constants, and
    pointers and numbers divisible by 16 are known to be so (torch aligns what it allocates)."""
    if parameter.is_constexpr or value is None:
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype], True
    if isinstance(value, float):
        return "fp32", False
    if value == 1 and not parameter.do_not_specialize:
        return "constexpr", False
    wide = not -(2**31) <= value < 2**31
    return "i64" if wide else "i32", value % 16 == 0 and not parameter.do_not_specialize


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, spilled bytes) of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [_CUOBJDUMP, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", told)}
    return used["REG"], used["STACK"] + used["LOCAL"]
