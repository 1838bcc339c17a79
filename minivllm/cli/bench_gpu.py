"""``minivllm bench gpu``: everything that only a machine with a GPU can show, in one command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minivllm.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

    from minivllm.bench.gpu.check import Check


def gpu(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="As for serve: alias, path or hub id.")
    ] = "smollm2-135m",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The report; a .json lies beside it."),
    ] = Path("gpu-report.md"),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="One check, by a part of its name; more than once."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of each greedy answer, 2 to 512.")
    ] = 64,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Without a GPU: run what can run on the CPU, as a trial."),
    ] = False,
) -> None:
    """Does the GPU's path hold on this GPU, and how fast is it?

    Kernels against float64 and against torch's own attention, tokens against transformers, recorded
    graphs against eager steps, steps that must not wait for the GPU, the memory that the pool is
    given, and W1 to W4 of bench compare beside transformers, vLLM and nano-vllm if they are here.
    Writes a report to read and a JSON file to keep, and prints each outcome. Some minutes. Exit
    code 1 if a check failed. Developed without a GPU: a report from one is welcome.

    \b
    Example: minivllm bench gpu --model Qwen/Qwen3-0.6B -o rtx4090.md
    """
    if not 2 <= tokens <= 512:
        raise ConfigError("--tokens", tokens, "2 to 512")
    try:
        import torch

        from minivllm.bench.gpu import report
        from minivllm.bench.gpu.check import run_checks
    except ImportError as error:
        raise MissingExtraError(
            f"bench gpu needs the engine's part ({error.name} is not installed): "
            "pip install 'minivllm[engine]'"
        ) from error
    if not torch.cuda.is_available() and not rehearse:
        raise ConfigError(
            "bench gpu", "no GPU", "a machine with an NVIDIA GPU that torch sees; or --rehearse"
        )
    if not output.parent.is_dir():
        raise ConfigError("--output", str(output), "a file in a folder that exists")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks = _checks(model, device, tokens)
    if only:
        checks = {name: run for name, run in checks.items() if any(part in name for part in only)}
        if not checks:
            names = " | ".join(_checks(model, device, tokens))
            raise ConfigError("--only", ", ".join(only), f"a part of: {names}")
    done: list[Check] = []
    for check in run_checks(checks):
        done.append(check)
        typer.echo(f"{check.state:8} {check.seconds:7.1f} s  {check.name}")
        if check.state != "passed":
            typer.echo("  " + check.words.splitlines()[0])
    beside = report.write(output, report.environment(device), done)
    typer.echo(f"wrote {output} and {beside}")
    if any(check.state == "failed" for check in done):
        raise typer.Exit(1)


def _checks(model: str, device: torch.device, tokens: int) -> dict[str, Callable[[Check], None]]:
    import torch

    from minivllm.attention.selector import select_kernels
    from minivllm.bench.gpu import engine, kernels
    from minivllm.bench.gpu.check import Skipped
    from minivllm.bench.gpu.throughput import throughput

    backend, operators = select_kernels("auto", device)
    on_gpu = device.type == "cuda"

    def gpu_only(run: Callable[[Check], None]) -> Callable[[Check], None]:
        def skipped(_: Check) -> None:
            raise Skipped("needs a GPU")

        return run if on_gpu else skipped

    def times(check: Check) -> None:
        kernels.attention_times(check, backend, device, torch.bfloat16)

    return {
        "attention against float64": partial(
            kernels.attention_numbers, backend=backend, device=device
        ),
        "operators against float64": partial(
            kernels.operator_numbers, operators=operators, device=device
        ),
        "attention against torch's": gpu_only(times),
        "tokens against transformers": partial(
            engine.equals_transformers, model=model, device=device, count=tokens
        ),
        "graphs against eager": gpu_only(
            partial(engine.graphs_change_nothing, model=model, count=tokens)
        ),
        "steps do not wait": gpu_only(partial(engine.waits_once, model=model)),
        "memory of the pool": gpu_only(partial(engine.pool_fits, model=model)),
        "throughput beside peers": gpu_only(partial(throughput, model=model)),
    }
