"""``minivllm trace tensors``: the arrays of a captured step, and who looked at whom. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.cli.trace_show import EngineNumber, LifeNumber, TraceFile
from minivllm.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from minivllm.trace.artifacts import Artifact
    from minivllm.trace.events import Event
    from minivllm.trace.file import Trace

N = "N"


def tensors(
    file: TraceFile,
    step: Annotated[
        int | None, typer.Option(metavar=N, help="Which step. Default: list those that there are.")
    ] = None,
    req: Annotated[
        str | None, typer.Option(metavar="REQ", help="Show this request's attention, such as r3.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(metavar=N, help="From 0; -1 is the last. Default: mean of all.")
    ] = None,
    head: Annotated[int | None, typer.Option(metavar=N, help="The same for the head.")] = None,
    query: Annotated[
        int,
        typer.Option(
            metavar=N, help="Which of the request's tokens that ran in the step, from 0; -1: last."
        ),
    ] = -1,
    top: Annotated[int, typer.Option(metavar=N, min=1, help="Keys to print.")] = 10,
    engine: EngineNumber = None,
    life: LifeNumber = None,
) -> None:
    """Print what was captured of a step: its arrays, or one token's attention over its keys.

    Recorded with --trace-level tensors, or of a step that was armed. With --req the weights of one
    query token (a row that sums to 1), largest first, each with the text of the token it looks at.

    \b
    Example: minivllm trace tensors run.jsonl --step 17 --req r3 --layer 5 --head 2
    """
    from minivllm.trace.artifacts import artifact_events, no_such_step, open_artifact
    from minivllm.trace.file import read_trace
    from minivllm.trace.pick import pick

    trace = pick(read_trace(file), engine, life).trace
    captured = artifact_events(trace.events)
    if step is None:
        _list(captured, file)
        return
    if step not in captured:
        raise no_such_step(step, captured, str(file))
    event = captured[step]
    artifact = open_artifact(file, event)
    if req is None:
        _shapes(artifact, event)
    else:
        _attention(trace, event, artifact, req, layer, head, query, top)


def _list(captured: dict[int, Event], file: Path) -> None:
    if not captured:
        typer.echo(f"{file}: no step was captured (record with --trace-level tensors)")
    for step, event in captured.items():
        typer.echo(f"step {step:>6}  {event.data.bytes:>12} bytes  {' '.join(event.data.requests)}")


def _shapes(artifact: Artifact, event: Event) -> None:
    typer.echo(f"{artifact.name}: {event.data.bytes} bytes, rows of {' '.join(artifact.requests)}")
    for info in artifact.arrays.values():
        typer.echo(f"  {info.name:<20}{info.dtype:<6}{_shape(info.shape)}")


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _attention(
    trace: Trace,
    event: Event,
    artifact: Artifact,
    req: str,
    layer: int | None,
    head: int | None,
    query: int,
    top: int,
) -> None:
    from minivllm.trace import lens

    if req not in artifact.requests:
        raise ConfigError("--req", req, f"who ran in step {event.step}: {artifact.requests}")
    name = f"attention.{req}"
    if name not in artifact.arrays:
        raise ArtifactError(
            f"the attention of {req} in step {event.step} was left out: it was larger than "
            "--trace-tensors-limit (minivllm trace cat --kind trace.left_out)"
        )
    layers, heads, queries, keys = lens.shape(artifact, req)
    layer, head = _choose("--layer", layer, layers), _choose("--head", head, heads)
    query = _choose("--query", query, queries) or 0
    weights = lens.row(artifact, req, query, layer, head)

    texts = _texts(trace, event, req, keys)
    position = keys - queries + query
    typer.echo(
        f"step {event.step}, {req}: token {position + 1} {texts[position]!r} looks at "
        f"{position + 1} tokens; {_which('layer', layer, layers)}, {_which('head', head, heads)}"
    )
    order = sorted(range(position + 1), key=lambda key: -weights[key])[:top]
    for key in order:
        bar = "█" * round(weights[key] * 30)
        typer.echo(f"  {weights[key]:7.4f}  token {key + 1:>5}  {texts[key]!r:<16} {bar}".rstrip())
    rest = 1 - sum(weights[key] for key in order)
    if len(order) <= position:
        typer.echo(f"  {max(rest, 0):7.4f}  the other {position + 1 - len(order)}")


def _choose(option: str, index: int | None, size: int) -> int | None:
    """The index of one axis that is meant; None: all. Raises ConfigError."""
    if index is None:
        return None
    if not -size <= index < size:
        raise ConfigError(option, index, f"0 to {size - 1}, or negative from the end")
    return index % size


def _which(axis: str, index: int | None, size: int) -> str:
    return f"mean of {size} {axis}s" if index is None else f"{axis} {index % size}"


def _texts(trace: Trace, event: Event, req: str, keys: int) -> list[str]:
    """The text of each token that the request had when the step ran, its drafts as ids."""
    from minivllm.trace.fold import apply

    state = trace.state_before(event.step)
    for one in trace.steps[event.step]:
        if one is event:
            break
        apply(state, one)
    request = state.requests[req]
    texts = [*request.texts, *(f"<{token_id}>" for token_id in request.drafts)]
    return (texts + ["?"] * keys)[:keys]
