"""``minivllm compare``: one workload, twice, with other flags; what became of it, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.cli.options import parse_flags
from minivllm.errors import ConfigError, TraceError

if TYPE_CHECKING:
    from minivllm.scenario import Scenario
    from minivllm.trace.diff import Comparison
    from minivllm.trace.file import Trace
    from minivllm.trace.metrics import Metrics


@dataclass(slots=True)
class Side:
    """One of the two runs."""

    flags: str
    knobs: dict[str, Any]
    path: Path
    trace: Trace
    metrics: Metrics
    failures: list[str]
    """Why requests of it failed, a line for each cause."""


def compare(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD",
            help="A scenario that comes with the package, or a .toml or .jsonl file.",
        ),
    ],
    a: Annotated[
        str, typer.Option("--a", metavar="FLAGS", help="The engine's flags of run A, quoted.")
    ] = "",
    b: Annotated[
        str, typer.Option("--b", metavar="FLAGS", help="Those of run B. Both over the workload's.")
    ] = "",
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model", help="Run the model as well: also gives milliseconds and tokens/s."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the two traces go.")
    ] = Path("."),
    json: Annotated[
        bool, typer.Option("--json", help="Print all metrics as JSON, not the table.")
    ] = False,
) -> None:
    """Run a workload twice, with other flags, and say what differs and because of what.

    Both runs are real: the scheduler and the pool decide, and every number is a sum over the
    events of their traces. A cause stands there only where it is such a sum, too. Times in steps
    are the same on any machine.

    \b
    Examples: minivllm compare tiny-pressure --b "--no-enable-prefix-caching"
              minivllm compare mixed-lengths --b "--batching static" -o static
              minivllm compare long-prompt --b "--long-prefill-token-threshold 64" --with-model
    """
    from minivllm.scenario import load_scenario

    knobs = [_knobs(a, "--a"), _knobs(b, "--b")]
    scenario = load_scenario(workload)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TraceError(f"cannot make the directory {out}: {error.strerror}") from error
    if with_model:
        typer.secho("loading the model …", dim=True, err=True)
        _warm_up(knobs[0])
    sides = [
        _run(scenario, flags, one, out / f"{scenario.name}.{name}.trace.jsonl", with_model)
        for name, flags, one in zip("ab", (a, b), knobs, strict=True)
    ]
    first = _first_other_decision(sides[0].trace, sides[1].trace)
    if json:
        typer.echo(_json(workload, sides, first))
    else:
        _print(scenario, sides, first)
    for name, side in zip("AB", sides, strict=True):
        for line in side.failures:
            typer.echo(f"error: {name}: {line}", err=True)
    if any(side.failures for side in sides):  # the numbers are of whoever was left
        raise typer.Exit(1)


def _knobs(flags: str, where: str) -> dict[str, Any]:
    knobs = parse_flags(flags, where)
    if "path" in knobs:
        raise ConfigError(where, flags, "flags without --trace: both traces go to --out DIR")
    if "retention" in knobs:
        raise ConfigError(where, flags, "flags without --trace-retention: all steps are compared")
    return knobs


def _run(scenario: Scenario, flags: str, knobs: dict[str, Any], path: Path, model: bool) -> Side:
    from minivllm.cli.trace import _model_parts
    from minivllm.scenario import start
    from minivllm.trace.file import load_index, read_trace
    from minivllm.trace.metrics import measure

    executor, tokenizer = _model_parts(knobs) if model else (None, None)
    run = start(scenario, executor=executor, tokenizer=tokenizer, trace_path=str(path), **knobs)
    try:
        run.run()
    finally:
        run.recorder.close()
    load_index(path)  # beside the file, so that viewers can seek in it
    trace = read_trace(path)
    return Side(flags, knobs, path, trace, measure(trace), run.told_failures())


def _warm_up(knobs: dict[str, Any]) -> None:
    """What a process does once (reading the file, starting threads) must not be counted to A."""
    from minivllm.cli.trace import _model_parts
    from minivllm.scenario import Scenario, ScenarioRequest, start

    request = ScenarioRequest(arrives=1, prompt_token_ids=[1, 2, 3, 4], output_tokens=3)
    executor, tokenizer = _model_parts(knobs)
    start(
        Scenario(name="warm-up", request=[request]),
        executor=executor,
        tokenizer=tokenizer,
        num_kv_blocks=16,
        model=knobs.get("model"),
        dtype=knobs.get("dtype"),
    ).run()


def _first_other_decision(a: Trace, b: Trace) -> Comparison:
    from minivllm.trace import diff

    return diff.compare(a, b)


# --- output ------------------------------------------------------------------------------------


def _print(scenario: Scenario, sides: list[Side], comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from minivllm.trace.side_by_side import rows
    from minivllm.trace.words import count

    console = Console(highlight=False)
    a, b = sides
    what = a.trace.header.model if a.trace.header.fidelity == "live" else "no model, given tokens"
    console.print(f"{scenario.name}: {scenario.title}", style="bold", markup=False)
    console.print(f"{count(a.metrics.requests, 'request')} · {what}", style="dim", markup=False)
    for name, side in zip("AB", sides, strict=True):
        flags = side.flags or "as the workload says"
        console.print(f"{name}  {flags}  →  {side.path}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for heading in ("A", "B", "B−A"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("because", style="dim")
    group = ""
    for row in rows(a.metrics, b.metrics):
        if row.group != group:
            group = row.group
            table.add_row(f"[bold]{group}[/]")
        table.add_row(f"  {row.label}", row.a, row.b, row.difference, row.because)
    console.print()
    console.print(table)
    console.print()
    for line in _sentences(comparison):
        console.print(line, markup=False, soft_wrap=True)


def _sentences(comparison: Comparison) -> list[str]:
    if comparison.not_comparable:
        return [f"Only the numbers can be compared: {comparison.not_comparable}."]
    if comparison.first is None:
        if comparison.token is not None:
            token = comparison.token
            return [f"The same decisions; {token.req} says other tokens from step {token.step} on."]
        return [f"The same decisions in all {comparison.steps[0]} steps."]
    first = comparison.first
    return [
        f"First other decision: step {first.step}",
        f"  A  {first.a.headline}",
        f"  B  {first.b.headline}",
        *(f"  because {cause}" for cause in comparison.cause),
    ]


def _json(workload: str, sides: list[Side], comparison: Comparison) -> str:
    import msgspec

    first = comparison.first
    data = {
        "workload": workload,
        **{
            name: {"flags": side.flags, "trace": str(side.path), "metrics": side.metrics}
            for name, side in zip("ab", sides, strict=True)
        },
        "not_comparable": comparison.not_comparable,
        "first_other_decision": first
        and {
            "step": first.step,
            "a": first.a.headline,
            "b": first.b.headline,
            "because": comparison.cause,
        },
    }
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
