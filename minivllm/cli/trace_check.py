"""``minivllm trace check``: is a trace whole, and does it tell of a run that can have been?"""

from __future__ import annotations

import typer

from minivllm.cli.trace_show import TraceFile

MAX_TOLD = 20
"""Breaches that are printed; the first is the one to look at."""


def check(file: TraceFile) -> None:
    """Read a trace, fold it, and hold every step's state to the invariants.

    A file that is cut or altered is refused with its line. A breach of an invariant (a reference
    count that is not the number of tables, a block that is neither free nor used …) is a bug of
    the engine or of the trace; the exit status is 1 then.
    """
    from minivllm.trace.file import read_trace
    from minivllm.trace.fold import apply, new_state
    from minivllm.trace.gallery import find_recording
    from minivllm.trace.invariants import violations

    trace = read_trace(find_recording(file))
    breaches: list[str] = []
    states = {event.stream: new_state() for event in trace.events if event.stream != "api"}
    for event in trace.events:
        if event.stream == "api":
            continue
        state = states[event.stream]
        apply(state, event)
        if event.kind == "trace.violation":
            breaches.append(f"step {event.step}: {event.data.message}")
        elif event.kind == "step.end":
            breaches += [f"step {event.step}: {breach}" for breach in violations(state)]
    for breach in breaches[:MAX_TOLD]:
        typer.echo(breach)
    if breaches:
        typer.echo(f"{file}: {len(breaches)} breaches of an invariant", err=True)
        raise typer.Exit(1)
    steps = f"steps {trace.first_step} to {trace.last_step}"
    typer.echo(f"{file}: {len(trace.events)} events, {steps}; every invariant holds")
