"""``minivllm bench compare``: beside transformers, vLLM and llama.cpp, on this machine."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm import __version__
from minivllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from minivllm.bench.compare import Engine, Results, Workload
    from minivllm.bench.roofline import Roofline


def compare(
    peers: Annotated[
        str, typer.Option(metavar="NAMES", help="Of hf, hfcb, vllm, llamacpp; comma-separated.")
    ] = "hf",
    workloads: Annotated[
        str, typer.Option(metavar="NAMES", help="Of W1, TTFT, W2, W3, W4; comma-separated.")
    ] = "W1,TTFT,W2,W3,W4",
    trials: Annotated[int, typer.Option(metavar="N", help="After one that warms up.")] = 3,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Of each engine. Default: all usable cores.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random prompts.")] = 1,
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="An alias or a .gguf file of a Llama.")
    ] = "smollm2-135m",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="All numbers, as JSON.")
    ] = None,
    install_peers: Annotated[
        bool,
        typer.Option(
            "--install-peers",
            help="Install what is missing, each into an environment of its own in the cache "
            "directory (vllm: 1.5 GB).",
        ),
    ] = False,
) -> None:
    """How fast is it beside its peers? The same model and work, engines taking turns.

    W1: one stream, 64 prompt tokens, 128 outputs. TTFT: the same, one output. W2: sixteen at once,
    32 to 512 prompt and 32 to 128 output tokens. W3: sixteen that share 512 prompt tokens. W4: one
    prompt of 1,024. All in bfloat16, llama.cpp with the file's own 4-bit weights. Every engine is
    in memory at once; ratios are the medians over the trials of one run. A Python that has a peer
    already is named in MINIVLLM_PEER_VLLM (or _HF, _LLAMACPP).

    \b
    Example: minivllm bench compare --peers hf,vllm,llamacpp --install-peers -o compare.json
    """
    from minivllm.bench import compare as bench
    from minivllm.cli.bench import check_writable, write

    names = among("--peers", peers, tuple(bench.REQUIREMENTS))
    known = {w.name: w for w in bench.WORKLOADS}
    chosen = [known[name] for name in among("--workloads", workloads, tuple(known))]
    for option, value in (("--trials", trials), ("--threads", 1 if threads is None else threads)):
        if value < 1:
            raise ConfigError(option, value, "1 or more")
    if out is not None:
        check_writable(out)  # now: the run takes up to an hour
    try:
        from minivllm.bench.export import as_directory
        from minivllm.bench.roofline import measure as measure_roofline
        from minivllm.models.source import resolve
    except ImportError as error:
        raise MissingExtraError(
            f"bench compare needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    from minivllm.engine.cores import usable_cores

    if install_peers:
        for name in names:
            bench.install(name)
    source = resolve(model)
    directory = as_directory(source)
    threads = threads or usable_cores()
    models = dict.fromkeys(("hf", "hfcb", "vllm"), directory)
    models |= dict.fromkeys(("minivllm", "llamacpp"), source.path)
    logs = Path(tempfile.mkdtemp(prefix="minivllm-compare-"))
    roofline = measure_roofline(threads)
    with bench.engines(["minivllm", *names], models, threads, logs) as running:
        results = bench.measure(
            running, chosen, trials, seed, lambda line: typer.echo(line, err=True)
        )
        after = measure_roofline(threads)
        roofline.read_bytes_s = max(roofline.read_bytes_s, after.read_bytes_s)
        roofline.flops_s = max(roofline.flops_s, after.flops_s)
        _print(chosen, running, results)
        asked = {"threads": threads, "trials": trials, "seed": seed}
        record = _record(source, asked, running, results, roofline)
    _print_roofline(record)
    if out is not None:
        write(out, json.dumps(record, indent=1) + "\n")


def among(option: str, given: str, allowed: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names or not set(names) <= set(allowed):
        raise ConfigError(option, given, f"names of {', '.join(allowed)}, comma-separated")
    return list(dict.fromkeys(names))


def _print(workloads: list[Workload], running: list[Engine], results: Results) -> None:
    from rich.console import Console

    from minivllm.cli.bench import make_table

    peers = [engine.name for engine in running if engine.name != "minivllm"]
    headings = ["", "minivllm", *(cell for peer in peers for cell in (peer, "ratio"))]
    table = make_table("workload", *headings)
    for workload in workloads:
        speeds = results.speeds[workload.name]
        row = [workload.title, f"{median(speeds['minivllm']):,.0f}"]
        for peer in peers:
            ratio, goal = results.ratio(workload.name, peer), workload.goals.get(peer)
            met = "" if goal is None else f" (goal {goal:g})"
            row += [f"{median(speeds[peer]):,.0f}", f"[bold]{ratio:.2f}[/]{met}"]
        table.add_row(f"{workload.name} {workload.unit}", *row)
    started = [f"{engine.startup_s:.1f} s" for engine in running]
    cells = [started[0]]
    for text in started[1:]:
        cells += [text, ""]
    table.add_row("start-up", "imports, weights, first tokens", *cells)
    peaks = [engine.peak_bytes() for engine in running]
    cells = [_mb(peaks[0])]
    for peak in peaks[1:]:
        cells += [_mb(peak), ""]
    table.add_row("peak memory", "of the process", *cells)
    Console(highlight=False, soft_wrap=True).print(table)


def _mb(peak: int | None) -> str:
    return "–" if peak is None else f"{peak / 1e6:,.0f} MB"


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As Linux names it; elsewhere as far as Python knows."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _record(
    source: Any,
    asked: dict[str, int],
    running: list[Engine],
    results: Results,
    roofline: Roofline,
) -> dict[str, Any]:
    """All that was measured, and what it takes to do it again."""
    from minivllm.models.loader import open_checkpoint

    checkpoint = open_checkpoint(source)
    file_bytes, num_params = checkpoint.num_bytes, checkpoint.spec.num_params
    best: dict[str, float] = {
        "W1": roofline.decode_tokens_s(file_bytes),
        "W4": roofline.prompt_tokens_s(num_params),
    }
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "minivllm": __version__,
        "load": list(os.getloadavg()),
        "model": source.name,
        **asked,
        "engines": {engine.name: engine.facts for engine in running},
        "startup_s": {engine.name: round(engine.startup_s, 2) for engine in running},
        "peak_bytes": {engine.name: engine.peak_bytes() for engine in running},
        "seconds": results.seconds,
        "speeds": {
            name: {engine: round(median(each), 2) for engine, each in by_engine.items()}
            for name, by_engine in results.speeds.items()
        },
        "ratios": {
            name: {
                peer: round(results.ratio(name, peer), 3)
                for peer in by_engine
                if peer != "minivllm"
            }
            for name, by_engine in results.speeds.items()
        },
        "roofline": {
            "read_bytes_s": round(roofline.read_bytes_s),
            "bf16_flops_s": round(roofline.flops_s),
            "tokens_s": {name: round(value, 1) for name, value in best.items()},
        },
    }


def _print_roofline(record: dict[str, Any]) -> None:
    limits, speeds = record["roofline"], record["speeds"]
    shares = [
        f"{name} {speeds[name]['minivllm'] / most:.0%} of {most:,.0f} tok/s"
        for name, most in limits["tokens_s"].items()
        if name in speeds
    ]
    typer.echo(
        f"roofline: memory {limits['read_bytes_s'] / 1e9:.0f} GB/s, bfloat16 products "
        f"{limits['bf16_flops_s'] / 1e9:.0f} GFLOP/s: {', '.join(shares)} "
        "(W1: the file's bytes once a token)"
    )
