"""``minivllm trace export``: a trace in the forms that other programs read. No torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from minivllm.errors import ConfigError, TraceError
from minivllm.trace.gallery import find_recording

MAX_RUNS = 16
"""In one file: they are all unpacked when it opens."""


def export(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=find_recording,
            metavar="FILE...",
            help="Traces: .jsonl, or packed as .jsonl.gz, or gallery names. Several: --html only.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the dashboard with the runs in it: one file that opens from disk, without "
            "a server or a network. Two runs open side by side.",
        ),
    ] = None,
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
    first: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=1,
            help="For --html: the first step that goes in; the state before it, too.",
        ),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=1, help="For --html: the last step that goes in.")
    ] = None,
) -> None:
    """Write a trace for other programs: a web page of its own, Perfetto, or what reads vLLM's KV
    events.

    The page does all that the dashboard does with recorded runs. Open the second form at
    https://ui.perfetto.dev (it stays in your browser).

    \b
    Example: minivllm trace export run.jsonl --html run.html
             minivllm trace export a.jsonl b.jsonl --html compare.html
             minivllm trace export run.jsonl --perfetto run.perfetto.json
    """
    outs = {"--html": html, "--perfetto": perfetto, "--kv-events": kv_events}
    wanted = {option: out for option, out in outs.items() if out is not None}
    if not wanted:
        raise ConfigError("export", "no form", "--html FILE, --perfetto FILE or --kv-events FILE")
    for option, out in wanted.items():
        if out.is_dir():
            raise ConfigError(option, str(out), "a file: this is a directory")
        if out.exists() and any(file.exists() and out.samefile(file) for file in files):
            raise ConfigError(option, str(out), "another file than the trace that is exported")
        twins = [name for name, other in wanted.items() if other.resolve() == out.resolve()]
        if twins[0] != option:
            raise ConfigError(option, str(out), f"another file than that of {twins[0]}")
    if (first, last) != (None, None) and html is None:
        raise ConfigError("--from, --to", f"{first}, {last}", "with --html only")
    if html is None and len(files) > 1:
        raise ConfigError("FILE", f"{len(files)} traces", "one for --perfetto and --kv-events")
    if perfetto is not None or kv_events is not None:
        _for_programs(files[0], perfetto, kv_events)
    if html is not None:
        _page(files, html, first, last)


def _for_programs(file: Path, perfetto: Path | None, kv_events: Path | None) -> None:
    from minivllm.trace import kv_events as kv
    from minivllm.trace import perfetto as chrome
    from minivllm.trace.file import read_trace

    trace = read_trace(file)
    events = None if kv_events is None else kv.encode(trace)  # refused before a file is written
    if perfetto is not None:
        _write(perfetto, [chrome.encode(trace)])
        typer.echo(f"{perfetto}: open it at https://ui.perfetto.dev")
    if kv_events is not None and events is not None:
        batches = events.count(b"\n")
        _write(kv_events, [events])
        typer.echo(f"{kv_events}: {batches} batch{'' if batches == 1 else 'es'}")


def _page(files: list[Path], out: Path, first: int | None, last: int | None) -> None:
    from viz.export import NO_END, Export
    from viz.runs import Catalogue

    if len(files) > MAX_RUNS:
        raise ConfigError("FILE", f"{len(files)} traces", f"at most {MAX_RUNS} in one file")
    steps = None if (first, last) == (None, None) else (first or 1, last or NO_END)
    if steps is not None and steps[0] > steps[1]:
        raise ConfigError("--from", first, f"a step up to that of --to, {last}")
    catalogue = Catalogue()
    for file in files:
        catalogue.add_file(file)
    made = Export(catalogue.all(), steps)
    size = _write(out, made.parts())
    for words in made.left_out:
        typer.echo(words, err=True)
    typer.echo(f"{out}: {size / 1e6:.1f} MB, opens from disk in any browser of 2023 or later")


def _write(path: Path, parts: Iterable[bytes]) -> int:
    """All of it or nothing: a name never stands for half a file. Returns its size."""
    if path.exists() and not path.is_file():  # a pipe, or /dev/stdout
        return _pour(path, parts)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            size = sum(file.write(part) for part in parts)
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)  # it is there only if something went wrong
    return size


def _pour(path: Path, parts: Iterable[bytes]) -> int:
    try:
        with path.open("wb") as file:
            return sum(file.write(part) for part in parts)
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
