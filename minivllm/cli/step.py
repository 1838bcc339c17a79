"""``minivllm step``: a run one step at a time, in the terminal. Torch only for a live model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.cli.options import engine_flags
from minivllm.cli.sampling import sampling_flags
from minivllm.cli.trace_show import EngineNumber, LifeNumber
from minivllm.errors import ConfigError, MiniVLLMError

if TYPE_CHECKING:
    from minivllm.terminal.runs import Run
    from minivllm.terminal.verbs import Session


@engine_flags
@sampling_flags(max_tokens=16)
def step(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[SCENARIO|TRACE]",
            help="A scenario by name or .toml file, or a recorded trace by file or gallery name.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Run the model on this, live; may be repeated."),
    ] = None,
    with_model: Annotated[
        bool,
        typer.Option("--with-model", help="Run the scenario on the model, not on given tokens."),
    ] = False,
    number: EngineNumber = None,
    life: LifeNumber = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--command",
            help='Run these and exit, as in -c "goto 8; why r4"; status 1 if '
            "one fails. May be repeated.",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live/--no-live", help="--no-live: print one story per step, and nothing else."
        ),
    ] = True,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Step through a run: queues, budget, blocks, and the reason for every decision.

    Without an argument it runs the scenario tiny-pressure on the real scheduler and block pool,
    with given tokens in the model's place. Going back is browsing; no engine rewinds. When the
    output is no terminal, the story of each step is printed.

    \b
    Examples: minivllm step                          then: 8× Enter, why r4, block 6, q
              minivllm step run.trace.jsonl -c "goto 8; why r4"
              minivllm step tiny-pressure --num-kv-blocks 21
              minivllm step --prompt "Once upon a time" --prompt "Once upon a hill"
    """
    if prompt and (target is not None or with_model):
        raise ConfigError("--prompt", prompt[0], "either prompts, or a scenario or trace")
    for option, value in (("--engine", number), ("--life", life)):
        if prompt and value is not None:
            raise ConfigError(option, value, "only for a recorded trace")
    run: Run
    if prompt:
        from minivllm.terminal.runs import LiveRun

        typer.secho("loading the model …", dim=True, err=True)
        run = LiveRun(prompt, sampling, engine)
    else:
        from minivllm.terminal.runs import open_run

        run = open_run(target or "tiny-pressure", engine, with_model, life, number)
        if others := getattr(run, "others", ""):
            typer.secho(f"{run.history.header.name}; {others}", dim=True, err=True)
    try:
        status = _show(run, command or [], live)
    finally:
        run.close()
    raise typer.Exit(status)


def _show(run: Run, commands: list[str], live: bool) -> int:
    from minivllm.terminal.verbs import Session

    if commands:
        return _run_commands(Session(run), commands)
    if not live or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _tell_all(Session(run))
    from minivllm.terminal.prompt import run_screen

    return run_screen(Session(run))


def _run_commands(session: Session, commands: list[str]) -> int:
    """Each answer as text; the first that fails ends it."""
    from rich.console import Console

    console = Console(highlight=False)
    session.width = console.width
    for line in [line for given in commands for line in session.script(given)]:
        try:
            reply = session.execute(line)
        except MiniVLLMError as error:
            print(f"minivllm step: {error}", file=sys.stderr)
            return 1
        for text in reply.lines:
            console.print(text, soft_wrap=True)
        if reply.quit:
            break
    return 0


def _tell_all(session: Session) -> int:
    from minivllm.cli.replay import tell

    while session.forward(1):
        tell(session.view)
    return 0
