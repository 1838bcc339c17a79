"""``minivllm bench``: measure what is claimed: KV waste, scheduler, trace, GPU kernels, a step.

``bench serve`` has a file of its own: it measures any server, from outside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.cli.bench_compare import compare
from minivllm.cli.bench_gpu import gpu
from minivllm.cli.bench_kernels import kernels
from minivllm.cli.bench_profile import profile
from minivllm.cli.bench_serve import serve
from minivllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from minivllm.bench.tracing import Cost

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure what is claimed: KV memory's waste, the cost of scheduling and of the trace, "
    "what the GPU's kernels need, where a step's time goes. And measure a server, from outside.",
)
app.command("compare")(compare)
app.command("kernels")(kernels)
app.command("gpu")(gpu)
app.command("profile")(profile)
app.command("serve")(serve)


@app.command("kv-waste")
def kv_waste(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The picture, an SVG.")
    ] = Path("kv-waste.svg"),
    requests: Annotated[int, typer.Option(metavar="N", help="Requests, 96 to 2000.")] = 128,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the drawn lengths.")] = 1,
) -> None:
    """What share of the KV memory holds tokens: contiguous or paged?

    The same requests, all waiting from the start, under four ways of handing out one pool of KV
    memory; the real scheduler and pool, no model. It reproduces the kind of figure 2 of the
    PagedAttention paper. Takes some ten seconds.

    \b
    Example: minivllm bench kv-waste -o kv-waste.svg
    """
    from statistics import fmean

    from rich.console import Console

    from minivllm.bench import kv_waste as bench
    from minivllm.bench.kv_waste_svg import draw

    if not 96 <= requests <= 2000:
        raise ConfigError("--requests", requests, "96 to 2000; fewer do not fill the pool")
    _at_least("--seed", seed, 0)  # random.Random takes −1 for 1
    lengths = bench.lengths(requests, seed)
    console = Console(highlight=False)
    results = bench.run_all(lengths, lambda name: typer.echo(f"running: {name}", err=True))
    if not all(row.counted for row in results):
        raise ConfigError("--requests", requests, "more: with these lengths nobody had to wait")
    headings = "tokens", "reserved", "never\nused", "scattered", "too\nfew", "at\nonce", "steps"
    table = make_table("% of KV memory", *headings)
    for row in results:
        shares = (row.token_states, row.reserved, row.never_used, row.scattered, row.too_few)
        table.add_row(
            row.system,
            f"[bold]{100 * shares[0]:.1f}[/]",
            *(f"{100 * share:.1f}" for share in shares[1:]),
            f"{row.running:.1f}",
            f"{row.steps:,}",
        )
    prompt, output = (fmean(getattr(n, field) for n in lengths) for field in ("prompt", "output"))
    console.print(table)
    console.print(
        f"\nMeasured here: {requests} requests, on average {prompt:.0f} prompt and {output:.0f} "
        f"output tokens, pool of {bench.NUM_BLOCKS} blocks of {bench.BLOCK_SIZE}; the mean over "
        "the steps in which somebody waits for memory.\n"
        "reserved: will be filled later · never used: internal fragmentation · scattered: free, "
        "but in gaps too short (external fragmentation) · too few: free, but fewer than who waits "
        "needs · at once: requests that run. Paged, which reserves nothing, preempted "
        f"{results[-1].preemptions} times.\n"
        f"The paper's ({bench.PAPER}): {bench.PAPER_BEFORE[0]} to {bench.PAPER_BEFORE[1]} % token "
        f"states in the systems before, {bench.PAPER_PAGED} % with paging; there with models, "
        "GPUs and arrivals by the clock.",
        style="dim",
        soft_wrap=True,
    )
    write(out, draw(results))
    typer.echo(f"picture: {out}")


@app.command("scheduler")
def scheduler(
    rounds: Annotated[int, typer.Option(metavar="N", help="Of 32 steps for each point.")] = 5,
) -> None:
    """What does it cost to schedule one step? By requests that run, by blocks in the pool.

    The real scheduler over the paged pool, no model, tracing off. It should grow with the batch,
    and not with the pool; 256 requests over 10,000 blocks should take 2 ms at most.
    """
    from rich.console import Console

    from minivllm.bench import scheduling as bench

    _at_least("--rounds", rounds, 1)
    points = bench.run([*bench.BATCHES, *bench.POOLS], rounds)
    by_batch, by_pool = points[: len(bench.BATCHES)], points[len(bench.BATCHES) :]
    console = Console(highlight=False)
    for title, part, base in (
        ("by requests that run", by_batch, by_batch[0]),
        ("by blocks in the pool", by_pool, by_pool[0]),
    ):
        table = make_table(title, "requests", "blocks", "schedule", "update", "µs/request", "ratio")
        for point in part:
            table.add_row(
                "",
                f"{point.batch}",
                f"{point.pool:,}",
                f"{point.schedule_ms:.2f} ms",
                f"{point.update_ms:.2f} ms",
                f"{1e3 * point.schedule_ms / point.batch:.1f}",
                f"{point.schedule_ms / base.schedule_ms:.2f}",
            )
        console.print(table)
    goal = next(p for p in by_batch if (p.batch, p.pool) == bench.GOAL_POINT)
    console.print(
        f"\n256 requests, 10,000 blocks: {goal.schedule_ms:.2f} ms "
        f"(goal: at most {bench.GOAL_MS:g} ms). Medians of {len(goal.schedule_ns)} steps, all "
        "points in turns; CPU time of the thread.",
        style="dim",
        soft_wrap=True,
    )


@app.command("trace")
def trace(
    with_model: Annotated[
        bool, typer.Option("--with-model", help="Also as a share of the model's steps.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="As for `generate`.")
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Decode steps of each variant (model: N/8).")
    ] = 400,
) -> None:
    """What does the trace cost: off, and while it writes every decision to a file?

    Three engines take turns: one whose source has no trace (the calls are removed from it), one
    with tracing off, one at level `structure`. 16 requests decode.

    \b
    Example: minivllm bench trace --with-model
    """
    from rich.console import Console

    from minivllm.bench import tracing as bench

    _at_least("--steps", steps, 80)
    if model and not with_model:
        raise ConfigError("--model", model, "together with --with-model")
    console = Console(highlight=False)
    given = bench.run(steps)
    table = make_table("given tokens, CPU time", "step", "over removed", "half between", "ratio")
    for name in bench.VARIANTS:
        low, high = given.quartiles_ns(name)
        table.add_row(
            name,
            f"{given.median_ns(name) / 1e3:.0f} µs",
            f"{given.extra_ns(name) / 1e3:+.1f} µs",
            f"{low / 1e3:+.1f} to {high / 1e3:+.1f}",
            f"{given.median_ns(name) / given.median_ns('removed'):.3f}",
        )
    console.print(table)
    if with_model:
        _with_model(console, given, steps // 8, model)
    console.print(
        "\nMedians; 16 requests decode one token each, the first steps are left out. given tokens: "
        "no model, so that the trace is all there is to see.",
        style="dim",
        soft_wrap=True,
    )


def _with_model(console: Console, given: Cost, steps: int, model: str | None) -> None:
    import time

    from minivllm.bench import tracing as bench

    try:
        from minivllm.executor.uniproc import UniprocExecutor
    except ImportError as error:
        raise MissingExtraError(
            f"--with-model needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    live = bench.run(steps, UniprocExecutor, clock=time.perf_counter_ns, model=model)
    table = make_table(
        "with the model, by the clock", "step", "over removed", "half between", "ratio"
    )
    for name in bench.VARIANTS:
        low, high = live.quartiles_ns(name)
        table.add_row(
            name,
            f"{live.median_ns(name) / 1e6:.1f} ms",
            f"{live.extra_ns(name) / 1e6:+.2f} ms",
            f"{low / 1e6:+.2f} to {high / 1e6:+.2f}",
            f"{live.median_ns(name) / live.median_ns('removed'):.3f}",
        )
    console.print(table)
    step_ns = live.median_ns("removed")
    for name in ("off", "structure"):
        verdict = "within" if live.within_noise(name) else "beyond"
        extra_ns = given.extra_ns(name)
        console.print(
            f"{name}: {verdict} the noise of removed, with the model; the CPU time it takes with "
            f"given tokens, {extra_ns / 1e3:.0f} µs, is {extra_ns / step_ns:.2%} of such a step"
        )
    goal = f"structure at most {bench.GOAL_SHARE:.0%} of a step"
    console.print(f"goals: off within the noise, {goal}")


def make_table(title: str, *headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(title, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(name, value, f"{least} or more")


def write(path: Path, text: str, option: str = "--out") -> None:
    """Raises ConfigError for ``option``, by which the path was given."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _not_writable(path, option, error) from error


def check_writable(path: Path, option: str = "--out") -> None:
    """Before a long run: raises as :func:`write` would, and leaves what is there as it is."""
    fresh = not os.path.lexists(path)
    try:
        with path.open("a"):
            pass
        if fresh:
            path.unlink()
    except OSError as error:
        raise _not_writable(path, option, error) from error


def _not_writable(path: Path, option: str, error: OSError) -> ConfigError:
    return ConfigError(option, str(path), f"a file that can be written: {error.strerror}")
