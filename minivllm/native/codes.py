"""The C code of ``codes.h`` from Python: matrices as it reads them, and its three calls.

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
ROWS_AT_ONCE = 64 * PANEL
"""That are packed in one go: what that takes beside the result stays small."""
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
    """Whether there is a library, and this CPU has what ``codes.h`` needs."""
    found = library()
    return found is not None and bool(found.has_codes())


def fits(rows: int, cols: int) -> bool:
    return rows % PANEL == 0 and cols % GROUP_SIZE == 0


def panels(groups: Groups) -> torch.Tensor:
    """The matrix as the C code reads it: (panels, groups, bytes) uint8; see ``codes.h``."""
    rows, cols = groups.codes.shape
    block_bytes = 4 * PANEL + groups.bits * PANEL * GROUP_SIZE // 8
    result = torch.empty((rows // PANEL, cols // GROUP_SIZE, block_bytes), dtype=torch.uint8)
    into = result.split(ROWS_AT_ONCE // PANEL)
    for some, to in zip(groups.split(ROWS_AT_ONCE), into, strict=True):
        # (panel, half, row, group, quad, column) → (panel, group, quad, half, row, column)
        shape = (-1, 2, PANEL // 2, cols // GROUP_SIZE, GROUP_SIZE // QUAD, QUAD)
        codes = some.codes.reshape(shape).permute(0, 3, 4, 1, 2, 5)
        if groups.bits == 4:
            codes = codes[:, :, :, 0] | (codes[:, :, :, 1] << 4)
        torch.cat((_by_panel(some.scale), _by_panel(some.minimum), codes.flatten(2)), 2, out=to)
    return result


def rows_of(blocks: torch.Tensor, bits: int, rows: torch.Tensor) -> torch.Tensor:
    """Some rows, (num_rows,), of :func:`panels` as they were: (num_rows, cols) float32."""
    panel, within = rows // PANEL, rows % PANEL
    half, row = within // (PANEL // 2), within % (PANEL // 2)
    scales = blocks[..., : 4 * PANEL].view(torch.float16).unflatten(2, (2, PANEL))
    shape = (GROUP_SIZE // QUAD, bits // 4, PANEL // 2, QUAD)
    codes = blocks[..., 4 * PANEL :].unflatten(2, shape)  # (panel, group, quad, half, row, column)
    if bits == 8:
        found = codes[panel, :, :, half, row]
    else:
        found = (codes[panel, :, :, 0, row] >> (4 * half)[:, None, None, None]) & 15
    scale, minimum = scales[panel, :, 0, within], scales[panel, :, 1, within]
    wide = found.flatten(2).float()  # (num_rows, groups, 32)
    return (wide * scale[..., None].float() + minimum[..., None].float()).flatten(1)


def _by_panel(numbers: torch.Tensor) -> torch.Tensor:
    """(rows, groups) float32 → (panels, groups, 64) bytes of float16: what a file has them in."""
    by_panel = numbers.half().view(-1, PANEL, numbers.shape[1]).transpose(1, 2)
    return by_panel.contiguous().view(torch.uint8)
