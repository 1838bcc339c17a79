"""The gallery: recordings that the package carries, found by name wherever a trace is asked for.

``gallery/index.toml`` says of each what there is to see, where to look first, and how it is made:

    [[trace]]
    name = "thrash"
    group = "Memory"
    title = "…"                    a line
    see = "…"                      one sentence
    make = "trace record …"        the command, without `minivllm` and without `-o FILE`; or
    serve = "--block-size 8 …"     flags of a server, and [[trace.wave]] with what it is asked
    first = "step/9?view=pool"     where the page opens it
    beside = "other"               the one that it is compared with

``minivllm gallery`` makes and checks them. Where ``make`` arms steps (``--arm N``), their arrays
lie beside the file, as of every trace (``artifacts.py``). A recording carries the source that ran
with it. When that source changes it stays true of the code it was made with and is *stale*
(:func:`stale`); when the engine decides otherwise it is *wrong*, and ``minivllm gallery check``
says at which event.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.artifacts import open_artifact
from minivllm.trace.events import Event
from minivllm.trace.structural import is_structural, structural_fields

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIXES = (".trace.jsonl", ".trace.jsonl.gz")
SUFFIX = SUFFIXES[0]
"""Of one that is written; packed ones can be read, too."""
DIRECTORY = Path(__file__).parents[1] / "gallery"


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """One request to a server."""

    path: str
    body: dict[str, Any]


class Wave(msgspec.Struct, forbid_unknown_fields=True):
    """Requests that have all arrived before the first of them runs. The next wave comes when all
    have their answer."""

    request: list[Ask]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A recording, as the index tells of it."""

    name: str
    group: str
    title: str
    see: str
    make: str = ""
    serve: str = ""
    wave: list[Wave] = []
    first: str = ""
    beside: str = ""

    @property
    def needs_model(self) -> bool:
        return bool(self.wave) or "--with-model" in self.make

    @property
    def command(self) -> str:
        """What whoever wants to make it types."""
        return f"minivllm {self.make}" if self.make else f"minivllm gallery make {self.name}"

    @property
    def about(self) -> dict[str, str]:
        """For whoever looks at it."""
        named = ("group", "title", "see", "command", "first", "beside")
        return {name: getattr(self, name) for name in named}

    @property
    def path(self) -> Path:
        """Its file; of one that is not made yet, what it will be."""
        return gallery().get(self.name, DIRECTORY / f"{self.name}{SUFFIXES[1]}")


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    trace: list[Entry]


def entries() -> dict[str, Entry]:
    """Name → entry, in the order of the index. Raises TraceError where that is broken."""
    path = DIRECTORY / "index.toml"
    try:
        index = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Index)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as error:
        raise TraceError(f"cannot read the gallery's index {path}: {error}") from error
    return {entry.name: entry for entry in index.trace}


def gallery() -> dict[str, Path]:
    """Name → file, in the order of the index; what is not in it, last."""
    files = {
        path.name.removesuffix(suffix): path
        for suffix in SUFFIXES
        for path in sorted(DIRECTORY.glob(f"*{suffix}"))
    }
    order = [name for name in entries() if name in files]
    return {name: files[name] for name in (*order, *(n for n in files if n not in order))}


def entry_of(path: Path) -> Entry | None:
    """What the index says of a file, if it is one of the gallery's."""
    if path.parent.resolve() != DIRECTORY.resolve():
        return None
    return entries().get(name_of(path))


def name_of(path: str | Path) -> str:
    """A recording's name: its file's without the ending."""
    name = Path(path).name
    for suffix in reversed(SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def find_recording(target: str | Path) -> Path:
    """A file's own path, or that of a recording named so. What is neither comes back as a path:
    ``read_trace`` then says that there is no such file."""
    path = Path(target)
    if path.is_file():
        return path
    return gallery().get(name_of(path) if path.name == str(target) else "", path)


# --- is it still what the code does? -----------------------------------------------------------


def structure(events: Iterable[Event], exact: bool) -> list[bytes]:
    """What a recording is held to when it is made again: kinds, steps, requests, blocks, reasons.

    ``exact``: its tokens were given, so they are compared as well. What a model says differs from
    machine to machine in the last bits of its scores, and may in a word.
    """
    lines = []
    for event in events:
        if not is_structural(event) or (event.kind == "sample" and not exact):
            continue
        fields = structural_fields(event, hashes=False)
        if not exact:
            for name in ("text", "token_id", "token_ids", "logprob"):
                fields["data"].pop(name, None)
        lines.append(msgspec.json.encode(fields))
    return lines


def front_structure(events: Iterable[Event]) -> list[str]:
    """Of the front end's stream: which kinds came how often, and each choice of an engine. How its
    messages and chunks fell together is a matter of the machine."""
    counted: dict[str, int] = {}
    routes = []
    for event in events:
        if event.kind == "route.pick":
            routes.append(f"route.pick engine {event.data.engine}: {event.data.why}")
        elif event.stream == "api" and event.kind in _COUNTED:
            counted[event.kind] = counted.get(event.kind, 0) + 1
    return [*(f"{kind} × {n}" for kind, n in sorted(counted.items())), *routes]


_COUNTED = ("http.request", "http.done", "http.rejected", "engine.start", "engine.dead")


def arrays_of(path: Path, events: Iterable[Event]) -> list[tuple[str, str, list[int]]]:
    """File, name and shape of each array of the captured steps. Of the numbers only this is held:
    their last bits are the machine's. Raises ArtifactError where a file is not the one told of."""
    found = []
    for event in events:
        if event.kind == "exec.tensors":
            artifact = open_artifact(path, event)
            found += [(event.data.file, a.name, a.shape) for a in artifact.arrays.values()]
    return found


def stale(events: Iterable[Event], root: Path) -> list[str]:
    """``file: function`` of each function whose source, as the trace carries it, is no longer the
    one under ``root``. Lines that were only moved are none."""
    texts: dict[str, str] = {}
    found: dict[str, None] = {}
    for event in events:
        if event.kind != "run.source" or not event.data.text:
            continue
        file = event.data.file
        if file not in texts:
            path = root / file
            texts[file] = path.read_text(encoding="utf-8") if path.is_file() else ""
        if event.data.text.strip("\n") not in texts[file]:
            found[f"{file}: {event.data.function}"] = None
    return list(found)
