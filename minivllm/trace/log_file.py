"""LogFile: the trace file while it is written: by one run at a time, and whole lines only.

Whoever writes holds a lock on it, which ends with its process: a second run with the same ``--trace
FILE`` is refused, where both would else write over each other. Windows has no such lock. No
counterpart in vLLM.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import IO

from minivllm.errors import TraceError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LINES_AT_ONCE = 1000


class LogFile:
    def __init__(self, path: str) -> None:
        """Raises TraceError where another run writes it, OSError where it cannot be written."""
        self.path = path
        self._file = _open_alone(path)
        if self.is_regular:  # only now: what is in it may have been another run's
            self._file.truncate(0)

    @property
    def is_regular(self) -> bool:
        """No pipe, no device."""
        return stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def append(self, lines: list[bytes]) -> None:
        """All of them, or nothing. Raises OSError."""
        _write_all(self._file, b"\n".join(lines) + b"\n")

    def write_anew(self, lines: Iterable[bytes]) -> None:
        """Nothing but these lines, from now on; whoever reads sees the old file or the new one.
        Raises OSError."""
        path = os.path.realpath(self.path)
        rotated = path + ".rotating"
        file = open(rotated, "wb", buffering=0)  # noqa: SIM115 - it goes on as this one's file
        try:
            _lock(file, path)
            rest = iter(lines)
            while part := list(islice(rest, LINES_AT_ONCE)):
                _write_all(file, b"\n".join(part) + b"\n")
            os.replace(rotated, path)
        except BaseException:
            file.close()
            raise
        self._file.close()
        self._file = file

    def close(self) -> None:
        self._file.close()


def _open_alone(path: str) -> IO[bytes]:
    while True:
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - the caller closes it
        try:
            _lock(file, path)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # between opening and locking its writer has put a new one in its place


def _lock(file: IO[bytes], path: str) -> None:
    """Raises TraceError where somebody else has it. What no lock can be put on has none."""
    if fcntl is None or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TraceError(
            f"{path} is being written by another run; two in one file would destroy each other. "
            "Name another file with --trace, or end that run first"
        ) from None
    except OSError:
        pass  # a file system without locks


def _write_all(file: IO[bytes], data: bytes) -> None:
    """All of it, or nothing: what a full disk took of it is cut off again. Raises OSError."""
    whole = file.tell() if file.seekable() else None
    try:
        while data:
            data = data[file.write(data) :]  # a disk that fills up takes a part, then nothing
    except OSError:
        if whole is not None:
            with suppress(OSError):  # a device
                file.truncate(whole)
        raise
