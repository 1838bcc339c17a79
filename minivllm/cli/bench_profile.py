"""``minivllm bench profile``: where the time of a step goes, as a table and a picture."""

from __future__ import annotations

import json
import os
import random
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from minivllm.bench.profile import Profile
    from minivllm.bench.profile_svg import Bar


def profile(
    workload: Annotated[
        str, typer.Option(metavar="NAMES", help="Of W1, TTFT, W2, W3, W4; comma-separated.")
    ] = "W1,W4",
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="As for `generate`.")
    ] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="As for `generate`.")] = "fast",
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Of torch. Default: all usable cores.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random prompts.")] = 1,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The picture, an SVG.")
    ] = Path("profile.svg"),
    numbers: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="All numbers.")
    ] = None,
) -> None:
    """Where does the time of a step go? The workloads of `bench compare`, with timers on.

    The model runs in this process, on its CPU: once to warm up, once as ever, once with timers
    around the stages of each step. Times are exclusive and add up to the whole; the ratio of the
    last two runs says what the timers cost. Steps that run a prompt and pure decodes are told
    apart. The roofline is the least a step takes on this machine.

    \b
    Example: minivllm bench profile --workload W1,W2,W4 -o profile.svg --json profile.json
    """
    from minivllm.bench.compare import WORKLOADS
    from minivllm.cli.bench import check_writable, write
    from minivllm.cli.bench_compare import among, processor_name

    known = {w.name: w for w in WORKLOADS}
    chosen = [known[name] for name in among("--workload", workload, tuple(known))]
    for option, value, lowest in (
        ("--threads", 1 if threads is None else threads, 1),
        ("--seed", seed, 0),
    ):
        if value < lowest:
            raise ConfigError(option, value, f"{lowest} or more")
    check_writable(out)  # now: the run takes a minute
    if numbers is not None:
        check_writable(numbers, "--json")
    try:
        import torch

        from minivllm.bench import profile as bench
        from minivllm.bench import roofline as limits
        from minivllm.bench.profile_svg import Bar, draw
        from minivllm.engine.llm import LLM
        from minivllm.models.loader import open_checkpoint
        from minivllm.models.source import resolve
    except ImportError as error:
        raise MissingExtraError(
            f"bench profile needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    from minivllm.engine.cores import usable_cores

    threads, rng = threads or usable_cores(), random.Random(seed)
    with _threads(torch, threads), LLM(model, dtype=dtype) as llm:
        core: Any = bench.core_of(llm)
        roofline, profiles = limits.measure(threads), []
        for one in chosen:
            typer.echo(f"running: {one.name}, {one.title}", err=True)
            profiles.append(bench.run(llm, one, rng))
        weights = core.executor.worker.model
        facts = core.executor.describe()
        after = limits.measure(threads)  # the better of both: what the machine can do
    roofline.read_bytes_s = max(roofline.read_bytes_s, after.read_bytes_s)
    roofline.flops_s = max(roofline.flops_s, after.flops_s)
    file_bytes = open_checkpoint(resolve(model)).num_bytes
    read, params = bench.weight_bytes(weights, file_bytes), bench.layer_params(weights)
    bars = [
        Bar(p, kind, bench.least(kind, roofline, read, params))
        for p in profiles
        for kind in p.kinds
    ]
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "load": list(os.getloadavg()),
        **{key: facts[key] for key in ("model", "dtype", "kernel_path", "threads")},
        "roofline": {**asdict(roofline), "weight_bytes": read, "layer_params": params},
        "workloads": [_record(p, [bar for bar in bars if bar.profile is p]) for p in profiles],
    }
    _print(bars)
    cost = "; ".join(_cost(p) for p in profiles)
    typer.echo(f"\nThe timers: {cost}.")
    typer.echo(
        f"Roofline: memory {roofline.read_bytes_s / 1e9:.0f} GB/s for {read / 1e6:,.0f} MB of "
        f"weights, bfloat16 products {roofline.flops_s / 1e9:,.0f} GFLOP/s."
    )
    if numbers is not None:
        write(numbers, json.dumps(record, indent=1) + "\n", "--json")
    title = f"Where a step's time goes: {record['model']}, {record['dtype']}"
    thread_words = "1 thread" if threads == 1 else f"{threads} threads"
    shares = ", ".join(f"{p.timers_share:.1%}" for p in profiles)
    ratios = ", ".join(f"{p.ratio:.2f}" for p in profiles)
    lines = [
        f"Kernels: {record['kernel_path']} · {thread_words} of {record['machine']} · "
        f"{str(record['date'])[:10]}",
        f"Timers, by their number, are {shares} of it; one run with them took {ratios} times one "
        "without",
    ]
    write(out, draw(title, lines, bars))
    typer.echo(f"picture: {out}")


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cost(p: Profile) -> str:
    return (
        f"{p.workload} {p.num_calls:,} calls of {p.ns_per_call / 1e3:.1f} µs, {p.timers_share:.1%} "
        f"of the run ({p.ratio:.2f} times one without them, which may be noise)"
    )


def _print(bars: Sequence[Bar]) -> None:
    from rich.console import Console

    from minivllm.bench.profile import STAGES, words
    from minivllm.bench.profile_svg import number, per_step
    from minivllm.cli.bench import make_table

    headings = [cell for bar in bars for cell in (f"{bar.profile.workload}\n{bar.kind.name}", "")]
    table = make_table("exclusive, ms a step", *headings)
    for stage in STAGES:
        if any(bar.kind.ns.get(stage) for bar in bars):
            cells = []
            for bar in bars:
                cells += [number(bar.kind.ms(stage)), f"{bar.kind.share(stage):.1%}"]
            table.add_row(words(stage, [bar.profile for bar in bars]), *cells)
    table.add_section()
    below = {
        "a step": [(f"[bold]{number(bar.kind.total_ms)}[/]", "") for bar in bars],
        "roofline": [
            (number(bar.least.ms), f"{bar.least.ms / bar.kind.total_ms:.1%}") for bar in bars
        ],
        "steps": [(f"{bar.kind.num_steps:,}", "") for bar in bars],
        "tokens a step": [(per_step(bar.kind), "") for bar in bars],
    }
    for name, pairs in below.items():
        table.add_row(name, *(cell for pair in pairs for cell in pair))
    console = Console(highlight=False)
    console.width = max(console.width, 42 + 20 * len(bars))  # rather wrapped than cut off
    console.print(table)


def _record(p: Profile, bars: Sequence[Bar]) -> dict[str, Any]:
    from minivllm.bench.profile import STAGES

    return {
        "name": p.workload,
        "title": p.title,
        "seconds_without_timers": round(p.seconds_plain, 4),
        "seconds_with_timers": round(p.seconds_timed, 4),
        "timer_calls": p.num_calls,
        "ns_per_timer_call": round(p.ns_per_call),
        "kinds": [
            {
                "kind": bar.kind.name,
                "steps": bar.kind.num_steps,
                "tokens": bar.kind.num_tokens,
                "ms_per_step": round(bar.kind.total_ms, 4),
                "stages_ms": {stage: round(bar.kind.ms(stage), 4) for stage in STAGES},
                "roofline_ms": round(bar.least.ms, 4),
                "roofline_by": bar.least.why,
            }
            for bar in bars
        ],
    }
