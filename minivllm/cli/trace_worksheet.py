"""``minivllm trace worksheet``: a run as a table to be worked out by hand. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minivllm.cli.trace_show import EngineNumber, LifeNumber, TraceFile
from minivllm.errors import ConfigError

SUFFIXES = (".html", ".md", ".txt")


def worksheet(
    file: TraceFile,
    blank: Annotated[bool, typer.Option("--blank", help="Only the sheet to be filled in.")] = False,
    filled: Annotated[
        bool, typer.Option("--filled", help="Only the solution. Default: both, one after another.")
    ] = False,
    ask: Annotated[
        str,
        typer.Option(
            metavar="COLUMNS",
            help="What the blank sheet leaves open, of runs,waits,budget,taken,free,ends. "
            "Default: all of them.",
        ),
    ] = "",
    first: Annotated[
        int | None, typer.Option("--from", metavar="STEP", help="The first step.")
    ] = None,
    last: Annotated[int | None, typer.Option("--to", metavar="STEP", help="The last step.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help=".html: to print, each sheet on one page of A4; .md or .txt: as text. "
            "Default: text to standard output.",
        ),
    ] = None,
    engine: EngineNumber = None,
    life: LifeNumber = None,
) -> None:
    """Print a run as a worksheet: who arrives, and a row a step to be worked out by hand.

    Which requests run, who waits and why, which blocks are taken, how the free queue stands: blank
    for the students, filled for who marks it. On paper the print shrinks to 6.5 points at least;
    what does not fit on a page then is refused: --from and --to cut a longer run.

    \b
    Example: minivllm trace worksheet tiny-pressure -o sheet.html
             minivllm trace worksheet run.jsonl --blank --ask waits,free --to 12
    """
    from minivllm.trace.file import read_trace
    from minivllm.trace.pick import pick
    from minivllm.trace.worksheet import asked_columns, make_sheet
    from minivllm.trace.worksheet_page import sheet_page
    from minivllm.trace.worksheet_text import sheet_text

    asked = asked_columns(ask)
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError("--out", str(out), f"a name that ends in {' | '.join(SUFFIXES)}")
    sheet = make_sheet(pick(read_trace(file), engine, life).trace, first, last)
    sheets = [True, False] if blank == filled else [blank]
    if out is not None and out.suffix == ".html":
        text = sheet_page(sheet, sheets, asked)
    else:
        text = "\n".join(sheet_text(sheet, each, asked) for each in sheets)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", str(out), f"a file to be written ({error.strerror})") from error
    typer.echo(f"{out}: {', '.join('blank' if each else 'filled' for each in sheets)}")
