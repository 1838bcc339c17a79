"""One event in words, for whoever compares two runs event by event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from minivllm.trace.events import REASONS, Event
from minivllm.trace.words import count, join, knob_value, span

Say = Callable[[str | None, Any], str]


def say(event: Event) -> str:
    """``r4 gives way to r3, which needs 1 block (0 free)``; a kind without words is shown as it
    stands in the trace."""
    words = WORDS.get(event.kind)
    if words is not None:
        return words(event.req, event.data)
    fields = msgspec.json.encode(event.data).decode()
    return " ".join(part for part in (event.kind, event.req, fields) if part)


def other_fields(a: Event, b: Event) -> list[str]:
    """The fields in which two events of one kind differ: ``n: 3 | 4``."""
    first, second = msgspec.to_builtins(a.data), msgspec.to_builtins(b.data)
    return [
        f"{name}: {_short(first.get(name))} | {_short(second.get(name))}"
        for name in first | second
        if first.get(name) != second.get(name) and not name.endswith("ns")
    ]


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"


def _input(req: str | None, d: Any) -> str:
    return {
        "add": f"{req} is taken in",
        "abort": f"{req} is called back ({d.why.value if d.why else 'no reason'})",
        "reset_prefix_cache": "the prefix cache is to be forgotten",
        "set_knobs": "knobs are changed",
        "grammar_ready": f"the grammar of {req} is there",
        "grammar_failed": f"{req} will have no grammar",
    }.get(d.op, d.op)


def _blocks(ids: list[int]) -> str:
    return f"{'block' if len(ids) == 1 else 'blocks'} {join(ids)}" if ids else "no block"


def _rows(rows: list[Any]) -> str:
    return join([f"{row.req} {row.n} from {row.start}" for row in rows]) if rows else "nothing"


def _ledger(d: Any) -> str:
    rows = [
        f"{row.req} {row.granted} of {row.asked}"
        + (f" ({row.limited_by.value})" if row.limited_by else "")
        for row in d.rows
    ]
    rest = f", the rest unused ({d.unused_reason.value})" if d.unused_reason else ""
    return f"{d.used} of {d.budget} tokens are used{rest}: {join(rows) if rows else 'nobody asks'}"


def _sample(d: Any) -> str:
    said = [f"{row.req} says {row.text!r} ({row.token_id})" for row in d.rows]
    return join(said) if said else "nobody says anything"


def _message(d: Any) -> str:
    of = f" for {d.request_id}" if d.request_id else ""
    return f"{d.message}{of} of engine {d.engine}, {d.bytes} bytes,"


def _config(d: Any) -> str:
    return "the run begins with " + ", ".join(
        f"{name} {knob_value(value)}" for name, value in msgspec.to_builtins(d).items()
    )


WORDS: dict[str, Say] = {
    "run.config": lambda r, d: _config(d),
    "run.knob": lambda r, d: f"from here on {d.name} is {knob_value(d.value)}",
    "run.error": lambda r, d: f"the step fails with {d.error}: {d.message}",
    "run.idle": lambda r, d: "nothing can run",
    "gate.change": lambda r, d: (
        f"the gate is set to {d.mode}" + (f", {d.rate:g} steps a second" if d.rate else "")
    ),
    "trace.gap": lambda r, d: f"events {d.first} to {d.last} of {d.of_stream} are lost",
    "http.request": lambda r, d: f"{d.request_id}: {d.method} {d.path}, {d.bytes} bytes",
    "http.rejected": lambda r, d: f"{d.request_id} is refused with {d.status}: {d.message}",
    "http.first_byte": lambda r, d: f"the answer to {d.request_id} begins with status {d.status}",
    "http.chunk": lambda r, d: (
        f"{d.bytes} bytes with {count(d.tokens, 'token')} leave for {d.request_id}"
    ),
    "http.done": lambda r, d: (
        f"the answer to {d.request_id} is complete: status {d.status}, {d.bytes} bytes"
    ),
    "req.tokenize": lambda r, d: (
        f"{count(d.characters, 'character')} of {d.request_id} become {count(d.tokens, 'token')}"
    ),
    "req.detokenize": lambda r, d: (
        f"{count(d.tokens, 'token')} of {d.request_id} become {count(d.characters, 'character')}"
    ),
    "req.held_back": lambda r, d: f"{d.text!r} of {d.request_id} is held back",
    "req.released": lambda r, d: f"{d.text!r} of {d.request_id} goes out after all",
    "engine.start": lambda r, d: (
        f"engine {d.engine} is started, life {d.epoch}, process {d.pid} ({d.why.value})"
    ),
    "engine.ready": lambda r, d: f"engine {d.engine} is ready with {d.num_kv_blocks} blocks",
    "engine.dead": lambda r, d: (
        f"engine {d.engine} died: {d.message}; of its requests {d.retried} went elsewhere, "
        f"{d.failed} failed"
    ),
    "engine.drain": lambda r, d: (
        f"engine {d.engine} gets no new requests; {d.open_requests} are to be finished"
    ),
    "engine.resume": lambda r, d: f"engine {d.engine} gets requests again",
    "route.pick": lambda r, d: (
        f"{d.request_id} is sent to engine {d.engine} ({d.why.value}, {d.policy})"
    ),
    "ipc.send": lambda r, d: _message(d) + " leaves",
    "ipc.recv": lambda r, d: _message(d) + " has come",
    "core.input": _input,
    "req.arrive": lambda r, d: f"{r} arrives with {count(len(d.prompt_token_ids), 'token')}",
    "req.enqueue": lambda r, d: f"{r} stands as number {d.position + 1} in waiting",
    "req.grammar_wait": lambda r, d: f"{r} waits for its grammar ({d.form})",
    "req.grammar_ready": lambda r, d: f"{r} has its grammar and may be admitted",
    "req.admit": lambda r, d: f"{r} is admitted, {d.hit} of its {d.tokens} tokens reused",
    "req.resume": lambda r, d: f"{r} resumes, {d.hit} of its {d.tokens} tokens reused",
    "req.preempt": lambda r, d: (
        f"{r} returns to waiting as number {d.position + 1}, "
        f"{count(d.tokens_lost, 'computed token')} lost"
    ),
    "req.first_token": lambda r, d: f"{r} has its first token",
    "req.token": lambda r, d: f"{r} says {d.text!r} ({d.token_id}), output token {d.index + 1}",
    "req.finish": lambda r, d: (
        f"{r} ends ({d.reason}) after {count(d.output_tokens, 'output token')}"
    ),
    "req.abort": lambda r, d: f"{r} is aborted: {REASONS[d.why]}",
    "req.error": lambda r, d: f"{r} fails: {d.message}",
    "step.begin": lambda r, d: (
        f"the step begins: budget {d.budget}, {d.waiting} waiting, {d.running} running, "
        f"{count(d.free_blocks, 'block')} free"
    ),
    "step.end": lambda r, d: "the step ends",
    "sched.grant": lambda r, d: f"{r} runs {span(d.start + 1, d.start + d.n)} ({d.why.value})",
    "sched.chunk": lambda r, d: f"{r} runs {d.n} of the {d.of} tokens that it lacks",
    "sched.skip": lambda r, d: (
        f"{r} is passed over ({d.reason.value}): it needs {d.need} and has {d.have}"
    ),
    "sched.stop": lambda r, d: (
        f"nobody past {d.head} is looked at ({d.reason.value})"
        + (f"; {join(d.behind)} behind it" if d.behind else "")
    ),
    "sched.victim": lambda r, d: (
        f"{r} gives way to {d.for_req}, which needs {count(d.need, 'block')} ({d.have} free); "
        f"of {join(d.candidates)} under {d.policy}"
    ),
    "sched.refund": lambda r, d: f"{count(d.n, 'token')} of {r} go back to the budget",
    "sched.ledger": lambda r, d: _ledger(d),
    "kv.hit": lambda r, d: f"{r} finds {count(d.tokens, 'token')} in {_blocks(d.blocks)}",
    "kv.miss": lambda r, d: f"{r} finds nothing for its block {d.at_block + 1} ({d.reason.value})",
    "kv.touch": lambda r, d: f"{r} shares block {d.block}, now in {count(d.ref, 'table')}",
    "kv.evict": lambda r, d: f"block {d.block} is evicted for {r}",
    "kv.alloc": lambda r, d: f"{r} takes {_blocks(d.blocks)}",
    "kv.reserve": lambda r, d: f"{r} has {_blocks(d.blocks)} set aside",
    "kv.cache": lambda r, d: f"{r} fills block {d.block}, hashed as {d.hash}",
    "kv.uncache": lambda r, d: f"the hash of block {d.block} is withdrawn ({d.reason.value})",
    "kv.free": lambda r, d: (
        f"{r} gives back {_blocks(d.blocks)}: {_blocks(d.front)} to the front of the free queue, "
        f"{_blocks(d.back)} to its back"
    ),
    "kv.reset": lambda r, d: "the prefix cache is forgotten",
    "spec.propose": lambda r, d: f"{count(len(d.token_ids), 'draft')} may follow {r}'s tokens",
    "spec.accept": lambda r, d: f"{d.n} of {count(d.of, 'draft')} of {r} were right",
    "spec.reject": lambda r, d: f"{count(d.n, 'token')} of {r} were run in vain ({d.why.value})",
    "batch.compose": lambda r, d: f"the batch is {_rows(d.rows)}",
    "grammar.mask": lambda r, d: join(
        [f"{count(row.masked, 'token')} may not come next in {row.req}" for row in d.rows]
    ),
    "exec.forward": lambda r, d: f"{count(d.tokens, 'token')} run through the model",
    "sample": lambda r, d: _sample(d),
}
