"""Artifacts: the arrays of a captured step, in a file of their own beside the trace.

An event ``exec.tensors`` names the file, its size and its checksum; the trace ``run.jsonl`` has its
files in ``run.jsonl.tensors/``. The format is safetensors, so that numpy or torch open a file as it
is (``safetensors.numpy.load_file``); it is simple enough to be read here with neither:

    8 bytes: length of the header · the header, JSON: name → dtype, shape, place · the arrays

A file's name is taken from the event only if it is one that this room would give, so no trace can
make its reader open anything else. ``artifact_store.py`` writes. No counterpart in vLLM.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minivllm.core.scheduler_output import TensorArray
from minivllm.errors import ArtifactError, MissingArtifactError
from minivllm.trace.events import ArrayInfo, Event, ExecTensors

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
_FORMATS = {"F32": "f", "F16": "e", "I64": "q", "I32": "i"}
_FILE_NAME = re.compile(r"(?:engine\d+-\d+-)?step-\d{6,}\.safetensors")
_AT_ONCE = 2**16  # numbers that are unpacked at once


def folder_of(trace: str | Path) -> Path:
    """``run.jsonl``, or ``run.jsonl.gz`` → ``run.jsonl.tensors``."""
    trace = Path(trace)
    return trace.with_name(trace.name.removesuffix(".gz") + ".tensors")


def file_name(stream: str, epoch: int, step: int) -> str:
    whose = "" if (stream, epoch) == ("engine0", 1) else f"{stream}-{epoch}-"
    return f"{whose}step-{step:06d}.safetensors"


def is_file_name(name: str) -> bool:
    return _FILE_NAME.fullmatch(name) is not None


def encode(arrays: Sequence[TensorArray], about: dict[str, str]) -> bytes:
    """A safetensors file; ``about`` becomes its ``__metadata__``."""
    header: dict[str, Any] = {"__metadata__": about}
    end = 0
    # Wide numbers first, so that each array begins at a multiple of what its numbers take.
    arrays = sorted(arrays, key=lambda one: -ITEM_BYTES[one.dtype])
    for one in arrays:
        begin, end = end, end + len(one.data)
        header[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    return b"".join([struct.pack("<Q", len(text)), text, *(one.data for one in arrays)])


class Artifact:
    """One step's arrays, to be read by name. Of a file only what is asked for is read."""

    def __init__(self, raw: bytes | _File, told: ExecTensors, name: str) -> None:
        """``told`` is the event; ``name`` stands in error messages. Raises ArtifactError."""
        self.name = name
        self.requests = told.requests
        source = raw if isinstance(raw, _File) else _Memory(raw)
        if source.size < told.bytes:
            raise ArtifactError(
                f"{name} is cut: {source.size} bytes, {told.bytes} were written; record the run "
                "again"
            )
        if source.size > told.bytes or source.crc32() != told.crc32:
            raise ArtifactError(
                f"{name} is not the file that the trace tells of (its checksum is another one): it "
                "was altered, or belongs to another run; record the run again"
            )
        self.arrays = {info.name: info for info in told.arrays}
        self._places = _places(source, self.arrays, name)
        self._source = source

    def info(self, name: str) -> ArrayInfo:
        """Raises MissingArtifactError for a name that is not in it."""
        if name not in self.arrays:
            known = ", ".join(self.arrays)
            raise MissingArtifactError(f"{self.name} has no array {name!r}; it has {known}")
        return self.arrays[name]

    def raw(self, name: str) -> memoryview:
        """The bytes of an array as they stand in the file."""
        self.info(name)
        return self._source.read(*self._places[name])

    def part(self, name: str, at: Sequence[int] = ()) -> Part:
        """``array[at[0], at[1], …]``: what is left of an array when its first axes are fixed.

        A negative index counts from the end. Raises MissingArtifactError, or ArtifactError for an
        index that the array does not have.
        """
        info = self.info(name)
        if len(at) > len(info.shape):
            raise ArtifactError(
                f"{name} has {len(info.shape)} axes {info.shape}; got {len(at)} indices"
            )
        offset, rest = 0, math.prod(info.shape)
        for axis, (index, size) in enumerate(zip(at, info.shape, strict=False)):
            if not -size <= index < size:
                raise ArtifactError(f"{name}, axis {axis}: got {index}; allowed: 0 to {size - 1}")
            rest //= size
            offset += (index % size) * rest
        item = ITEM_BYTES[info.dtype]
        begin = self._places[name][0] + offset * item
        data = self._source.read(begin, begin + rest * item)
        return Part(info.dtype, info.shape[len(at) :], data)


class _Memory:
    """Where an artifact's bytes come from: here, memory."""

    def __init__(self, raw: bytes) -> None:
        self.size = len(raw)
        self._raw = memoryview(raw)

    def crc32(self) -> int:
        return zlib.crc32(self._raw)

    def read(self, begin: int, end: int) -> memoryview:
        return self._raw[begin:end]


class _File:
    """An open file, closed with its last user. The step of a long prompt takes 165 MB and a lens
    asks for a row at a time, so the whole is read once, for its checksum; then as often as it is
    opened, while it stays the same file, only the parts that are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._fd)
        about = os.fstat(self._fd)
        self.size = about.st_size
        self._is = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)

    def crc32(self) -> int:
        if self._is not in _CHECKED:
            value = 0
            for begin in range(0, self.size, _CHUNK):
                value = zlib.crc32(self.read(begin, min(begin + _CHUNK, self.size)), value)
            if len(_CHECKED) >= _MOST_CHECKED:
                _CHECKED.clear()
            _CHECKED[self._is] = value
        return _CHECKED[self._is]

    def read(self, begin: int, end: int) -> memoryview:
        try:
            data = os.pread(self._fd, end - begin, begin)
        except OSError as error:
            raise ArtifactError(f"cannot read {self._path}: {error.strerror}") from error
        if len(data) < end - begin:
            raise ArtifactError(f"{self._path} was cut while it was read; record the run again")
        return memoryview(data)


_CHUNK = 2**20
_MOST_CHECKED = 1024
_CHECKED: dict[tuple[int, ...], int] = {}
"""Which file, as it was changed last → its checksum."""


class Part:
    """An array, or a part of one, whose numbers lie in one piece."""

    def __init__(self, dtype: str, shape: list[int], data: memoryview) -> None:
        self.dtype, self.shape, self.data = dtype, shape, data

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def values(self) -> list[Any]:
        """Its numbers, the last axis fastest."""
        return [value for piece in self._pieces() for value in piece]

    def as_float32(self) -> bytes:
        """Its numbers as little-endian float32, whatever they were."""
        return b"".join(struct.pack(f"<{len(piece)}f", *piece) for piece in self._pieces())

    def nested(self) -> Any:
        """Lists in lists, in its shape; what is no number to JSON (NaN, infinity) is None."""
        rows: list[Any] = [value if math.isfinite(value) else None for value in self.values()]
        for size in reversed(self.shape[1:]):
            count = len(rows) // size if size else 0
            rows = [rows[i * size : (i + 1) * size] for i in range(count)]
        return rows if self.shape else rows[0]

    def _pieces(self) -> Iterator[Sequence[Any]]:
        item = ITEM_BYTES[self.dtype]
        for begin in range(0, len(self.data), _AT_ONCE * item):
            data = self.data[begin : begin + _AT_ONCE * item]
            count = len(data) // item
            if self.dtype == "BF16":  # the upper half of a float32
                upper = struct.unpack(f"<{count}H", data)
                data = memoryview(struct.pack(f"<{count}I", *(half << 16 for half in upper)))
                yield array("f", struct.unpack(f"<{count}f", data))
            else:
                yield struct.unpack(f"<{count}{_FORMATS[self.dtype]}", data)


def _places(
    source: _Memory | _File, arrays: dict[str, ArrayInfo], name: str
) -> dict[str, tuple[int, int]]:
    """Where each array that the event tells of lies in the file."""
    broken = f"{name} is no safetensors file with the arrays that the trace tells of"
    try:
        (length,) = struct.unpack_from("<Q", source.read(0, min(8, source.size)))
        header = json.loads(bytes(source.read(8, min(8 + length, source.size))))
        places = {}
        for one, info in arrays.items():
            begin, end = (8 + length + offset for offset in header[one]["data_offsets"])
            size = math.prod(info.shape) * ITEM_BYTES[info.dtype]
            if not 8 + length <= begin <= end <= source.size or end - begin != size:
                raise ValueError(f"{one} has {end - begin} bytes, {size} are due")
            places[one] = (begin, end)
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{broken} ({error})") from error
    return places


def read_file(folder: Path, told: ExecTensors) -> Artifact:
    """The file that an event tells of. Raises ArtifactError, MissingArtifactError."""
    if not is_file_name(told.file):
        raise ArtifactError(
            f"the trace names {told.file!r} as the file of a step's arrays; allowed: "
            "step-NNNNNN.safetensors. The trace was altered"
        )
    path = folder / told.file
    try:
        return Artifact(_File(path), told, str(path))
    except FileNotFoundError as error:
        raise MissingArtifactError(
            f"{path} is not there: it was deleted, or the trace was moved without its folder "
            f"{folder.name}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error


def open_artifact(trace: str | Path, event: Event) -> Artifact:
    """The arrays that an ``exec.tensors`` event of this trace file tells of."""
    return read_file(folder_of(trace), event.data)


def artifact_events(events: Iterable[Event]) -> dict[int, Event]:
    """Step → its ``exec.tensors``, of one stream's events."""
    return {event.step: event for event in events if event.kind == ExecTensors.KIND}


def no_such_step(step: int, kept: Iterable[int], name: str) -> MissingArtifactError:
    """The error for a step of which there are no arrays."""
    steps = sorted(kept)
    have = ", ".join(map(str, steps[:8])) + (f" … {steps[-1]}" if len(steps) > 8 else "")
    hint = f"it has those of step {have}" if steps else "it has none (--trace-level tensors)"
    return MissingArtifactError(f"{name} has no arrays of step {step}; {hint}")
