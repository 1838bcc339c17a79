"""``minivllm trace life``: the way of one request over all hops. No torch."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from minivllm.cli.trace_show import AsJson, EngineNumber, LifeNumber, TraceFile, request_called


def life(
    file: TraceFile,
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST",
            help="The id that its client has (x-request-id, or the answer's id), or the engine's "
            "name for it: r3.",
        ),
    ],
    engine: EngineNumber = None,
    life: LifeNumber = None,
    as_json: AsJson = False,
) -> None:
    """The way of one request over all hops: http, tokenise, route, ipc, queue, …, sse.

    Each with when it began, its bytes, and how long it took; put together from what the front end
    and the engines told.

    \b
    Example: minivllm trace life run.jsonl r3
    """
    import msgspec

    from minivllm.trace.file import read_trace
    from minivllm.trace.life import Way, lines_of, way_of, way_of_req
    from minivllm.trace.pick import pick

    trace = read_trace(file)
    way = Way("", [], [])
    if re.fullmatch(r"r\d+", request):
        picked = pick(trace, engine, life)
        way = way_of_req(trace, picked.stream, picked.life, request)
    if not way.hops:
        way = way_of(trace, request_called("REQUEST", trace, request))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(way), indent=1).decode())
        return
    for line in lines_of(way):
        typer.echo(line)
