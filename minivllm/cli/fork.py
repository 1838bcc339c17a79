"""``minivllm fork``: a recorded run again, with knobs changed from a step on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minivllm.errors import ConfigError
from minivllm.trace.gallery import SUFFIX, find_recording
from minivllm.trace.words import count, join


def fork(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A trace: .jsonl, or packed as .jsonl.gz, or a gallery name."
        ),
    ],
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A knob and its other value, such as max_num_seqs=2; may be repeated.",
        ),
    ] = None,
    at_step: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Change the scheduler's knobs before this step. 1: from the start, and then the "
            "pool's knobs, too (num_kv_blocks, block_size, enable_prefix_caching, max_model_len).",
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: NAME.fork.trace.jsonl here."),
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(
            metavar="recorded|recompute",
            help="recorded: each request says what it said, no model. recompute: the model runs, "
            "in float32.",
        ),
    ] = "recorded",
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --tokens recompute: where the model is."),
    ] = None,
) -> None:
    """What if? Run a recorded run again, with one knob changed from step N on.

    The same requests arrive at the same steps and say the same tokens; what becomes of them is the
    scheduler's doing. The fork is a trace like any other.

    \b
    Examples: minivllm fork tiny-pressure --set num_kv_blocks=24
              minivllm fork run.jsonl --at-step 8 --set max_num_seqs=2 -o fork.jsonl
    """
    from minivllm.cli.trace_diff import lines
    from minivllm.cli.verify import check_tokens
    from minivllm.replay.fork import fork as run_fork
    from minivllm.replay.fork import parse_knobs
    from minivllm.replay.model import with_model
    from minivllm.replay.recording import read_recording
    from minivllm.replay.verify import verify
    from minivllm.trace.diff import compare
    from minivllm.trace.file import load_index, read_trace

    check_tokens(tokens)
    if model is not None and tokens != "recompute":
        raise ConfigError("--model", model, "only with --tokens recompute: else no model runs")
    values = parse_knobs(knobs or [])
    path = find_recording(file)
    original = read_trace(path)
    if len(original.lives()) > 1:
        raise ConfigError("FILE", file, "a trace of one engine that was started once")
    recording = read_recording(original, original.engines[0] if original.engines else "engine0")
    if out is None:
        name = path.name.removesuffix(".gz").removesuffix(SUFFIX).removesuffix(".jsonl")
        out = Path(f"{name}.fork{SUFFIX}")
    if out.exists() and out.samefile(path):
        raise ConfigError("--out", out, "another file than the trace that is forked")
    executor = text = None
    if tokens == "recompute":
        executor, text = with_model(recording, model, until=at_step)
    made = run_fork(recording, values, at_step, str(out), executor=executor, text=text)
    load_index(out)

    typer.echo(f"{out}: {count(made.num_steps, 'step')}, forked from {made.log.header.forked_from}")
    if made.placeholders:
        each = join([f"{n} of {req}" for req, n in made.placeholders.items()])
        typer.echo(f"note: placeholders stand for tokens that were never recorded: {each}")
    if recording.open_reqs:
        typer.echo("note: it ends at the recording's last step, which some requests outlive")
    if (difference := verify(recording).difference) is not None:
        typer.echo(
            f"note: the recording itself does not verify, from step {difference.step} on: what "
            "differs may be the code's doing, not the knob's"
        )
    first = lines(compare(original, read_trace(out)))[0]
    typer.echo(f"{first} (minivllm trace diff {file} {out})")
