"""``minivllm replay``: the story of a recorded run, a sentence or two for each step. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minivllm.errors import ConfigError


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace: .jsonl, or packed as .jsonl.gz.")
    ],
    first: Annotated[int, typer.Option("--from", help="The first step to print.")] = 1,
    last: Annotated[
        int | None, typer.Option("--to", help="The last step to print. Default: the run's last.")
    ] = None,
) -> None:
    """Print what happened in each step of a recorded run, and why.

    Sentences and numbers come from the events, which the engine wrote at the branch that took the
    decision. To go back and forth in a run, use `minivllm step FILE` or the dashboard.

    \b
    Example: minivllm generate "Hello" --trace run.jsonl && minivllm replay run.jsonl
    """
    from minivllm.trace.file import read_trace
    from minivllm.trace.fold import apply, new_state
    from minivllm.trace.story import story

    trace = read_trace(file)
    end = trace.last_step if last is None else min(last, trace.last_step)
    if first < 1 or (first > end and end > 0):
        raise ConfigError("--from", first, f"a step of this run, 1 to {end}")
    header = trace.header
    title = header.name or Path(trace.name).name
    typer.echo(
        f"{title}: {trace.last_step} steps · model {header.model or 'none'} · {header.dtype}"
    )

    width = len(str(trace.last_step))
    state = new_state()
    for step, events in sorted(trace.steps.items()):
        if first <= step <= end:
            told = story(state, events)
            typer.echo(f"{step:>{width}}  {told.headline}")
            if told.also:
                typer.secho(f"{'':{width}}  also: {told.also}", dim=True)
        for event in events:
            apply(state, event)
