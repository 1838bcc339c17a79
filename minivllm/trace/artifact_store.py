"""ArtifactStore: where the arrays of a run's captured steps are put, and how many of them.

With a trace file they become files in the folder beside it, until the run has 16 times the limit of
one step; then, or when the disk takes no more, the artifacts end and the run goes on. Without one
they stay in memory, and the oldest go. Written on the engine's thread, read on any.

An engine in a process of its own writes the files itself (``of_process``), and the front end's
store takes over what its events tell of: from the same folder, or out of the private directory into
memory.
"""

from __future__ import annotations

import logging
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

from minivllm.config import TraceConfig
from minivllm.core.scheduler_output import StepTensors
from minivllm.trace.artifacts import (
    Artifact,
    encode,
    file_name,
    folder_of,
    is_file_name,
    no_such_step,
    read_file,
)
from minivllm.trace.events import ArrayInfo, ExecTensors, Reason, TraceLeftOut

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = TraceConfig().tensors_limit
RUN_LIMIT_STEPS = 16
"""A run keeps as many bytes in files as so many steps of the largest size."""
KEPT_IN_MEMORY = 64
"""Steps, at most, of a run without a file; in bytes, at most what one step may have."""


@dataclass(slots=True)
class _Kept:
    told: ExecTensors
    raw: bytes
    """Empty where they lie in a file."""


class ArtifactStore:
    """The artifacts of one run, by stream, life of it, and step."""

    def __init__(self, trace_path: str | None = None, limit_bytes: int = DEFAULT_LIMIT) -> None:
        """Deletes what an earlier run of the same trace path has left in the folder."""
        self.is_open = True
        """False once no more artifacts are kept."""
        self._folder = folder_of(trace_path) if trace_path is not None else None
        self._oldest_go = self._folder is None
        self._limit = limit_bytes if self._oldest_go else RUN_LIMIT_STEPS * limit_bytes
        self._kept: dict[tuple[str, int, int], _Kept] = {}  # (stream, epoch, step), in order
        self._bytes = 0
        self._lock = threading.Lock()
        if self._folder is not None and self._folder.is_dir():
            for name in os.listdir(self._folder):
                if is_file_name(name.removesuffix(".part")):
                    _delete(self._folder / name)

    @classmethod
    def of_process(cls, trace_path: str | None, spool: Path, limit_bytes: int) -> ArtifactStore:
        """The store of an engine's process: the folder beside the trace, or else ``spool``, from
        which the front end takes each file; what it does not fetch in time goes."""
        store = cls(None, limit_bytes)
        store._folder = folder_of(trace_path) if trace_path is not None else spool
        store._oldest_go = trace_path is None
        store._limit = limit_bytes if store._oldest_go else RUN_LIMIT_STEPS * limit_bytes
        return store

    def take_over(self, stream: str, epoch: int, step: int, told: ExecTensors, spool: Path) -> None:
        """Keep what an engine's process has written, as its event tells. Raises OSError where it
        is not there."""
        if not is_file_name(told.file):
            raise FileNotFoundError(f"{told.file!r} is no name of an artifact")
        raw = b""
        if self._folder is None:
            raw = (spool / told.file).read_bytes()
            _delete(spool / told.file)
        with self._lock:
            self._keep(stream, epoch, step, told, raw)

    def put(
        self, stream: str, epoch: int, step: int, tensors: StepTensors
    ) -> ExecTensors | TraceLeftOut:
        """Keep one step's arrays; returns the event that tells of it, or why they are not kept."""
        about = {"step": str(step), "requests": " ".join(tensors.requests)}
        raw = encode(tensors.arrays, about)
        told = ExecTensors(
            file=file_name(stream, epoch, step),
            bytes=len(raw),
            crc32=zlib.crc32(raw),
            requests=tensors.requests,
            arrays=[ArrayInfo(name=a.name, dtype=a.dtype, shape=a.shape) for a in tensors.arrays],
        )
        with self._lock:
            if not self._oldest_go:
                if self._bytes + len(raw) > self._limit:
                    self._forget_deleted()
                if self._bytes + len(raw) > self._limit:
                    return self._end(Reason.TENSORS_FULL, self._bytes + len(raw), self._limit)
            if self._folder is not None:
                try:
                    _write(self._folder, told.file, raw)
                except OSError as error:
                    logger.warning("no more arrays are kept: %s; the run goes on", error)
                    return self._end(Reason.NOT_WRITTEN, len(raw), 0, error.strerror or str(error))
            self._keep(stream, epoch, step, told, raw if self._folder is None else b"")
        return told

    def _keep(self, stream: str, epoch: int, step: int, told: ExecTensors, raw: bytes) -> None:
        self._kept[stream, epoch, step] = _Kept(told, raw)
        self._bytes += told.bytes
        while self._oldest_go and len(self._kept) > 1:
            if self._bytes <= self._limit and len(self._kept) <= KEPT_IN_MEMORY:
                break
            self._forget(next(iter(self._kept)))

    def of_stream(self, stream: str, epoch: int | None = None) -> dict[int, ExecTensors]:
        """Step → what its event told, of all that is still kept of a life (None: the newest)."""
        with self._lock:
            kept = [(key, one.told) for key, one in self._kept.items() if key[0] == stream]
            if epoch is None:
                epoch = max((key[1] for key, _ in kept), default=1)
            return {step: told for (_, life, step), told in kept if life == epoch}

    def read(self, stream: str, step: int, epoch: int | None = None) -> Artifact:
        """Raises MissingArtifactError, ArtifactError."""
        with self._lock:
            if epoch is None:
                epoch = max((key[1] for key in self._kept if key[0] == stream), default=1)
            kept = self._kept.get((stream, epoch, step))
        if kept is None:
            raise no_such_step(step, self.of_stream(stream, epoch), "the run")
        if self._folder is not None:
            return read_file(self._folder, kept.told)
        return Artifact(kept.raw, kept.told, f"step {step}")

    @property
    def in_files(self) -> bool:
        return self._folder is not None

    def forget_before(self, stream: str, epoch: int, step: int) -> None:
        """The trace has dropped what a stream told before this step of this life."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == stream]:
                if key[1:] < (epoch, step):
                    self._forget(key)

    def _forget_deleted(self) -> None:
        """Another process may have deleted files, with the steps that its trace has dropped."""
        for key, kept in list(self._kept.items()):
            if self._folder is not None and not (self._folder / kept.told.file).exists():
                self._forget(key)

    def _forget(self, key: tuple[str, int, int]) -> None:
        told = self._kept.pop(key).told
        self._bytes -= told.bytes
        if self._folder is not None:
            _delete(self._folder / told.file)

    def _end(self, reason: Reason, need: int, limit: int, message: str = "") -> TraceLeftOut:
        self.is_open = False
        return TraceLeftOut(reason=reason, arrays=[], need=need, limit=limit, message=message)


def _write(folder: Path, name: str, raw: bytes) -> None:
    """Under its name only when it is whole. Raises OSError, and leaves nothing behind then."""
    part = folder / f"{name}.part"
    try:
        folder.mkdir(exist_ok=True)
        part.write_bytes(raw)
        os.replace(part, folder / name)
    except OSError:
        _delete(part)
        raise


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("cannot delete %s: %s", path, error.strerror)
