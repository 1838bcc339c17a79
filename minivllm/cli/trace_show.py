"""``minivllm trace stats|cat|vocabulary|schema``: what is in a trace, and what may be. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.errors import ConfigError
from minivllm.trace.gallery import find_recording

if TYPE_CHECKING:
    from minivllm.trace.events import Event
    from minivllm.trace.file import Trace
    from minivllm.trace.stats import Stats

TraceFile = Annotated[
    Path,
    typer.Argument(
        parser=find_recording,
        metavar="FILE",
        help="A trace: .jsonl, or packed as .jsonl.gz, or a gallery name.",
    ),
]
EngineNumber = Annotated[
    int | None,
    typer.Option(
        "--engine",
        metavar="N",
        help="Of a trace with several engines: which. Default: the first.",
    ),
]
LifeNumber = Annotated[
    int | None,
    typer.Option(
        "--life",
        metavar="N",
        help="Of an engine that was started more than once: which of its lives. Default: the last.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]


# --- stats -------------------------------------------------------------------------------------


def stats(
    file: TraceFile, engine: EngineNumber = None, life: LifeNumber = None, as_json: AsJson = False
) -> None:
    """Count what happened in a run: tokens, budget, waits, prefix cache, pool, victims.

    Of one engine, in one of its lives: blocks, steps and names of requests are each engine's own.

    \b
    Example: minivllm trace stats run.jsonl --json | jq .budget.unused
    """
    import msgspec

    from minivllm.trace.file import read_trace
    from minivllm.trace.pick import pick
    from minivllm.trace.stats import make_stats

    picked = pick(read_trace(file), engine, life)
    counted = make_stats(picked.trace)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(counted), indent=1).decode())
        return
    name = counted.name or file.name
    typer.echo(f"{name}  {counted.schema}  {counted.engine_version}")
    if picked.others:
        typer.secho(f"{picked.which}; {picked.others}", dim=True)
    for title, rows in _tables(counted):
        if title:
            typer.echo(f"\n{title}")
        for label, value in rows:
            typer.echo(f"  {label:<34}{value:>12}")


def _tables(s: Stats) -> list[tuple[str, list[tuple[str, object]]]]:
    budget, cache, pool = s.budget, s.cache, s.pool
    rate = "none asked" if cache.hit_rate is None else f"{cache.hit_rate:.1%}"
    run: list[tuple[str, object]] = [
        ("steps", s.steps),
        ("requests", s.requests),
        *((f"ended: {reason}", n) for reason, n in s.ended.items()),
        ("prompt tokens", s.prompt_tokens),
        ("output tokens", s.output_tokens),
        *((f"steps to first token, {name}", n) for name, n in s.first_token_steps.items()),
        ("preemptions", len(s.victims)),
        ("tokens lost by preemption", sum(v.tokens_lost for v in s.victims)),
        *((f"{phase}, ms in a step, p50", ms) for phase, ms in s.times_ms.items()),
    ]
    if s.first_step > 1:
        run.insert(0, ("kept from step", s.first_step))
    victims: list[tuple[str, object]] = [
        (f"step {v.step}: {v.req} for {v.for_req}", f"{v.tokens_lost} lost") for v in s.victims
    ]
    tables: list[tuple[str, list[tuple[str, object]]]] = [
        ("", run),
        (
            "token budget",
            [
                ("budget of all steps", budget.total),
                ("tokens run", budget.used),
                *((f"unused: {reason}", n) for reason, n in budget.unused.items()),
                *((f"asked, not granted: {reason}", n) for reason, n in budget.refused.items()),
            ],
        ),
        ("waits (requests × steps)", list(s.waits.items())),
        (
            "prefix cache",
            [
                ("tokens asked for", cache.asked_tokens),
                ("tokens from the prefix cache", cache.hit_tokens),
                ("hit rate", rate),
                ("blocks evicted", cache.evicted_blocks),
            ],
        ),
        (
            "blocks in use at the ends of steps",
            [
                ("usable", pool.usable),
                ("p50", pool.p50),
                ("max", pool.max),
                ("taken over the run", pool.taken),
            ],
        ),
        ("victims", victims),
        ("events by kind", list(s.events.items())),
    ]
    return [(title, rows) for title, rows in tables if rows]


# --- cat ---------------------------------------------------------------------------------------


def cat(
    file: TraceFile,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind (kv.alloc) or group (kv); may be repeated."),
    ] = None,
    req: Annotated[
        list[str] | None, typer.Option(help="Only this request, such as r4; may be repeated.")
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="N|A-B", help="Only this step or these; may be repeated."),
    ] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Only events that give this reason (no_budget); may be repeated."),
    ] = None,
    block: Annotated[
        list[int] | None, typer.Option(help="Only what happened to this block; may be repeated.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="Only this stream, such as engine0 or api.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only what concerns the request with this id of its client's, in "
            "all streams; `minivllm trace life` tells it in words.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The lines as they stand in the file.")
    ] = False,
) -> None:
    """Print events, one a line: step, number, kind, request, and the kind's own fields.

    An event is printed if it passes every filter that is given; of one filter's values, any.

    \b
    Example: minivllm trace cat run.jsonl --kind sched --kind req.preempt --step 5-9
    """
    import msgspec

    from minivllm.trace.file import read_trace

    trace = read_trace(file)
    tests = _tests(trace, kind, req, step, reason, block, stream)
    events = trace.events if request is None else _of_request(trace, request)
    several = len({event.stream for event in events}) > 1
    for event in events:
        if not all(test(event) for test in tests):
            continue
        if as_json:
            typer.echo(msgspec.json.encode(event).decode())
            continue
        fields = msgspec.json.encode(event.data).decode()
        where = f"{event.stream:<8} " if several else ""
        typer.echo(
            f"{where}{event.step:>4} {event.seq:>6} {event.kind:<16} {event.req or '-':<5} {fields}"
        )


def _of_request(trace: Trace, request_id: str) -> list[Event]:
    from minivllm.trace.life import events_of

    return events_of(trace, request_called("--request", trace, request_id))


def request_called(option: str, trace: Trace, given: str) -> str:
    """The one request that is meant, by its id or by what its client knows of that. Raises
    ConfigError where it is none, or one of several."""
    from minivllm.trace.family import Families

    families = Families(trace)
    called = families.called(given)
    if len(called) == 1:
        return called[0]
    if called:
        allowed = f"one of the {len(called)} that this may be: {', '.join(called[:6])}"
        raise ConfigError(option, given, allowed + (", …" if len(called) > 6 else ""))
    ids = families.tops()
    some = difflib.get_close_matches(given, ids, n=3) or ids[:6]
    raise ConfigError(option, given, f"a request of this trace: {', '.join(some) or 'it has none'}")


def _tests(
    trace: Trace,
    kinds: list[str] | None,
    reqs: list[str] | None,
    steps: list[str] | None,
    reasons: list[str] | None,
    blocks: list[int] | None,
    stream: str | None,
) -> list[Callable[[Event], bool]]:
    """One test for each filter that was given. Raises ConfigError for a word that fits nothing."""
    from minivllm.trace.events import KINDS, REASONS, GrantWhy

    tests: list[Callable[[Event], bool]] = []
    if kinds:
        present = {*KINDS, *(event.kind for event in trace.events)}
        wanted = set(_known("--kind", kinds, present | {name.split(".")[0] for name in present}))
        tests.append(lambda e: e.kind in wanted or e.kind.split(".")[0] in wanted)
    if reqs:
        named = set(_known("--req", reqs, {e.req for e in trace.events if e.req}))
        tests.append(lambda e: e.req in named)
    if steps:
        spans = [_span(text) for text in steps]
        tests.append(lambda e: any(first <= e.step <= last for first, last in spans))
    if reasons:
        present = {word for e in trace.events for word in _reasons(e.data)}
        present |= {reason.value for reason in (*REASONS, *GrantWhy)}
        words = set(_known("--reason", reasons, present))
        tests.append(lambda e: not words.isdisjoint(_reasons(e.data)))
    if blocks:
        ids = set(blocks)
        tests.append(lambda e: e.kind.startswith("kv.") and not ids.isdisjoint(_blocks(e.data)))
    if stream is not None:
        _known("--stream", [stream], {e.stream for e in trace.events})
        tests.append(lambda e: e.stream == stream)
    return tests


def _known(option: str, given: list[str], allowed: set[str]) -> list[str]:
    for word in given:
        if word not in allowed:
            near = difflib.get_close_matches(word, sorted(allowed), n=3)
            some = near or sorted(allowed)[:12]
            raise ConfigError(option, word, ", ".join(some) + (" …" if len(allowed) > 12 else ""))
    return given


def _span(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ConfigError("--step", text, "a step (7), or the first and the last of some (5-9)")
    return first, last


def _reasons(data: Any) -> set[str]:
    """Every reason in a payload, those of a ledger's rows included."""
    from minivllm.trace.events import Vocabulary

    found: set[str] = set()
    for name in getattr(data, "__struct_fields__", ()):
        value = getattr(data, name)
        if isinstance(value, Vocabulary):
            found.add(value.value)
        elif name == "rows":
            found.update(*(_reasons(row) for row in value))
    return found


def _blocks(data: Any) -> list[int]:
    one = getattr(data, "block", None)
    return [one] if one is not None else getattr(data, "blocks", [])


# --- vocabulary and schema ---------------------------------------------------------------------


def vocabulary(as_json: AsJson = False) -> None:
    """Print every kind of event and every reason, each with its line."""
    import json

    from minivllm.trace.schema import vocabulary as words

    lists = words()
    if as_json:
        typer.echo(json.dumps(lists, indent=1, ensure_ascii=False))
        return
    for title, rows in lists.items():
        typer.echo(f"{title}")
        for name, text in rows.items():
            typer.echo(f"  {name:<24}{text}")


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
) -> None:
    """Print the JSON Schema of a trace's lines, exported from minivllm/trace/events.py."""
    from minivllm.trace.schema import json_schema

    text = json_schema()
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
