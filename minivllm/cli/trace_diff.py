"""``minivllm trace diff``: where two runs first decide otherwise, and because of what. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.cli.trace_show import EngineNumber, LifeNumber
from minivllm.trace.words import count, join, knob_value

if TYPE_CHECKING:
    from minivllm.trace.diff import Comparison, Side
    from minivllm.trace.file import Trace

SAME, DIFFERENT, NOT_COMPARABLE = 0, 1, 2


def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A trace: .jsonl, or packed as .jsonl.gz, or a gallery name."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, of the same requests.")],
    engine: EngineNumber = None,
    life: LifeNumber = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Where two runs first decide otherwise, and because of what.

    Of several engines, each is held against the one with its number in the other trace, life by
    life; --engine and --life pick one of them.

    A decision is who runs and how much, why others do not, who gives way, who ends. Which blocks
    were taken is none. Status 0: the same; 1: different; 2: not comparable.

    \b
    Example: minivllm trace diff tiny-pressure roomy.jsonl
    """
    import msgspec

    from minivllm.trace.file import read_trace
    from minivllm.trace.gallery import find_recording
    from minivllm.trace.pick import pick

    traces = [read_trace(find_recording(file)) for file in (a, b)]
    if engine is not None or life is not None:
        traces = [pick(trace, engine, life).trace for trace in traces]
    results = compare_engines(*traces)
    if as_json:
        document = {
            name: {"same": result.same, **msgspec.to_builtins(result)}
            for name, result in results.items()
        }
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=1).decode())
    else:
        for name, file, trace in zip("AB", (a, b), traces, strict=True):
            fork = f", forked from {trace.header.forked_from}" if trace.header.forked_from else ""
            steps = [count(run.last_step, "step") for run in trace.lives().values()]
            typer.echo(f"{name}  {file}  ({join(steps) if steps else '0 steps'}{fork})")
        for name, result in results.items():
            if len(results) > 1:
                typer.echo(f"\n{name}")
            for line in lines(result):
                typer.echo(line)
    raise typer.Exit(max((status(result) for result in results.values()), default=NOT_COMPARABLE))


def compare_engines(a: Trace, b: Trace) -> dict[str, Comparison]:
    """Engine → comparison; one that only one trace has is not comparable."""
    from minivllm.trace.diff import compare
    from minivllm.trace.file import Trace

    ours, theirs = a.lives(), b.lives()
    nothing = Trace(a.header, [])
    return {
        name: compare(ours.get(name, nothing), theirs.get(name, nothing)) for name in ours | theirs
    }


def status(result: Comparison) -> int:
    if result.not_comparable:
        return NOT_COMPARABLE
    return SAME if result.same else DIFFERENT


def lines(result: Comparison) -> list[str]:
    if result.not_comparable:
        return [f"not comparable: {result.not_comparable}"]
    told = _divergence(result)
    named = set(result.cause)
    knobs = [
        f"{pair.name} {knob_value(pair.a)} | {knob_value(pair.b)}"
        + (f" from step {pair.step} on" if pair.step else "")
        for pair in result.knobs
        if pair.words not in named
    ]
    if knobs:
        told += ["knobs that differ (A | B): " + ", ".join(knobs)]
    inputs = [pair.words for pair in result.inputs if pair.words not in named]
    if inputs:
        told += ["inputs that differ: " + "; ".join(inputs)]
    if result.token is not None and not any(result.token.req in words for words in named):
        token = result.token
        told += [
            f"first other token: {token.req}'s output token {token.index + 1}, "
            f"{token.a!r} in A, {token.b!r} in B (step {token.step})"
        ]
    if result.by_nature:
        kinds = [f"{kind} {a} | {b}" for kind, (a, b) in result.by_nature.items()]
        told += ["not counted (only in A | only in B): " + ", ".join(kinds)]
    return told


def _divergence(result: Comparison) -> list[str]:
    first = result.first
    if first is None:
        same = f"the same in all {count(result.steps[0], 'step')}"
        return [same if result.same else f"the decisions are {same}"]
    told = [f"first other decision: step {first.step}"]
    for other in first.others:
        told += [f"  {other.req or 'all':<5} A  {other.a}", f"        B  {other.b}"]
    told += _side("A", first.a) + _side("B", first.b)
    return [*told, "because", *(f"  {cause}" for cause in result.cause)]


def _side(name: str, side: Side) -> list[str]:
    told = [f"{name}: {side.headline}", *(f"     {words}" for words in side.why)]
    return [*told, f"     told by {side.source}"] if side.source else told
