"""``warm_up``: every struct type is understood on one thread, before there are several.

msgspec looks into a struct's fields when somebody first reads one of its type, and keeps what it
found. Two threads that do so at once can meet a type that is half understood, and the process dies
by SIGSEGV (msgspec 0.22; the first requests of a server are just that: several, at once). So
whoever starts threads that read messages calls this first. No counterpart in vLLM, whose models
are pydantic's and made as their modules are imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def warm_up() -> None:
    """Of all struct types in the modules that are imported by now."""
    for cls in struct_types():
        msgspec.json.Decoder(cls)


def struct_types() -> Iterator[type[msgspec.Struct]]:
    """Those of this project: bases before what is made of them."""
    todo: list[type[msgspec.Struct]] = [msgspec.Struct]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.partition(".")[0] == "minivllm":
                yield cls
