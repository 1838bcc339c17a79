"""State diff: what is different between two states of one run. Pure; the terminal's ``diff`` is it.

Queues, requests, blocks, knobs; not times, and not what was said in between: for that there are the
stories of the steps. No counterpart in vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from minivllm.trace.fold import RequestState, State
from minivllm.trace.words import count, join, knob_value


class Change(msgspec.Struct, frozen=True):
    """One thing that is not as it was."""

    subject: str
    """``waiting`` | ``running`` | ``finished`` | ``free`` | ``r4`` | ``block 6`` | a knob."""
    field: str
    before: Any
    after: Any
    words: str


def state_diff(a: State, b: State) -> list[Change]:
    """From ``a`` to ``b``: queues first, then knobs, requests and blocks in their order."""
    return [*_queues(a, b), *_knobs(a, b), *_requests(a, b), *_blocks(a, b)]


def _queues(a: State, b: State) -> Iterator[Change]:
    for name in ("waiting", "running", "finished"):
        before, after = getattr(a, name), getattr(b, name)
        if before != after:
            words = f"{_names(before)} → {_names(after)}"
            yield Change(name, "requests", list(before), list(after), words)
    if a.free != b.free:
        words = f"{count(len(a.free), 'block')} → {len(b.free)}"
        if b.free:
            words += f", the next to be taken is {b.free[0]}"
        yield Change("free", "blocks", list(a.free), list(b.free), words)


def _names(names: list[str]) -> str:
    return join(names) if names else "nobody"


def _knobs(a: State, b: State) -> Iterator[Change]:
    before, after = a.config or {}, b.config or {}
    for name in after:
        if name in before and before[name] != after[name]:
            words = f"{knob_value(before[name])} → {knob_value(after[name])}"
            yield Change(name, "value", before[name], after[name], words)


def _requests(a: State, b: State) -> Iterator[Change]:
    for req, now in b.requests.items():
        was = a.requests.get(req)
        if was is None:
            tokens = count(len(now.tokens), "token")
            yield Change(req, "status", None, now.status, f"new: {now.status}, {tokens} known")
        else:
            yield from _request(req, was, now)


def _request(req: str, was: RequestState, now: RequestState) -> Iterator[Change]:
    if was.status != now.status:
        why = f" ({now.finish_reason})" if now.finish_reason else ""
        yield Change(req, "status", was.status, now.status, f"{was.status} → {now.status}{why}")
    for name, noun in (("num_computed_tokens", "computed"), ("num_preemptions", "preemptions")):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield Change(req, name, before, after, f"{noun} {before} → {after}")
    if len(was.tokens) < len(now.tokens):
        said = "".join(now.texts[len(was.texts) :])
        words = f"known {len(was.tokens)} → {len(now.tokens)}: says {said!r}"
        yield Change(req, "tokens", len(was.tokens), len(now.tokens), words)
    if was.table != now.table:
        before, after = (" ".join(map(str, table)) or "none" for table in (was.table, now.table))
        yield Change(req, "table", list(was.table), list(now.table), f"table {before} → {after}")


def _blocks(a: State, b: State) -> Iterator[Change]:
    of_a, of_b = _holders(a), _holders(b)
    for block_id, (was, now) in enumerate(zip(a.blocks, b.blocks, strict=False)):
        subject = f"block {block_id}"
        before, after = of_a.get(block_id, []), of_b.get(block_id, [])
        if before != after:
            words = f"held by {_names(before)} → {_names(after)}"
            yield Change(subject, "holders", before, after, words)
        if was.hash != now.hash:
            kind = "hashed" if was.hash is None else "its hash is gone"
            if was.hash and now.hash:
                kind = "another content is hashed"
            yield Change(subject, "hash", was.hash, now.hash, kind)


def _holders(state: State) -> dict[int, list[str]]:
    holders: dict[int, list[str]] = {}
    for name, request in state.requests.items():
        for block_id in request.table:
            holders.setdefault(block_id, []).append(name)
    return holders
