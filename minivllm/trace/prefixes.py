"""Prefixes: the cached blocks as a tree, each under the block that its content follows.

A block's hash contains its parent's (``core/block_hash.py``), so the hash chain of every sequence
is a path from a root, and sequences that begin alike share the beginning of their paths. Blocks of
one content (twins) are one node. A look-up walks from the root and ends where a node is missing: a
node whose parent was evicted before it is ``lost``, nobody can hit it any more.

Pure functions of state and events; ``viz/static/core/prefixes.js`` is the twin, and
``tests/data/views.json`` holds both to the same results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from minivllm.trace.events import Event
from minivllm.trace.fold import State


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a hash comes from: the block's place in the sequence of the first that filled it."""

    parent: str | None
    req: str
    logical: int


@dataclass(frozen=True, slots=True)
class Prefix:
    hash: str
    blocks: list[int]
    """The one that is hit first, then its twins."""
    depth: int
    lost: bool
    """The block before it is cached no more, so no look-up comes this far."""
    text: str


def origins(events: Iterable[Event]) -> dict[str, Origin]:
    """Hash → its origin, in the order in which the hashes first came."""
    found: dict[str, Origin] = {}
    for event in events:
        if event.kind == "kv.cache" and event.data.hash not in found:
            found[event.data.hash] = Origin(event.data.parent, str(event.req), event.data.logical)
    return found


def prefixes(state: State, known: dict[str, Origin]) -> list[Prefix]:
    """The cached prefixes, a parent before its children, in the order in which they came.

    ``known`` must hold the origin of what is cached; a hash whose origin was told before the trace
    begins is a root, and its text comes from who holds or left it.
    """
    order = {hash_: i for i, hash_ in enumerate(known)}
    hashes = sorted(state.cached, key=lambda h: order.get(h, len(order)))
    children: dict[str, list[str]] = {}
    roots: list[tuple[str, bool]] = []
    for hash_ in hashes:
        parent = known[hash_].parent if hash_ in known else None
        if parent in state.cached:
            children.setdefault(str(parent), []).append(hash_)
        else:
            roots.append((hash_, parent is not None))
    rows: list[Prefix] = []
    stack = [(hash_, 0, lost) for hash_, lost in reversed(roots)]
    while stack:
        hash_, depth, lost = stack.pop()
        text = _text(state, hash_, known.get(hash_))
        rows.append(Prefix(hash_, list(state.cached[hash_]), depth, lost, text))
        stack += [(child, depth + 1, lost) for child in reversed(children.get(hash_, []))]
    return rows


def _text(state: State, hash_: str, origin: Origin | None) -> str:
    place = (origin.req, origin.logical) if origin else _holder(state, state.cached[hash_][0])
    if place is None or place[0] not in state.requests or state.config is None:
        return ""
    size = int(state.config["block_size"])
    first = place[1] * size
    return "".join(state.requests[place[0]].texts[first : first + size])


def _holder(state: State, block: int) -> tuple[str, int] | None:
    for name, request in state.requests.items():
        if block in request.table:
            return name, request.table.index(block)
    held = state.blocks[block].held
    return (held.req, held.logical) if held else None
