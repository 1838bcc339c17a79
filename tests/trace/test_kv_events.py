"""The export of KV events: a reader of the stream knows what the engine's cache holds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from minivllm.core.block_hash import extend_block_hashes, short
from minivllm.errors import TraceError
from minivllm.trace.file import Trace
from minivllm.trace.fold import fold
from minivllm.trace.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEventBatch,
    encode,
    kv_event_batches,
)
from tests.core.builders import HEADER, Engine, tokens
from tests.helpers import events_of, trace_of
from tests.vectors.make import TRACES, VECTORS


def trace_named(name: str) -> Trace:
    return TRACES[name]() if name in TRACES else trace_of(VECTORS[name]())


@pytest.fixture(params=[*VECTORS, *TRACES])
def trace(request: pytest.FixtureRequest) -> Trace:
    return trace_named(request.param)


class Reader:
    """A router's index: hash → (parent, tokens). What it is told, it believes."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[int | None, tuple[int, ...]]] = {}

    def take(self, batch: KVEventBatch) -> None:
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                self.known.clear()
            elif isinstance(event, BlockRemoved):
                for block_hash in event.block_hashes:
                    del self.known[block_hash]  # an unknown one is an error of the stream
            else:
                parent, size = event.parent_block_hash, event.block_size
                assert len(event.token_ids) == size * len(event.block_hashes)
                for i, block_hash in enumerate(event.block_hashes):
                    assert block_hash not in self.known, "told twice"
                    ids = tuple(event.token_ids[i * size : (i + 1) * size])
                    self.known[block_hash] = (parent, ids)
                    parent = block_hash


def cached(trace: Trace) -> set[int]:
    return {int(block_hash, 16) for block_hash in fold(trace.engine_events).cached}


def test_reader_knows_what_the_cache_holds_after_every_batch(trace: Trace) -> None:
    reader = Reader()
    batches = list(kv_event_batches(trace))
    for batch in batches:
        reader.take(batch)
    assert set(reader.known) == cached(trace) and batches
    times = [batch.ts for batch in batches]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["tiny-pressure", "last-steps"])
def test_hashes_are_those_of_the_tokens_that_are_told(name: str) -> None:
    trace, reader = trace_named(name), Reader()
    size = (fold(trace.engine_events).config or {})["block_size"]
    for batch in kv_event_batches(trace):
        reader.take(batch)
        for block_hash, (_, ids) in reader.known.items():
            chain, at = list(ids), reader.known[block_hash][0]
            while at is not None and at in reader.known:
                chain = [*reader.known[at][1], *chain]
                at = reader.known[at][0]
            if at is None:
                hashes: list[bytes] = []
                extend_block_hashes(hashes, chain, size, None)
                assert int(short(hashes[-1]), 16) == block_hash


def engine_with_twins() -> Engine:
    """A prompt of full blocks only computes its last one again: a second copy of its hash."""
    engine = Engine(num_kv_blocks=9)
    engine.add("a", tokens(8), max_tokens=1)
    engine.add("b", tokens(8), max_tokens=4)
    engine.step()
    return engine


def test_hash_is_removed_with_its_last_copy_only() -> None:
    engine = engine_with_twins()
    state = engine.state()
    twins = [block_hash for block_hash, blocks in state.cached.items() if len(blocks) == 2]
    assert twins, "no twins: the test tests nothing"
    engine.add("c", tokens(20, 900), max_tokens=1)
    engine.run()
    trace = Trace(HEADER, events_of(engine.trace))
    evicted = [e.data.hash for e in trace.events if e.kind == "kv.evict"]
    told = [e for batch in kv_event_batches(trace) for e in batch.events]
    removed = [h for e in told if isinstance(e, BlockRemoved) for h in e.block_hashes]
    stored = [h for e in told if isinstance(e, BlockStored) for h in e.block_hashes]
    assert set(twins) & set(evicted), "nobody's twin was evicted: the test tests nothing"
    assert len(removed) == len(set(removed)) < len(evicted)
    assert len(stored) == len(set(stored))
    assert set(stored) - set(removed) == cached(trace)


def test_stream_begins_with_a_clear_cache_and_so_does_each_life_of_the_engine() -> None:
    trace = trace_named("tiny-pressure")
    first = next(kv_event_batches(trace))
    assert isinstance(first.events[0], AllBlocksCleared)
    again = [
        msgspec.structs.replace(e, data=msgspec.structs.replace(e.data, epoch=2))
        if e.kind == "run.start"
        else e
        for e in trace.events
    ]
    twice = Trace(trace.header, trace.events + again)
    told = [e for batch in kv_event_batches(twice) for e in batch.events]
    assert sum(isinstance(e, AllBlocksCleared) for e in told) == 2


def test_trace_that_was_cut_tells_what_was_cached_at_its_beginning() -> None:
    trace = trace_named("last-steps")
    clear, *stored = next(kv_event_batches(trace)).events
    assert isinstance(clear, AllBlocksCleared) and stored
    told = {h for e in stored if isinstance(e, BlockStored) for h in e.block_hashes}
    assert told == {int(h, 16) for h in trace.events[0].data.state["cached"]}


def test_lines_are_as_vllm_encodes_them() -> None:
    engine = Engine()
    engine.add("a", tokens(9), max_tokens=1, cache_salt="pepper")
    engine.step()
    engine.core.reset_prefix_cache()
    lines: list[Any] = [
        json.loads(x) for x in encode(Trace(HEADER, events_of(engine.trace))).splitlines()
    ]
    (_, (clear,), rank), (ts, (stored,), _), (_, (cleared,), _) = lines
    assert clear == cleared == {"type": "AllBlocksCleared"} and rank == 0
    assert ts > 0
    assert list(stored) == [
        "type",
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
    ]
    assert (stored["type"], stored["block_size"], stored["medium"]) == ("BlockStored", 4, "GPU")
    assert stored["token_ids"] == tokens(8) and stored["parent_block_hash"] is None
    assert stored["extra_keys"] == [["pepper"], None] and len(stored["block_hashes"]) == 2


def test_redacted_trace_is_refused_for_its_tokens_are_not_there() -> None:
    trace = trace_named("tiny-pressure")
    header = msgspec.structs.replace(trace.header, redacted=True)
    with pytest.raises(TraceError, match=r"t\.jsonl was redacted: its token ids are all 0"):
        encode(Trace(header, trace.events, "t.jsonl"))
