"""``minivllm trace export``: a trace in the forms that other programs read. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minivllm.cli.trace_show import TraceFile
from minivllm.errors import ConfigError, TraceError


def export(
    file: TraceFile,
    perfetto: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write Chrome trace JSON: steps, requests, counters over time."
        ),
    ] = None,
    kv_events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write vLLM's KV cache events, a JSON line for each batch."
        ),
    ] = None,
) -> None:
    """Write a trace for other programs: Perfetto, or what reads vLLM's KV events.

    Open the first at https://ui.perfetto.dev (it stays in your browser).

    \b
    Example: minivllm trace export run.jsonl --perfetto run.perfetto.json
    """
    from minivllm.trace import kv_events as kv
    from minivllm.trace import perfetto as chrome
    from minivllm.trace.file import read_trace

    if perfetto is None and kv_events is None:
        raise ConfigError("export", "no form", "--perfetto FILE or --kv-events FILE, or both")
    for option, out in (("--perfetto", perfetto), ("--kv-events", kv_events)):
        if out is not None and out.exists() and out.samefile(file):
            raise ConfigError(option, str(out), "another file than the trace that is exported")
    if perfetto is not None and kv_events is not None and perfetto.resolve() == kv_events.resolve():
        raise ConfigError("--kv-events", str(kv_events), "another file than that of --perfetto")
    trace = read_trace(file)
    events = None if kv_events is None else kv.encode(trace)  # refused before a file is written
    if perfetto is not None:
        _write(perfetto, chrome.encode(trace), "open it at https://ui.perfetto.dev")
    if kv_events is not None and events is not None:
        batches = events.count(b"\n")
        _write(kv_events, events, f"{batches} batch{'' if batches == 1 else 'es'}")


def _write(path: Path, data: bytes, about: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"{path}: {about}")
