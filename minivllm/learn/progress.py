"""How far a reader is in the lessons: one JSON file, which checks write and viewers read.

    {"schema": "minivllm.progress/1.0",
     "lessons": {
       "06-block-pool": {
         "state": "started",                     started | passed | skipped
         "hints": 2,                             how many were opened
         "check": {                              the last one; absent: none was made
           "at": "2026-11-26T00:10:00Z",
           "passed": false,
           "message": "first divergence at step 7: you evicted block 3, the reference evicted 5",
           "step": 7,                            absent: of no step
           "trace": "06-check.trace.jsonl"}}}}   the reader's run, beside this file; may be absent

It lies in the user's data directory, or where ``MINIVLLM_PROGRESS`` says. Fields that are added
later are passed over by older readers; another major version is refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from minivllm.errors import LessonError

SCHEMA = "minivllm.progress/1.0"


class Check(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What ``minivllm learn check`` found."""

    at: str
    passed: bool
    message: str
    step: int | None = None
    trace: str | None = None


class LessonProgress(msgspec.Struct, kw_only=True, omit_defaults=True):
    state: Literal["started", "passed", "skipped"] = "started"
    hints: int = 0
    check: Check | None = None


class Progress(msgspec.Struct, kw_only=True):
    schema: str = SCHEMA
    lessons: dict[str, LessonProgress] = {}


def progress_path() -> Path:
    if given := os.environ.get("MINIVLLM_PROGRESS"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data.expanduser() / "minivllm" / "progress.json"


def read_progress(path: Path) -> Progress:
    """Nothing where there is no such file. Raises LessonError where it is broken."""
    try:
        progress = msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return Progress()
    except (OSError, msgspec.DecodeError) as error:
        raise LessonError(
            f"{path} is no progress file: {error}; move it away, and the lessons begin anew"
        ) from error
    if progress.schema.rpartition(".")[0] != SCHEMA.rpartition(".")[0]:
        raise LessonError(f"{path} has schema {progress.schema!r}; this version reads {SCHEMA!r}")
    return progress


def write_progress(path: Path, progress: Progress) -> None:
    """Whole or not at all. Raises LessonError."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(progress), indent=2) + b"\n")
        beside.replace(path)
    except OSError as error:
        raise LessonError(f"{path} cannot be written: {error.strerror}") from error
