"""The gallery: recordings that the package carries, found by name wherever a trace is asked for."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".trace.jsonl"
_DIRECTORY = Path(__file__).parents[1] / "gallery"


def gallery() -> dict[str, Path]:
    """Name → file."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(_DIRECTORY.glob(f"*{SUFFIX}"))}


def find_recording(target: str | Path) -> Path:
    """A file's own path, or that of a recording named so. What is neither comes back as a path:
    ``read_trace`` then says that there is no such file."""
    path = Path(target)
    if path.is_file():
        return path
    return gallery().get(path.name.removesuffix(SUFFIX) if path.name == str(target) else "", path)
