"""The C code of ``quantized.c`` from Python: matrices as it reads them, and its three calls.

A layer's structure is laid out once; a call passes pointers and a number of tokens.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from minivllm.models.gguf_file import GROUP_SIZE, Groups
from minivllm.native.build import library

PANEL = 32
"""Rows that are packed together."""
QUAD = 4
"""Columns that one instruction multiplies and adds up."""


class Matrix(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("bits", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("first_norm", "second_norm", "q_norm", "k_norm")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "dim", "hidden")),
    )


@cache
def available() -> bool:
    """Whether there is a library, and this CPU has what ``quantized.c`` needs."""
    found = library()
    return found is not None and bool(found.has_quantized())


def fits(rows: int, cols: int) -> bool:
    return rows % PANEL == 0 and cols % GROUP_SIZE == 0


def panels(groups: Groups) -> torch.Tensor:
    """The matrix as the C code reads it: (panels, groups, bytes) uint8; see ``quantized.c``."""
    rows, cols = groups.codes.shape
    shape = (rows // PANEL, 2, PANEL // 2, cols // GROUP_SIZE, GROUP_SIZE // QUAD, QUAD)
    # (panel, half, row, group, quad, column) → (panel, group, quad, half, row, column)
    codes = groups.codes.view(shape).permute(0, 3, 4, 1, 2, 5)
    if groups.bits == 4:
        codes = codes[:, :, :, 0] | (codes[:, :, :, 1] << 4)
    parts = [_by_panel(groups.scale), _by_panel(groups.minimum), codes.flatten(2)]
    return torch.cat(parts, dim=2)


def _by_panel(numbers: torch.Tensor) -> torch.Tensor:
    """(rows, groups) float32 → (panels, groups, 64) bytes of float16: what a file has them in."""
    by_panel = numbers.half().view(-1, PANEL, numbers.shape[1]).transpose(1, 2)
    return by_panel.contiguous().view(torch.uint8)
