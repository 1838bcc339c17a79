"""The flat batch of a step: the arrays that the model runner builds from the scheduler's decision.

A pure function of the events, so that they can be shown of any trace, one without a model, too.
Where a trace was recorded at level ``tensors`` the worker's own arrays lie beside it; a test
holds these to those. ``viz/static/core/batch.js`` is the twin; ``tests/data/views.json`` holds both
to the same results. Counterpart: ``worker/input_batch.py``; in vLLM
``GPUModelRunner._prepare_inputs``.

    input_ids        which tokens run, all requests one after the other
    positions        where each stands in its own sequence
    query_start_loc  where each request's tokens begin, and where the last one's end
    seq_lens         how many tokens of it attention sees: computed before, and these
    block_table      logical → physical block of each request; 0, the null block, where it has none
    slot_mapping     block × block_size + offset: where each token's K and V are written
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from minivllm.trace.events import BatchCompose, Event
from minivllm.trace.fold import State, apply


@dataclass(frozen=True, slots=True)
class Batch:
    requests: list[str]
    why: list[str]
    """What kind of work each request's tokens are."""
    input_ids: list[int]
    """(num_tokens,)"""
    texts: list[str]
    """(num_tokens,): the piece of text behind each id; a draft has none yet."""
    positions: list[int]
    """(num_tokens,)"""
    query_start_loc: list[int]
    """(num_reqs + 1,)"""
    seq_lens: list[int]
    """(num_reqs,)"""
    block_table: list[list[int]]
    """(num_reqs, max_blocks)"""
    slot_mapping: list[int]
    """(num_tokens,): −1 for the padding of static batching."""
    padding: int
    """How many of the tokens are nobody's."""


def batch_of(before: State, events: Sequence[Event]) -> Batch | None:
    """The batch of a step, from the state when it began; None where nothing ran."""
    composed = next((e.data for e in events if e.kind == "batch.compose"), None)
    if composed is None or before.config is None:
        return None
    # As they stand when the batch is laid out: tables have grown, drafts are not yet judged.
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=State)
    for event in events:
        if event.kind == "sched.ledger":
            break
        apply(state, event)
    return _lay_out(state, composed)


def _lay_out(state: State, composed: BatchCompose) -> Batch:
    size = int(state.config["block_size"]) if state.config else 1
    rows = composed.rows
    tables = [state.requests[row.req].table for row in rows]
    width = max(map(len, tables), default=0)
    batch = Batch(
        requests=[row.req for row in rows],
        why=[row.why.value for row in rows],
        input_ids=[],
        texts=[],
        positions=[],
        query_start_loc=[0],
        seq_lens=[row.start + row.n for row in rows],
        block_table=[table + [0] * (width - len(table)) for table in tables],
        slot_mapping=[],
        padding=composed.padding,
    )
    for row, table in zip(rows, tables, strict=True):
        request = state.requests[row.req]
        known, texts = request.tokens + request.drafts, request.texts
        for position in range(row.start, row.start + row.n):
            batch.input_ids.append(known[position])
            batch.texts.append(texts[position] if position < len(texts) else "")
            batch.positions.append(position)
            batch.slot_mapping.append(table[position // size] * size + position % size)
        batch.query_start_loc.append(len(batch.input_ids))
    for values, filler in (
        (batch.input_ids, 0),
        (batch.positions, 0),
        (batch.slot_mapping, -1),
    ):
        values += [filler] * composed.padding
    batch.texts.extend([""] * composed.padding)
    return batch
