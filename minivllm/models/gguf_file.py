"""The GGUF container: metadata and quantised tensors in one file.

Layout: magic, version, counts; key-value pairs; a name, shape, type and offset per tensor; then,
aligned, the tensors' bytes. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
The reader of the ``gguf`` package is not used because it spends 4 s on the vocabulary's strings,
one object each, where 0.2 s are enough; the types that are not unpacked here go through that
package's dequantiser. Left out: big-endian files, files split in several.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from minivllm.errors import ModelFileError, UnsupportedModelError

VERSIONS = (2, 3)
_SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")
"""struct's (and numpy's) codes of the value types 0 … 12; 8 is a string, 9 an array."""
_STRING, _ARRAY = 8, 9
SUPPORTED = (
    "supported: F32, F16, BF16, Q4_0, Q4_1, Q8_0 and whatever else the gguf package unpacks "
    "(Q5_0, Q5_1, the K-quants …)"
)


GROUP_SIZE = 32
"""Numbers that share a scale, in every type unpacked here."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A matrix (rows, cols) as the file has it: ``code * scale + minimum``, group by group."""

    codes: torch.Tensor
    """(rows, cols) uint8, 0 … 15 (or 255)"""
    scale: torch.Tensor
    """(rows, cols / 32) float32"""
    minimum: torch.Tensor
    """(rows, cols / 32) float32"""
    bits: int
    """4 or 8: of a code"""

    def dense(self) -> torch.Tensor:
        """(rows, cols) float32"""
        wide = self.codes.view(*self.scale.shape, GROUP_SIZE).float()
        return (wide * self.scale[..., None] + self.minimum[..., None]).view(self.codes.shape)

    @classmethod
    def joined(cls, parts: Sequence[Groups]) -> Groups:
        """The rows of each below those of the one before."""
        return cls(
            torch.cat([part.codes for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat([part.minimum for part in parts]),
            max(part.bits for part in parts),
        )

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Groups:
        """With ``change``, which re-orders rows, done to all three."""
        return Groups(change(self.codes), change(self.scale), change(self.minimum), self.bits)

    def split(self, rows: int) -> list[Groups]:
        """By so many rows."""
        parts = (self.codes.split(rows), self.scale.split(rows), self.minimum.split(rows))
        return [Groups(*part, self.bits) for part in zip(*parts, strict=True)]

    def halved(self) -> Groups:
        """Eight bits as two times four: with code = 16 · high + low, W · x is [high | low] · [x |
        x], each half with a scale of its own. The matrix comes out twice as wide."""
        return Groups(
            torch.cat((self.codes >> 4, self.codes & 15), dim=1),
            torch.cat((16 * self.scale, self.scale), dim=1),
            torch.cat((self.minimum, torch.zeros_like(self.scale)), dim=1),
            4,
        )


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor's entry in the file's directory."""

    name: str
    shape: tuple[int, ...]
    """As torch writes it: rows first (the file has it the other way round)."""
    type_id: int
    start: int
    """Byte in the file."""
    num_bytes: int


class GGUFFile:
    """An open file: ``metadata`` (key → value), ``tensors`` (name → entry), ``load(name)``.

    Raises ModelFileError for what is no GGUF file or is cut short, UnsupportedModelError for a
    version or a quantisation nobody here can read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = np.memmap(path, dtype=np.uint8, mode="r")  # (file bytes,)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ModelFileError(f"{path} cannot be read: {error}") from None
        self._view = self._data.data
        self._at = 0
        try:
            self._read_header()
        except struct.error:
            self._fail("it is cut short inside its header")
        except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
            self._fail("its header is damaged")

    def _fail(self, why: str) -> NoReturn:
        raise ModelFileError(f"{self.path} is not a whole GGUF file: {why}. Fetch it again")

    # --- the header ------------------------------------------------------------------------------

    def _read_header(self) -> None:
        if bytes(self._view[:4]) != b"GGUF":
            self._fail(f"it begins with {bytes(self._view[:4])!r} instead of b'GGUF'")
        self._at = 4
        version = self._scalar("I")
        if version not in VERSIONS:
            raise UnsupportedModelError(
                f"{self.path} has GGUF version {version}; supported: {VERSIONS} (little-endian)"
            )
        num_tensors, num_pairs = self._scalar("Q"), self._scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"))
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = int(self.metadata.get("general.alignment", 32))
        if alignment < 1:
            self._fail(f"general.alignment is {alignment}")
        data_start = -(-self._at // alignment) * alignment
        self.tensors: dict[str, GGUFTensor] = {}
        for name, shape, type_id, offset in entries:
            tensor = GGUFTensor(
                name, shape, type_id, data_start + offset, self._size(name, shape, type_id)
            )
            if tensor.start + tensor.num_bytes > len(self._data):
                self._fail(f"it ends at byte {len(self._data)}, within the tensor {name}")
            self.tensors[name] = tensor

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._view, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        text = bytes(self._view[self._at : self._at + length])
        if len(text) < length:
            raise struct.error
        self._at += length
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, length = self._scalar("I"), self._scalar("Q")
            if item in (_STRING, _ARRAY):
                return [self._value(item) for _ in range(length)]
            values = np.frombuffer(self._data, "<" + str(_SCALARS[item]), length, self._at)
            self._at += values.nbytes
            return values
        code_of_kind = _SCALARS[kind]
        return self._scalar(code_of_kind) if code_of_kind else None

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        sizes = [self._scalar("Q") for _ in range(self._scalar("I"))]
        return name, tuple(reversed(sizes)), self._scalar("I"), self._scalar("Q")

    def _size(self, name: str, shape: tuple[int, ...], type_id: int) -> int:
        """Bytes of a tensor; quantised types store blocks of so many numbers in so many bytes."""
        per_block, block_bytes = _block_layout(type_id, f"tensor {name} of {self.path}")
        count = math.prod(shape)
        if count % per_block:
            self._fail(f"tensor {name} of shape {shape} is no whole number of blocks")
        return count // per_block * block_bytes

    # --- tensors ---------------------------------------------------------------------------------

    def is_grouped(self, name: str) -> bool:
        tensor = self.tensors[name]
        return tensor.type_id in GROUPED and len(tensor.shape) == 2

    def groups(self, name: str) -> Groups | None:
        """The tensor as codes, where its type is one that can be written so exactly."""
        tensor = self.tensors[name]
        if not self.is_grouped(name):
            return None
        raw = self._data[tensor.start : tensor.start + tensor.num_bytes]
        return GROUPED[tensor.type_id](torch.from_numpy(raw.copy()), tensor.shape)

    def load(self, name: str) -> torch.Tensor:
        """The tensor, unpacked: float32 (float16 and bfloat16 stay what they are)."""
        tensor = self.tensors[name]
        raw = self._data[tensor.start : tensor.start + tensor.num_bytes]
        if tensor.type_id in FORMATS:
            unpack = FORMATS[tensor.type_id][2]
            # A copy, because the file is mapped read-only and torch has no read-only tensors.
            return unpack(torch.from_numpy(raw.copy())).view(tensor.shape)
        import gguf

        kind = gguf.GGMLQuantizationType(tensor.type_id)
        try:
            return torch.from_numpy(gguf.dequantize(raw, kind)).view(tensor.shape)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"tensor {name} of {self.path} is quantised as {kind.name}; {SUPPORTED}"
            ) from None


def _block_layout(type_id: int, where: str) -> tuple[int, int]:
    """(numbers per block, bytes per block) of a tensor type."""
    if type_id in FORMATS:
        return FORMATS[type_id][:2]
    import gguf  # half a second, so only where a file needs it

    try:
        return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type_id)]
    except (ValueError, KeyError):
        raise UnsupportedModelError(
            f"{where} has the unknown type {type_id}; {SUPPORTED}"
        ) from None


# --- unpacking: blocks of 32 numbers share a scale (and, in Q4_1, a minimum) ----------------------


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """(blocks, 16) bytes → (blocks, 32) codes 0 … 15: all low halves, then all high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=1)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    return _codes(packed).float()


def _half(two_bytes: torch.Tensor) -> torch.Tensor:
    """(blocks, 2) bytes → (blocks, 1) float32."""
    return two_bytes.contiguous().view(torch.float16).float()


def _q4_0(raw: torch.Tensor) -> torch.Tensor:
    blocks = raw.view(-1, 18)  # float16 scale, 16 bytes
    return (_nibbles(blocks[:, 2:]) - 8) * _half(blocks[:, :2])


def _q4_1(raw: torch.Tensor) -> torch.Tensor:
    blocks = raw.view(-1, 20)  # float16 scale, float16 minimum, 16 bytes
    return _nibbles(blocks[:, 4:]) * _half(blocks[:, :2]) + _half(blocks[:, 2:4])


def _q8_0(raw: torch.Tensor) -> torch.Tensor:
    blocks = raw.view(-1, 34)  # float16 scale, 32 signed bytes
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks[:, :2])


FORMATS: dict[int, tuple[int, int, Callable[[torch.Tensor], torch.Tensor]]] = {
    0: (1, 4, lambda raw: raw.view(torch.float32)),
    1: (1, 2, lambda raw: raw.view(torch.float16)),
    2: (32, 18, _q4_0),
    3: (32, 20, _q4_1),
    8: (32, 34, _q8_0),
    30: (1, 2, lambda raw: raw.view(torch.bfloat16)),
}
"""The file format's number of a type → (numbers per block, bytes per block, unpacking)."""


# --- the same blocks as codes, for kernels that compute with them ---------------------------------


def _groups_q4_0(raw: torch.Tensor, shape: tuple[int, ...]) -> Groups:
    blocks, by_group = raw.view(-1, 18), (shape[0], -1)
    scale = _half(blocks[:, :2]).view(by_group)
    return Groups(_codes(blocks[:, 2:]).view(shape), scale, -8 * scale, 4)


def _groups_q4_1(raw: torch.Tensor, shape: tuple[int, ...]) -> Groups:
    blocks, by_group = raw.view(-1, 20), (shape[0], -1)
    scale, minimum = _half(blocks[:, :2]).view(by_group), _half(blocks[:, 2:4]).view(by_group)
    return Groups(_codes(blocks[:, 4:]).view(shape), scale, minimum, 4)


def _groups_q8_0(raw: torch.Tensor, shape: tuple[int, ...]) -> Groups:
    blocks, by_group = raw.view(-1, 34), (shape[0], -1)
    scale = _half(blocks[:, :2]).view(by_group)
    codes = (blocks[:, 2:] ^ 128).reshape(shape)  # −128 … 127 → 0 … 255
    return Groups(codes, scale, -128 * scale, 8)


GROUPED: dict[int, Callable[[torch.Tensor, tuple[int, ...]], Groups]] = {
    2: _groups_q4_0,
    3: _groups_q4_1,
    8: _groups_q8_0,
}
