"""``minivllm trace``: record, count, print, compare and describe traces; torch only for
``--with-model``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.cli.options import engine_flags
from minivllm.cli.trace_diff import diff
from minivllm.errors import ConfigError, MissingExtraError
from minivllm.trace.gallery import find_recording

if TYPE_CHECKING:
    from minivllm.trace.file import Trace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Record, count, print, compare and describe traces.",
)

TraceFile = Annotated[
    Path,
    typer.Argument(
        parser=find_recording,
        metavar="FILE",
        help="A trace: .jsonl, or packed as .jsonl.gz, or a gallery name.",
    ),
]


@app.command("record")
@engine_flags
def record(
    scenario: Annotated[
        str, typer.Argument(help="A scenario that comes with the package, or a .toml file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: NAME.trace.jsonl here."),
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
    record it twice, with one knob changed, to see what the knob does.

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
        run.run()
    finally:
        run.recorder.close()
    load_index(path)  # beside the file, so that viewers can seek in it
    typer.echo(f"{path}: {run.core.scheduler.current_step} steps (minivllm replay {path})")


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


@app.command("stats")
def stats(file: TraceFile) -> None:
    """Count what happened in a run: steps, tokens, prefix hits, evictions, preemptions."""
    from minivllm.trace.file import read_trace

    trace = read_trace(file)
    header = trace.header
    typer.echo(f"{header.name or file.name}  {header.schema}  {header.engine_version}")
    for name, value in _numbers(trace).items():
        typer.echo(f"  {name:<28}{value:>10}")
    typer.echo("\nevents by kind")
    kinds = Counter(event.kind for event in trace.events)
    for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])):
        typer.echo(f"  {kind:<28}{count:>10}")


def _numbers(trace: Trace) -> dict[str, int]:
    data: dict[str, list[Any]] = {}
    for event in trace.events:
        data.setdefault(event.kind, []).append(event.data)
    admissions = data.get("req.admit", []) + data.get("req.resume", [])
    return {
        "steps": trace.last_step,
        "requests": len(data.get("req.arrive", [])),
        "prompt tokens": sum(len(d.prompt_token_ids) for d in data.get("req.arrive", [])),
        "output tokens": len(data.get("req.token", [])),
        "tokens run": sum(d.used for d in data.get("sched.ledger", [])),
        "tokens from the prefix cache": sum(d.hit for d in admissions),
        "preemptions": len(data.get("req.preempt", [])),
        "tokens lost by preemption": sum(d.tokens_lost for d in data.get("req.preempt", [])),
        "blocks taken": sum(
            len(d.blocks) for d in data.get("kv.alloc", []) + data.get("kv.reserve", [])
        ),
        "blocks evicted": len(data.get("kv.evict", [])),
    }


@app.command("cat")
def cat(
    file: TraceFile,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind (kv.alloc) or group (kv); may be repeated."),
    ] = None,
    req: Annotated[str | None, typer.Option(help="Only this request, such as r4.")] = None,
    step: Annotated[int | None, typer.Option(help="Only this step.")] = None,
) -> None:
    """Print events, one a line: step, number, kind, request, and the kind's own fields."""
    import msgspec

    from minivllm.trace.file import read_trace

    for event in read_trace(file).events:
        group = event.kind.split(".")[0]
        if kind and event.kind not in kind and group not in kind:
            continue
        if (req is not None and event.req != req) or (step is not None and event.step != step):
            continue
        fields = msgspec.json.encode(event.data).decode()
        typer.echo(
            f"{event.step:>4} {event.seq:>6} {event.kind:<16} {event.req or '-':<5} {fields}"
        )


app.command("diff")(diff)


@app.command("schema")
def schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
) -> None:
    """Print the JSON Schema of a trace's lines, exported from minivllm/trace/events.py."""
    from minivllm.trace.schema import json_schema

    text = json_schema()
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
