"""``minivllm bench serve``: measure a server from outside. The work: ``bench/serve*.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.errors import ConfigError

if TYPE_CHECKING:
    from minivllm.bench.serve import Load, Outcome
    from minivllm.bench.serve_settings import Settings

SERVER, LOAD, DATA, RESULT = "The server", "The load", "The requests", "The result"


def _flag(panel: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(rich_help_panel=panel, help=help, metavar=metavar, **more)


def serve(
    backend: Annotated[
        str, _flag(SERVER, "openai: completions; openai-chat: chat completions.")
    ] = "openai",
    base_url: Annotated[
        str | None, _flag(SERVER, "Of the server; instead of host and port.", "URL")
    ] = None,
    host: Annotated[str, _flag(SERVER, "Of the server.")] = "127.0.0.1",
    port: Annotated[int, _flag(SERVER, "Of the server.")] = 8000,
    endpoint: Annotated[
        str | None, _flag(SERVER, "Default: the backend's, such as /v1/completions.", "PATH")
    ] = None,
    model: Annotated[
        str | None, _flag(SERVER, "Default: the first that the server lists.", "NAME")
    ] = None,
    api_key: Annotated[
        str | None, _flag(SERVER, "Sent as a bearer token.", "KEY", envvar="OPENAI_API_KEY")
    ] = None,
    timeout: Annotated[
        float, _flag(SERVER, "Seconds after which a request has failed.", "S")
    ] = 600.0,
    num_prompts: Annotated[int, _flag(LOAD, "Requests to send.", "N")] = 100,
    request_rate: Annotated[
        float,
        _flag(
            LOAD,
            "Requests per second; latency then counts from each one's planned start. inf: no plan, "
            "send as soon as --max-concurrency lets.",
            "R",
        ),
    ] = float("inf"),
    burstiness: Annotated[
        float, _flag(LOAD, "Of the gaps: 1 Poisson, less in bursts, more evenly.", "B")
    ] = 1.0,
    max_concurrency: Annotated[
        int | None, _flag(LOAD, "Most requests under way at once. Default: all.", "N")
    ] = None,
    num_warmups: Annotated[
        int, _flag(LOAD, "Requests before the run, which are not measured.", "N")
    ] = 0,
    seed: Annotated[int, _flag(LOAD, "Of prompts, lengths and gaps.", "N")] = 0,
    dataset_name: Annotated[
        str, _flag(DATA, "Where prompts come from.", "random|shared-prefix|file")
    ] = "random",
    dataset_path: Annotated[
        Path | None,
        _flag(
            DATA,
            'For file: lines {"prompt" or "messages", "output_tokens"}, or ShareGPT\'s JSON.',
            "FILE",
        ),
    ] = None,
    random_input_len: Annotated[
        int, _flag(DATA, "Tokens of a prompt, beside the shared prefix.", "N")
    ] = 128,
    random_output_len: Annotated[
        int | None, _flag(DATA, "max_tokens. Default: 32; for file: what it says.", "N")
    ] = None,
    random_range_ratio: Annotated[
        float, _flag(DATA, "Lengths are drawn from N × (1 ± R).", "R")
    ] = 0.0,
    random_token_ids: Annotated[
        int | None,
        _flag(
            DATA,
            "Draw token ids below this instead of words: a prompt is exactly as long as asked.",
            "VOCAB",
        ),
    ] = None,
    shared_prefix_len: Annotated[
        int, _flag(DATA, "Tokens that prompts share, before their own.", "N")
    ] = 64,
    num_prefixes: Annotated[int, _flag(DATA, "How many such prefixes.", "N")] = 4,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos",
            rich_help_panel=DATA,
            help="Ask for all of max_tokens; not every server knows it.",
        ),
    ] = False,
    temperature: Annotated[float, _flag(DATA, "0: greedy.", "T")] = 0.0,
    extra_body: Annotated[
        str | None, _flag(DATA, "Further fields of each request.", "JSON")
    ] = None,
    percentile_metrics: Annotated[
        str, _flag(RESULT, "What the table shows.", "LIST")
    ] = "ttft,tpot,itl,e2el",
    goodput: Annotated[
        list[str] | None,
        _flag(
            RESULT,
            "Count the requests that keep to this, of ttft, tpot, e2el; may be repeated.",
            "METRIC:MS",
        ),
    ] = None,
    save_result: Annotated[
        bool,
        typer.Option("--save-result", rich_help_panel=RESULT, help="Write all numbers as JSON."),
    ] = False,
    result_filename: Annotated[
        Path | None, _flag(RESULT, "Where to. Default: named by rate and date.", "FILE")
    ] = None,
    plot: Annotated[Path | None, _flag(RESULT, "Draw the run.", "FILE.svg")] = None,
) -> None:
    """How fast is a server, and when does it fall behind? Any OpenAI-compatible one.

    Streams requests and measures from outside: TTFT, TPOT, ITL, E2E, throughput, failures by kind.
    Ctrl-C ends the run and tells what was measured so far. Exit status 1 if nothing was completed.

    \b
    Examples: minivllm bench serve --request-rate 4 --num-prompts 60 --plot run.svg
    minivllm bench serve --base-url http://other:8080 --max-concurrency 8 --ignore-eos
    """
    from rich.console import Console

    from minivllm.bench.serve_metrics import METRICS, report
    from minivllm.bench.serve_result import as_json, tables
    from minivllm.bench.serve_settings import Settings
    from minivllm.bench.serve_svg import draw

    shown = percentile_metrics.split(",")
    if not set(shown) <= set(METRICS):
        raise ConfigError("--percentile-metrics", percentile_metrics, "of " + ",".join(METRICS))
    if plot is not None and plot.suffix != ".svg":
        raise ConfigError("--plot", str(plot), "a name that ends in .svg")
    settings = Settings(
        backend=backend,
        base_url=base_url or f"http://{f'[{host}]' if ':' in host else host}:{port}",
        endpoint=endpoint,
        model=model,
        timeout=timeout,
        num_prompts=num_prompts,
        request_rate=request_rate,
        burstiness=burstiness,
        max_concurrency=max_concurrency,
        num_warmups=num_warmups,
        seed=seed,
        dataset_name=dataset_name,
        dataset_path=dataset_path,
        random_input_len=random_input_len,
        random_output_len=random_output_len,
        random_range_ratio=random_range_ratio,
        random_token_ids=random_token_ids,
        shared_prefix_len=shared_prefix_len,
        num_prefixes=num_prefixes,
        ignore_eos=ignore_eos,
        temperature=temperature,
        extra_body=extra_body,
        goodput=tuple(goodput or ()),
    )
    for path in (plot, result_filename):  # a run of minutes should not end with a wrong name
        if path is not None and not path.parent.is_dir():
            raise ConfigError("FILE", str(path), "a file in a directory that is there")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    model, outcome = asyncio.run(_run(settings, headers, *settings.loads()))
    numbers = report(outcome.records, outcome.duration, settings.limits())
    Console(highlight=False).print(tables(settings, outcome, numbers, shown))
    if save_result or result_filename is not None:
        date = time.strftime("%Y%m%d-%H%M%S")
        path = result_filename or Path(f"{backend}-{request_rate:g}qps-{date}.json")
        _write(path, json.dumps(as_json(settings, model, outcome, numbers), indent=1) + "\n")
        typer.echo(f"numbers: {path}", err=True)
    if plot is not None:
        _write(plot, draw(f"{model} at {settings.root}", outcome.records, numbers))
        typer.echo(f"picture: {plot}", err=True)
    if outcome.interrupted:
        raise typer.Exit(130)
    if not numbers.completed:
        raise typer.Exit(1)


async def _run(
    settings: Settings, headers: dict[str, str], before: Load | None, load: Load
) -> tuple[str, Outcome]:
    """The model's name, and what came of the load. A first Ctrl-C ends the load."""
    from minivllm.bench import serve as bench

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    model = settings.model or await bench.first_model(settings.root, headers)
    target = settings.target(model, headers)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    if before is not None:
        typer.echo(f"warming up with {len(before.asks)} requests", err=True)
        await bench.run(target, before, stop)
    with _progress(load) as advance:
        return model, await bench.run(target, load, stop, lambda record: advance())


@contextlib.contextmanager
def _progress(load: Load) -> Iterator[Callable[[], None]]:
    """A bar on the terminal; nothing where there is none. Gives what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = "requests", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=len(load.asks))
        yield lambda: bar.advance(task)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "FILE", str(path), f"a file that can be written: {error.strerror}"
        ) from error
