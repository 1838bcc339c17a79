"""``minivllm gallery``: the recordings that come along: what there is, made anew, checked."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from minivllm.errors import ArtifactError, ConfigError, TraceError
from minivllm.trace import gallery as index
from minivllm.trace.artifacts import folder_of
from minivllm.trace.gallery import Entry
from minivllm.trace.words import count, join

app = typer.Typer(rich_markup_mode=None)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Which. Default: all.")
]


@app.callback(invoke_without_command=True)
def which(context: typer.Context) -> None:
    """The recordings that come along: list them (so does no command at all), make them anew, check
    them."""
    if context.invoked_subcommand is None:
        show()


@app.command("list")
def show() -> None:
    """What there is to see, and how each recording is made.

    \b
    Look at one: minivllm view NAME   (also: replay, step, trace stats …)
    """
    group = ""
    for entry in index.entries().values():
        if entry.group != group:
            group = entry.group
            typer.echo(f"\n{group}" if entry.name != next(iter(index.entries())) else group)
        beside = f"  (beside it: {entry.beside})" if entry.beside else ""
        typer.echo(f"  {entry.name:<20} {entry.title}{beside}")
        typer.echo(f"  {'':<20} {entry.see}")
        typer.echo(f"  {'':<20} $ {entry.command}")


@app.command("make")
def make(
    names: Names = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Where to put them. Default: the gallery itself."),
    ] = None,
) -> None:
    """Record again, by the command that the index names. Most need the model.

    \b
    Example: minivllm gallery make thrash roomy
    """
    folder = index.DIRECTORY if into is None else into
    if not folder.is_dir():
        raise ConfigError("--into", str(folder), "a directory that is there")
    for entry in chosen(names):
        target = folder / entry.path.name
        with tempfile.TemporaryDirectory() as scratch:
            made = record(entry, Path(scratch))
            _put(made.read_bytes(), target)
            arrays = _put_arrays(folder_of(made), folder_of(target))
        size = target.stat().st_size + sum(file.stat().st_size for file in arrays)
        beside = f", with the arrays of {count(len(arrays), 'step')}" if arrays else ""
        typer.echo(f"{target}: {size / 1000:.0f} kB{beside}")


@app.command("check")
def check(
    names: Names = None,
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model",
            help="Make those anew, too, for which a model ran; else its recorded tokens are used.",
        ),
    ] = False,
) -> None:
    """Is what was recorded still what the engine does? Status 1: no.

    A recording without a model is made again. Of one with a model, the scheduler and the pool are
    run again with the recorded tokens (as by `replay --verify`). Compared are decisions: kinds,
    steps, requests, blocks, reasons, and never times. Told, and no failure: recordings whose
    source has changed since (stale); `minivllm gallery make NAME` records them anew.
    """
    wrong = 0
    for entry in chosen(names):
        problem, old = held(entry, with_model)
        wrong += bool(problem)
        verdict = problem or ("ok" if not old else f"ok, but stale: {join(old, most=3)}")
        typer.echo(f"{entry.name:<20} {verdict}")
    if wrong:
        raise typer.Exit(1)


def chosen(names: list[str] | None) -> list[Entry]:
    known = index.entries()
    for name in names or ():
        if name not in known:
            raise ConfigError("NAME", name, f"a recording of the gallery: {join(list(known), 20)}")
    return [known[name] for name in names or known]


def held(entry: Entry, with_model: bool) -> tuple[str, list[str]]:
    """What is wrong with a recording ("" if nothing is), and which functions have changed since."""
    from minivllm.trace.file import read_trace

    if not entry.path.is_file():
        return "is not there: minivllm gallery make " + entry.name, []
    recording = read_trace(entry.path)
    try:
        arrays = index.arrays_of(entry.path, recording.events)
    except ArtifactError as error:
        return str(error), []
    old = index.stale(recording.events, Path(index.__file__).parents[2])
    if entry.needs_model and not with_model:
        return _replayed(entry), old
    with tempfile.TemporaryDirectory() as scratch:
        made = record(entry, Path(scratch))
        again = read_trace(made)
        arrays_now = index.arrays_of(made, again.events)
    exact = not entry.needs_model
    if list(again.lives()) != list(recording.lives()):
        return f"has other engines: {', '.join(again.lives())}", old
    for name, life in recording.lives().items():
        was, now = (index.structure(trace.events, exact) for trace in (life, again.lives()[name]))
        if was != now:
            at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), -1)
            return f"{name}: recorded {_line(was, at)}, now {_line(now, at)}", old
    if arrays != arrays_now:
        return "the arrays of its steps have other names or shapes now", old
    fronts = [index.front_structure(trace.events) for trace in (recording, again)]
    if fronts[0] != fronts[1]:
        return f"the front end told {'; '.join(fronts[0])}, now {'; '.join(fronts[1])}", old
    return "", old


def _line(lines: list[bytes], at: int) -> str:
    """One that differs; of a run that goes on longer, how long the lists are."""
    return lines[at].decode()[:200] if at >= 0 else count(len(lines), "event")


def _replayed(entry: Entry) -> str:
    from minivllm.replay.recording import read_recording
    from minivllm.replay.verify import verify
    from minivllm.trace.file import read_trace

    for name, life in read_trace(entry.path).lives().items():
        difference = verify(read_recording(life, life.engines[0])).difference
        if difference is not None:
            return f"{name}, step {difference.step}: {'; '.join(difference.lines())}"
    return ""


def record(entry: Entry, folder: Path) -> Path:
    """The trace that the entry's command makes now, in this folder."""
    out = folder / f"{entry.name}{index.SUFFIX}"
    with contextlib.redirect_stdout(io.StringIO()):
        if entry.wave:
            _serve(entry, out)
        else:
            from minivllm.cli.main import app as commands

            commands([*shlex.split(entry.make), "--out", str(out)], standalone_mode=False)
    return out


def _serve(entry: Entry, out: Path) -> None:
    from minivllm.cli.options import parse_flags
    from minivllm.config import make_config
    from minivllm.serving.recorded import record_served

    flags = parse_flags(entry.serve, "serve")
    record_served(make_config(engine_processes=True, live=True, **flags, path=str(out)), entry.wave)


def _put_arrays(made: Path, target: Path) -> list[Path]:
    """The arrays of its captured steps, beside it; those of an earlier recording go."""
    files = sorted(made.iterdir()) if made.is_dir() else []
    for old in target.iterdir() if target.is_dir() else ():
        if old.name not in {file.name for file in files}:
            old.unlink()
    if files:
        target.mkdir(exist_ok=True)
    for file in files:
        _put(file.read_bytes(), target / file.name)
    return [target / file.name for file in files]


def _put(raw: bytes, target: Path) -> None:
    """Whole or not at all. Packed without a time, so that the same run gives the same file."""
    data = gzip.compress(raw, 9, mtime=0) if target.suffix == ".gz" else raw
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, target)
    except OSError as error:
        raise TraceError(f"cannot write {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
