"""``minivllm replay``: the story of a recorded run, or the proof that it is true.

No torch, but for ``--tokens recompute``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.cli.trace_show import EngineNumber, LifeNumber
from minivllm.errors import ConfigError
from minivllm.trace.words import count

if TYPE_CHECKING:
    from minivllm.terminal.history import View


def replay(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A trace: .jsonl, or packed as .jsonl.gz, or a gallery name."
        ),
    ],
    first: Annotated[
        int | None, typer.Option("--from", help="The first step to print. Default: 1.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="The last step to print. Default: the run's last.")
    ] = None,
    engine: EngineNumber = None,
    life: LifeNumber = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Run its inputs again on a fresh engine instead, and compare event by event: of "
            "all engines and lives, or of the one that is named. "
            "Status 0: all the same; 1: not; 2: the trace does not hold what it takes.",
        ),
    ] = False,
    tokens: Annotated[
        str,
        typer.Option(
            metavar="recorded|recompute",
            help="With --verify. recorded: the trace's own tokens, no model, in moments, anywhere. "
            "recompute: the model runs as well, in float32.",
        ),
    ] = "recorded",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --tokens recompute: where the model is. Default: as the trace's header "
            "names it.",
        ),
    ] = None,
) -> None:
    """Print what happened in each step of a recorded run, and why; or prove it with --verify.

    Sentences and numbers come from the events, which the engine wrote at the branch that took the
    decision. To go back and forth in a run, use `minivllm step FILE` or the dashboard.

    \b
    Examples: minivllm generate "Hello" --trace run.jsonl && minivllm replay run.jsonl
              minivllm replay run.jsonl --verify
    """
    from minivllm.terminal.runs import RecordedRun
    from minivllm.trace.gallery import find_recording

    path = find_recording(file)
    if verify:
        from minivllm.cli.verify import verify as verify_file

        for option, value in (("--from", first), ("--to", last)):
            if value is not None:
                raise ConfigError(option, value, "not with --verify, which runs all steps")
        raise typer.Exit(verify_file(path, tokens, model, engine, life))
    run = RecordedRun(path, life, engine)
    history = run.history
    end = history.last
    first = min(1, end) if first is None else first
    if first < 0 or first > end:
        raise ConfigError("--from", first, f"a step of this run, {history.first} to {end}")
    if last is not None and last < first:
        raise ConfigError("--to", last, f"a step that is not before --from, {first} or more")
    header = history.header
    what = "no model, given tokens" if header.fidelity == "given" else header.model
    typer.secho(f"{header.name} · {count(end, 'step')} · {what}", dim=True)
    if run.others:
        typer.secho(run.others, dim=True, err=True)
    for step in sorted(history.steps):
        if first <= step <= (end if last is None else last):
            tell(history.view(step))


def tell(view: View) -> None:
    """One line: the step, what happened, and what else, counted."""
    from minivllm.terminal.text import clean

    told = view.story
    width = max(len(str(view.last)), 3)
    line = f"{view.step:>{width}}  {clean(told.headline)}"
    typer.echo(line + (typer.style(f"  ({clean(told.also)})", dim=True) if told.also else ""))
