"""``minivllm trace``: what is done with traces; torch only for ``record --with-model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from minivllm.cli import (
    trace_check,
    trace_export,
    trace_life,
    trace_show,
    trace_tensors,
    trace_worksheet,
)
from minivllm.cli.options import engine_flags
from minivllm.cli.trace_diff import diff
from minivllm.errors import ConfigError, MissingExtraError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Record, count, print, check, compare, export and describe traces; print worksheets.",
)


@app.command("record")
@engine_flags
def record(
    scenario: Annotated[
        str,
        typer.Argument(help="A scenario that comes with the package, or a .toml or .jsonl file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: NAME.trace.jsonl here."),
    ] = None,
    arm: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="Keep this step's arrays, too, for the page's lens. May be repeated."
        ),
    ] = None,
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model", help="Run the model as well; else the scenario's own tokens are used."
        ),
    ] = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Run a scenario on the real scheduler and pool and record it.

    Requests arrive at the steps that the scenario says. The engine's flags override its knobs:
    record it twice, with one knob changed, to see what the knob does. Status 1: a request failed.

    \b
    Example: minivllm trace record tiny-pressure --num-kv-blocks 24 -o roomy.jsonl
    """
    from minivllm.scenario import load_scenario, start
    from minivllm.trace.file import load_index

    if (named := engine.pop("path", None)) is not None:
        if out is not None:
            raise ConfigError("--trace", named, "either --out or --trace, which mean the same here")
        out = Path(named)
    loaded = load_scenario(scenario)
    path = out or Path(f"{loaded.name}.trace.jsonl")
    if with_model:
        executor, tokenizer = _model_parts(engine)
        run = start(loaded, executor=executor, tokenizer=tokenizer, trace_path=str(path), **engine)
    else:
        run = start(loaded, trace_path=str(path), **engine)
    try:
        for step in arm or ():
            run.core.arm(step)
        run.run()
    finally:
        run.recorder.close()
    load_index(path)  # beside the file, so that viewers can seek in it
    typer.echo(f"{path}: {run.core.scheduler.current_step} steps (minivllm replay {path})")
    if run.failures:
        for line in run.told_failures():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(1)


def _model_parts(engine: dict[str, Any]) -> tuple[Any, Any]:
    """The model's executor class and its tokenizer. Raises ModelError, MissingExtraError."""
    from minivllm.config import ModelConfig
    from minivllm.models.source import resolve

    try:
        from minivllm.executor.uniproc import UniprocExecutor
        from minivllm.tokenizer import get_tokenizer
    except ImportError as error:
        raise MissingExtraError(
            f"--with-model needs the engine's part ({error.name} is not installed): "
            "run `make setup`, or pip install 'minivllm[engine]'"
        ) from error
    return UniprocExecutor, get_tokenizer(resolve(engine.get("model", ModelConfig().model)))


app.command("stats")(trace_show.stats)
app.command("cat")(trace_show.cat)
app.command("life")(trace_life.life)
app.command("diff")(diff)
app.command("export")(trace_export.export)
app.command("tensors")(trace_tensors.tensors)
app.command("worksheet")(trace_worksheet.worksheet)
app.command("check")(trace_check.check)
app.command("vocabulary")(trace_show.vocabulary)
app.command("schema")(trace_show.schema)
