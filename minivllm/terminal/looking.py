"""The verbs that look at what there is: requests, blocks, the batch of a step.

Each answers with lines for a reader and with data for a program, from the fold and the events.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.style import Style
from rich.text import Text

from minivllm.terminal import cells, pool, queues, regions
from minivllm.terminal.answers import (
    block_lines,
    life_lines,
    way_lines,
)
from minivllm.terminal.arrays import batch_lines
from minivllm.terminal.cells import hue
from minivllm.terminal.naming import block_named, number, request_named, scene_of
from minivllm.terminal.reply import Reply, VerbError
from minivllm.terminal.session import MAX_STEP, Session
from minivllm.terminal.text import clean, columns, tail, within
from minivllm.trace.batch import Batch, batch_of
from minivllm.trace.fold import RequestState
from minivllm.trace.lives import block_life, request_life
from minivllm.trace.why import why_block
from minivllm.trace.words import count, span

BAR = 20
"""Cells of the bar of a probability."""
STATUSES = ("arrived", "waiting", "waiting_for_grammar", "running", "preempted", "finished")


def _nothing(words: str, data: object) -> Reply:
    """Where there is nothing to list that is the answer, and no failure: a script goes on."""
    return Reply([Text(words, style="dim")], data)


def requests(session: Session, words: list[str]) -> Reply:
    """All of them, or those of a status."""
    state = session.view.state
    chosen = {
        name: request
        for name, request in state.requests.items()
        if not words or words[0] in (request.status, name)
    }
    if not chosen:
        there = ", ".join(sorted({r.status for r in state.requests.values()})) or "none yet"
        if words and words[0] not in STATUSES:
            asked = f"requests {clean(words[0])}: no request at step {session.step}"
            raise VerbError(f"{asked}; there are: {there}")
        if not state.requests:
            return _nothing(f"no request has come by step {session.step}", {})
        told = f"no request is {words[0]} at step {session.step}; there are: {there}"
        return _nothing(told, {})
    rows = [
        (
            Text(name, style=hue(session.view, name) + Style(bold=True)),
            request.status + (f" ({request.finish_reason})" if request.finish_reason else ""),
            request.num_prompt_tokens,
            len(request.tokens) - request.num_prompt_tokens,
            f"{request.num_computed_tokens}/{len(request.tokens)}",
            len(request.table),
            request.num_cached_tokens or "",
            request.num_preemptions or "",
            request.arrived_step,
            _when(request.first_token_step),
            _when(request.finished_step),
        )
        for name, request in chosen.items()
    ]
    head = ("", "status", "prompt", "said", "computed", "blocks", "hit", "!", "came", "1st", "end")
    lines = columns(head, rows, session.width)
    data = {name: _request_data(request) for name, request in chosen.items()}
    return Reply(
        lines,
        data,
        title=f"{count(len(rows), 'request')}, step {session.step}; came, 1st token, end: steps",
    )


def _when(step: int | None) -> object:
    return "" if step is None else step


def _request_data(request: RequestState) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(request)
    return plain


def request(session: Session, words: list[str]) -> Reply:
    req = request_named(session, words, "request")
    view = session.view
    life = request_life(view.record.steps, req)
    state = view.state.requests[req]
    lines = life_lines(req, state, life, view.step, session.width)
    lines += way_lines(session.run.way(req))
    data = {**_request_data(state), "life": msgspec.to_builtins(life)}
    return Reply(lines, data, title=f"the life of {req}")


def queue(session: Session, words: list[str]) -> Reply:
    """Who waits, in order, and why."""
    scene = scene_of(session)
    state = session.view.state
    lines = queues.waiting(scene, session.width, max(len(state.waiting), 1) + 1)
    data = [
        {"req": req, "wait": msgspec.to_builtins(state.requests[req].wait)} for req in state.waiting
    ]
    lines = within(lines, session.width)
    return Reply(lines, data, title=f"who waits, step {session.step}")


def tokens(session: Session, words: list[str]) -> Reply:
    """The token stream: what each has said so far, and in this step."""
    view = session.view
    names = [request_named(session, words, "tokens")] if words else list(view.state.requests)
    said: dict[str, list[str]] = {}
    for event in view.of("req.token"):
        said.setdefault(str(event.req), []).append(event.data.text)
    lines, data = [], {}
    for name in names:
        request = view.state.requests[name]
        n = request.num_prompt_tokens
        new = said.get(name, [])
        output = request.texts[n : len(request.texts) - len(new)]
        data[name] = {"prompt": request.texts[:n], "output": request.texts[n:], "new": new}
        fresh = clean("".join(new))
        prompt = tail(clean("".join(request.texts[:n])), max(session.width // 3, 12))
        room = session.width - Text(prompt + fresh + name).cell_len - 4
        line = Text().append(f"{name:<3} ", style=hue(view, name) + Style(bold=True))
        line.append(prompt, style="dim").append("│", style="dim")
        line.append(tail(clean("".join(output)), max(room, 8)))
        lines.append(line.append(fresh, style="bold underline"))
    if not lines:
        return _nothing(f"no request has come by step {view.step}", {})
    return Reply(lines, data, title=f"the token stream, step {view.step}")


def topk(session: Session, words: list[str]) -> Reply:
    """The candidates of a token that was drawn in this step, before and after the processors."""
    view = session.view
    rows = [row for event in view.of("sample") for row in event.data.rows]
    req = request_named(session, words, "topk") if words else None
    if not rows:
        return _nothing(f"no token was drawn in step {view.step}", [])
    named = [row for row in rows if req in (None, row.req)]
    if not named:
        there = ", ".join(dict.fromkeys(row.req for row in rows))
        return _nothing(f"{req} got no token in step {view.step}; {there} did", [])
    lines: list[Text] = []
    for row in named:
        chance = "" if row.logprob is None else f", logprob {row.logprob:.3f}, rank {row.rank}"
        line = Text().append(f"{row.req} ", style=hue(view, row.req) + Style(bold=True))
        lines.append(line.append(f"drew {row.text!r} ({row.token_id}){chance}"))
        for effect in row.processors:
            lines.append(Text(f"    {effect.name}: {_effect(effect)}", style="dim"))
        probable = {one.token_id: one.probability for one in row.after}
        for place, one in enumerate(row.before, start=1):
            after = probable.get(one.token_id)
            bar = "█" * round(BAR * (after or 0.0))
            drawn = "◉" if one.token_id == row.token_id else " "
            lines.append(
                Text(
                    f"  {drawn} {place:>2} {clean(one.text)!r:<16} logprob {one.logprob:>8.3f}"
                    f"   {'–' if after is None else f'{after:.3f}':>6} {bar}"
                )
            )
    if not any(row.before for row in named):
        lines.append(Text(_no_candidates(session), style="dim"))
    return Reply(lines, msgspec.to_builtins(named), title=f"what was drawn, step {view.step}")


def _no_candidates(session: Session) -> str:
    """Why there are none, and what brings them."""
    run, fidelity = session.run, session.history.header.fidelity
    if fidelity == "given":
        return "these tokens were given: nothing was drawn; --with-model lets a model draw"
    if fidelity == "recorded":
        return "a fork says the recorded tokens again: nothing was drawn"
    if session.steered is None:
        return "the candidates were not recorded: that takes --trace-level sampling"
    who = "start the server" if run.label == "ATTACHED" else "run"
    return f"the candidates were not kept: {who} with --trace-level sampling"


def _effect(effect: Any) -> str:
    fields = {k: v for k, v in msgspec.to_builtins(effect).items() if k != "name" and v}
    return ", ".join(f"{k} {v}" for k, v in fields.items()) or "changed nothing"


# --- blocks --------------------------------------------------------------------------------------


def blocks(session: Session, words: list[str]) -> Reply:
    """The whole pool with its slots, or a range of it."""
    state = session.view.state
    last = len(state.blocks) - 1
    if last < 1:
        raise VerbError("there is no pool yet")
    first, end = 1, last
    if words:
        low, _, high = words[0].partition("-")
        first = number([low], "blocks", 0, last)
        end = number([high or low], "blocks", first, last)
    scene = scene_of(session)
    lines = pool.grid(scene, session.width, range(first, end + 1), with_slots=last <= 400)
    data = {
        str(i): {
            **msgspec.to_builtins(state.blocks[i]),
            "owners": [n for n, r in state.requests.items() if i in r.table],
        }
        for i in range(first, end + 1)
    }
    used = last - len(state.free)
    return Reply(lines, data, title=f"the pool: {used} of {last} in use")


def block(session: Session, words: list[str]) -> Reply:
    block_id = block_named(session, words, "block")
    view = session.view
    now = why_block(view.record, view.state, view.step, block_id).now
    life = block_life(view.record.steps, block_id)
    lines = [Text().append(f"block {block_id}  ", style="bold").append(now)]
    lines += block_lines(life, view.step, session.width)
    data = {
        "block": block_id,
        "now": now,
        "life": [
            {"step": e.event.step, "seq": e.event.seq, "kind": e.event.kind, "words": e.words}
            for e in life
        ],
    }
    return Reply(lines, data, title=f"the history of block {block_id}")


def free(session: Session, words: list[str]) -> Reply:
    """The free queue: in the order in which blocks are taken, and their content is forgotten."""
    state = session.view.state
    size = int((state.config or {}).get("block_size", 1))
    lines, data = [], []
    for place, block_id in enumerate(state.free, start=1):
        one = state.blocks[block_id]
        what = "blank"
        if one.hash is not None:
            what = "cached"
            if one.held is not None:
                start = one.held.logical * size + 1
                what += f", {span(start, start + one.held.filled - 1)} of {one.held.req}"
                what += _text_of(session, one.held.req, start - 1, one.held.filled)
        mark = cells.HASHED if one.hash else " "
        lines.append(Text(f"{place:>4}  block {block_id:>4}{mark} {what}"))
        data.append({"block": block_id, **msgspec.to_builtins(one)})
    title = f"{count(len(lines), 'free block')}, the next to be taken first"
    return Reply(lines or [Text("no block is free")], data, title=title)


def _text_of(session: Session, req: str, start: int, n: int) -> str:
    request = session.view.state.requests.get(req)
    if request is None:
        return ""
    return f": {tail(clean(''.join(request.texts[start : start + n])), 40)!r}"


def tables(session: Session, words: list[str]) -> Reply:
    """Logical → physical, for each request that has blocks."""
    scene = scene_of(session)
    lines = within(regions.tables(scene, session.width, MAX_STEP), session.width)
    state = session.view.state
    data = {name: r.table for name, r in state.requests.items() if r.table}
    return Reply(lines, data, title=f"the block tables, step {session.step}")


# --- the batch -----------------------------------------------------------------------------------


def batch(session: Session, words: list[str]) -> Reply:
    """Who runs how many tokens, in the order of the grants, and what limited whom."""
    view = session.view
    ledger = next((e.data for e in view.of("sched.ledger")), None)
    if ledger is None:
        return _nothing(f"no budget was handed out in step {view.step} (so far)", {})
    composed = next((e.data for e in view.of("batch.compose")), None)
    starts = {row.req: row for row in composed.rows} if composed is not None else {}
    rows = []
    for row in ledger.rows:
        runs = starts.get(row.req)
        where = span(runs.start + 1, runs.start + runs.n) if runs is not None else ""
        limit = row.limited_by.value if row.limited_by is not None else ""
        name = Text(row.req, style=hue(view, row.req) + Style(bold=True))
        rows.append((name, row.asked, row.granted, where, runs.why.value if runs else "", limit))
    lines = columns(("", "asked", "granted", "runs", "kind", "limited by"), rows, session.width)
    rest = f"{ledger.used} of {ledger.budget} tokens are used"
    if ledger.unused_reason is not None:
        rest += f"; the rest is unused: {ledger.unused_reason.value}"
    lines = within([*lines, Text(rest, style="dim")], session.width)
    data = msgspec.to_builtins(ledger)
    return Reply(lines, data, title=f"the batch of step {view.step}")


def tensors(session: Session, words: list[str]) -> Reply:
    found = batch_here(session)
    if found is None:
        return _nothing(f"no token ran in step {session.step}: it has no batch", {})
    size = int((session.view.state.config or {}).get("block_size", 1))
    lines = batch_lines(found, size, session.width)
    lines = within(lines, session.width)
    return Reply(lines, msgspec.to_builtins(found), title=f"the tensors of step {session.step}")


def batch_here(session: Session) -> Batch | None:
    return batch_of(session.view.before, session.view.events)
