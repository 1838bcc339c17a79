"""Export of what the prefix cache holds as vLLM's KV events, which routers and indexers read.

Counterpart in vLLM 0.32: ``vllm/distributed/kv_events.py`` (the structs, field for field; a batch
is an array, an event an object with its ``type``) and ``vllm/v1/core/block_pool.py``, which emits
them. One batch for each step in which the cache changed; written as JSON lines, where vLLM sends
msgpack over ZeroMQ. Left out: LoRA, cache groups beyond 0, offloading tiers.

Two things are done differently there, and both have misled readers of the stream:

* A hash is stored with its first copy and removed with its last. vLLM 0.32 also tells the removal
  of one of two blocks with the same content, after which a router takes the prefix for gone while
  it can still be hit.
* The stream begins with ``AllBlocksCleared``, and with what is cached if the trace begins in the
  middle of a run; so does each life of an engine. A reader that knew something else forgets it.

Hashes are 64-bit integers, as vLLM's are by default: the first 8 bytes of ours.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import msgspec

from minivllm.errors import TraceError
from minivllm.trace.events import Event
from minivllm.trace.file import Trace
from minivllm.trace.fold import apply, new_state

MEDIUM = "GPU"
"""What vLLM calls the memory that the model reads K and V from; its CPU build says so, too."""


class KVCacheEvent(msgspec.Struct, omit_defaults=True, tag=True):
    """Base of the three."""


class BlockStored(KVCacheEvent):
    """The blocks of one chain became findable, in the order of the prompt."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str, ...] | None] | None = None
    """Per block what its hash contains besides tokens: the ``cache_salt``, in the first."""
    group_idx: int | None = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    """Seconds since 1970."""
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


def kv_event_batches(trace: Trace) -> Iterator[KVEventBatch]:
    """The batches of all engines of a trace, in the order of its events.

    Raises TraceError for a redacted one: an indexer would learn the wrong tokens for its hashes.
    """
    if trace.header.redacted:
        raise TraceError(
            f"{trace.name or 'this trace'} was redacted: its token ids are all 0, so the KV events "
            "would tell an indexer false tokens. Record without redaction to export them"
        )
    caches: dict[str, _Cache] = {}
    started = _seconds(trace.header.created)
    for event in trace.events:
        if not event.stream.startswith("engine"):
            continue
        cache = caches.setdefault(event.stream, _Cache())
        cache.take(event)
        if cache.told and event.kind in ("step.end", "run.start", "run.snapshot", "kv.reset"):
            yield _batch(cache, event, started)
    last = {event.stream: event for event in trace.events}
    for stream, cache in caches.items():
        if cache.told:  # by an input after the last step
            yield _batch(cache, last[stream], started)


def encode(trace: Trace) -> bytes:
    """The batches as the bytes of a ``.jsonl`` file."""
    return b"".join(msgspec.json.encode(batch) + b"\n" for batch in kv_event_batches(trace))


def _batch(cache: _Cache, event: Event, started: float) -> KVEventBatch:
    told, cache.told = cache.told, []
    number = event.stream.removeprefix("engine")
    rank = int(number) if number.isdecimal() else None
    return KVEventBatch(started + event.t_ns / 1e9, told, rank)


def _seconds(created: str) -> float:
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


class _Cache:
    """One engine's prefix cache, and what has to be told of it."""

    def __init__(self) -> None:
        self.told: list[BlockStored | BlockRemoved | AllBlocksCleared] = []
        self._state = new_state()
        self._salts: dict[str, str | None] = {}
        self._tail: tuple[str, str] | None = None
        """(request, hash) of the block that the last event stored: the next may continue it."""

    def take(self, event: Event) -> None:
        data, cached = event.data, self._state.cached
        gone = event.kind in ("kv.evict", "kv.uncache") and len(cached.get(data.hash, ())) == 1
        new = event.kind == "kv.cache" and data.hash not in cached
        apply(self._state, event)
        if event.kind == "req.arrive":
            self._salts[str(event.req)] = data.cache_salt
        elif event.kind == "req.finish":
            self._salts.pop(str(event.req), None)
        elif event.kind in ("run.start", "run.snapshot", "kv.reset"):
            self._tell(AllBlocksCleared())
            self._tell_all_cached()
        elif new:
            self._store(str(event.req), data)
        elif gone:
            removed = BlockRemoved(block_hashes=[int(data.hash, 16)], medium=MEDIUM, group_idx=0)
            self._tell(removed)

    def _tell(self, event: BlockStored | BlockRemoved | AllBlocksCleared) -> None:
        self.told.append(event)
        self._tail = None

    def _store(self, req: str, data: Any) -> None:
        size = self._block_size()
        start = data.logical * size
        tokens = self._state.requests[req].tokens[start : start + size]
        salt = self._salts.get(req) if data.logical == 0 else None
        last = self.told[-1] if self.told else None
        if isinstance(last, BlockStored) and self._tail == (req, data.parent):
            last.block_hashes.append(int(data.hash, 16))
            last.token_ids.extend(tokens)
            if last.extra_keys is not None:
                last.extra_keys.append(None)
        else:
            keys: list[tuple[str, ...] | None] | None = [(salt,)] if salt else None
            self.told.append(_stored(data.hash, data.parent, tokens, size, keys))
        self._tail = (req, data.hash)

    def _tell_all_cached(self) -> None:
        """What a snapshot's blocks hold. The parent of a block whose predecessor has been evicted
        is not known any more: it is told as None."""
        size, requests, blocks = self._block_size(), self._state.requests, self._state.blocks
        places = {i: (b.held.req, b.held.logical) for i, b in enumerate(blocks) if b.held}
        for req, request in requests.items():
            places.update({block: (req, logical) for logical, block in enumerate(request.table)})
        at = {place: block for block, place in places.items()}
        for block_hash, copies in self._state.cached.items():
            req, logical = places[copies[0]]
            before = at.get((req, logical - 1))
            tokens = requests[req].tokens[logical * size : (logical + 1) * size]
            parent = blocks[before].hash if before is not None else None
            self._tell(_stored(block_hash, parent, tokens, size, None))

    def _block_size(self) -> int:
        return int(self._state.config["block_size"]) if self._state.config else 0


def _stored(
    block_hash: str,
    parent: str | None,
    tokens: list[int],
    size: int,
    extra_keys: list[tuple[str, ...] | None] | None,
) -> BlockStored:
    return BlockStored(
        block_hashes=[int(block_hash, 16)],
        parent_block_hash=int(parent, 16) if parent is not None else None,
        token_ids=tokens,
        block_size=size,
        lora_id=None,
        medium=MEDIUM,
        lora_name=None,
        extra_keys=extra_keys,
        group_idx=0,
    )
