"""``minivllm bench kernels``: what the GPU's kernels need, worked out without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from minivllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

    from minivllm.bench.kernels import Row

T = TypeVar("T", int, str)


def kernels(
    aot: Annotated[
        bool, typer.Option("--aot", help="Compile ahead of time, for GPUs that are not here.")
    ] = False,
    head_dim: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="64, 80, 96, 128 or 256; more than once. Default: 128."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE", help="float32, float16 or bfloat16; more than once. Default: bfloat16."
        ),
    ] = None,
    target: Annotated[
        list[int] | None,
        typer.Option(metavar="SM", help="80, 90 or 100; more than once. Default: all three."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every head size and type: some ten minutes at first.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The rows as JSON, for a script.")
    ] = False,
) -> None:
    """What do the Triton kernels need on a GPU, and how fast could they be there?

    Compiles each kernel for sm_80 (A100), sm_90 (H100) and sm_100 (B200), as the engine would
    launch it for an 8B Llama; no GPU is used. Prints registers, shared memory, spills, the bytes
    that must move, the FLOPs, and the least time that the GPU's peaks allow. Compiled kernels stay
    in ~/.triton/cache. Exit code 1 if one spills or does not fit.

    \b
    Example: minivllm bench kernels --aot --head-dim 64 --dtype float32
    """
    if not aot:
        raise ConfigError("--aot", False, "--aot; to run the kernels takes a GPU")
    try:
        from minivllm.bench import kernels as bench
    except ImportError as error:
        raise MissingExtraError(
            f"bench kernels needs torch and Triton ({error.name} is not installed): "
            "pip install 'minivllm[engine]', on Linux"
        ) from error
    from rich.console import Console

    dims, dtypes = bench.HEAD_DIMS, tuple(bench.DTYPES)
    if not everything:
        dims = _among("--head-dim", head_dim or [128], dims)
        dtypes = _among("--dtype", dtype or ["bfloat16"], dtypes)
    archs = _among("--target", target or list(bench.TARGETS), tuple(bench.TARGETS))
    progress, console = Console(stderr=True, highlight=False), Console(highlight=False)
    if console.width < TABLE_WIDTH:  # a narrow screen wraps the lines: no number is cut off
        console = Console(highlight=False, width=TABLE_WIDTH)
    rows: list[Row] = []
    for one_dim in dims:
        for one_dtype in dtypes:
            with progress.status(f"compiling: heads of {one_dim}, {one_dtype}"):
                table = bench.compile_all(one_dim, one_dtype, archs)
            rows += table
            if not as_json:
                _print(console, f"heads of {one_dim}, {one_dtype}", table)
    if as_json:
        typer.echo(json.dumps([bench.as_json(row) for row in rows], indent=1))
    else:
        console.print(f"\n{NOTE} {bench.SOURCES}.", style="dim", soft_wrap=True)
    problems = [f"{row.kernel} ({row.workload}, sm_{row.arch}): {text}"
                for row in rows if (text := bench.problem(row))]  # fmt: skip
    for text in problems:
        typer.echo(f"problem: {text}", err=True)
    if problems:
        raise typer.Exit(1)


TABLE_WIDTH = 134
"""Columns of the table with its longest names."""

NOTE = (
    "tile: rows × keys · regs: registers of a thread, 255 at most · shared memory of a program, of "
    "what the GPU gives one · spilled: bytes of a thread that found no register · MB: inputs read "
    "once, outputs written once · at best: MB or MFLOP over the GPU's peak, whichever takes "
    "longer; computed, not measured. Peaks:"
)


def _print(console: Console, title: str, rows: list[Row]) -> None:
    from minivllm.cli.bench import make_table

    console.print(f"\n[bold]{title}[/]")
    headings = ("target", "tile", "warps", "regs", "shared KiB", "spilled", "MB", "MFLOP", "FLOP/B")
    table = make_table("kernel", *headings, "at best")
    for _, group in groupby(rows, key=lambda row: (row.kernel, row.workload)):
        for i, row in enumerate(group):
            table.add_row(
                (row.kernel, f"  {row.workload}", "")[i],
                f"sm_{row.arch} {row.gpu:4}",
                row.tile,
                f"{row.num_warps}",
                f"{row.registers}",
                f"{row.shared_bytes / 1024:.0f} of {row.shared_limit_bytes // 1024}",
                f"[red]{row.spilled_bytes}[/]" if row.spilled_bytes else "0",
                f"{row.bytes_moved / 1e6:.1f}",
                f"{row.flops / 1e6:,.0f}",
                f"{row.flops_per_byte:.1f}",
                f"{row.roofline_us:,.1f} µs {row.bound_by:7}" if row.roofline_us else "–" + " " * 8,
            )
    console.print(table)


def _among(name: str, given: Sequence[T], allowed: tuple[T, ...]) -> tuple[T, ...]:
    for value in given:
        if value not in allowed:
            raise ConfigError(name, value, " | ".join(map(str, allowed)))
    return tuple(given)
