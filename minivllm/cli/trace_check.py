"""``minivllm trace check``: is a trace whole, and does it tell of a run that can have been?"""

from __future__ import annotations

import typer

from minivllm.cli.trace_show import TraceFile
from minivllm.errors import TraceError

MAX_TOLD = 20
"""Breaches that are printed; the first is the one to look at."""


def check(file: TraceFile) -> None:
    """Read a trace, fold it, and hold every step to the invariants.

    A file that is cut or altered is refused with its line. A breach of an invariant (a reference
    count that is not the number of tables, a block that is neither free nor used, more granted
    than the budget, a step that is missing …) is a bug of the engine or of the trace; the exit
    status is 1 then.
    """
    from minivllm.trace.file import read_trace
    from minivllm.trace.gallery import find_recording
    from minivllm.trace.invariants import TraceChecker
    from minivllm.trace.words import count

    trace = read_trace(find_recording(file))
    if not trace.engines:
        raise TraceError(
            f"{file} holds no events of an engine: nothing ran, or all but its header was cut off; "
            "record it again"
        )
    checkers = {stream: TraceChecker() for stream in trace.engines}
    # What the engine told of itself is found here, too: the same sentence is one breach.
    told: dict[str, None] = {}
    for event in trace.events:
        if event.stream in checkers:
            for breach in checkers[event.stream].take(event):
                told[f"step {event.step}: {breach}"] = None
    breaches = list(told)
    for breach in breaches[:MAX_TOLD]:
        typer.echo(breach)
    if breaches:
        n = f"{len(breaches)} breach{'' if len(breaches) == 1 else 'es'}"
        typer.echo(f"{file}: {n} of an invariant", err=True)
        raise typer.Exit(1)
    steps = f"steps {trace.first_step} to {trace.last_step}"
    typer.echo(f"{file}: {count(len(trace.events), 'event')}, {steps}; every invariant holds")
