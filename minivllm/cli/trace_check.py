"""``minivllm trace check``: is a trace whole, and does it tell of a run that can have been?"""

from __future__ import annotations

import typer

from minivllm.cli.trace_show import EngineNumber, LifeNumber, TraceFile
from minivllm.errors import TraceError

MAX_TOLD = 20
"""Breaches that are printed; the first is the one to look at."""


def check(file: TraceFile, engine: EngineNumber = None, life: LifeNumber = None) -> None:
    """Read a trace, fold it, and hold every step of every engine to the invariants.

    A file that is cut or altered is refused with its line. A breach of an invariant (a reference
    count that is not the number of tables, a block that is neither free nor used, more granted
    than the budget, a step that is missing …) is a bug of the engine or of the trace; the exit
    status is 1 then.
    """
    from minivllm.trace.file import life_name, read_trace
    from minivllm.trace.gallery import find_recording
    from minivllm.trace.invariants import TraceChecker
    from minivllm.trace.pick import pick
    from minivllm.trace.words import count

    trace = read_trace(find_recording(file))
    if not trace.engines:
        raise TraceError(
            f"{file} holds no events of an engine: nothing ran, or all but its header was cut off; "
            "record it again"
        )
    lives = trace.lives()
    several = len(lives) > 1
    if engine is not None or life is not None:
        picked = pick(trace, engine, life)
        lives = {life_name(picked.stream, picked.life): picked.trace}
    # What the engine told of itself is found here, too: the same sentence is one breach.
    told: dict[str, None] = {}
    for name, run in lives.items():
        checker = TraceChecker()
        where = f"{name}, " if several else ""
        for event in run.events:
            for breach in checker.take(event):
                told[f"{where}step {event.step}: {breach}"] = None
    breaches = list(told)
    for breach in breaches[:MAX_TOLD]:
        typer.echo(breach)
    if breaches:
        n = f"{len(breaches)} breach{'' if len(breaches) == 1 else 'es'}"
        typer.echo(f"{file}: {n} of an invariant", err=True)
        raise typer.Exit(1)
    steps = [f"steps {run.first_step} to {run.last_step}" for run in lives.values()]
    if several:
        steps = [f"{name} {each}" for name, each in zip(lives, steps, strict=True)]
    typer.echo(
        f"{file}: {count(len(trace.events), 'event')}, {'; '.join(steps)}; every invariant holds"
    )
