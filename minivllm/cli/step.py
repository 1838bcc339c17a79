"""``minivllm step``: a debugger for an inference engine. Torch only for a live model.

    minivllm step [SCENARIO | TRACE | --prompt … | --attach URL]

In a terminal the full screen (``terminal/prompt.py``), in a dumb one lines (``line_prompt.py``);
with commands, their answers as text or JSON; else, or with --no-live, the story of each step.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minivllm.cli.admin import ApiKey
from minivllm.cli.options import engine_flags
from minivllm.cli.sampling import SAMPLING_FLAGS, sampling_flags
from minivllm.cli.trace_show import LifeNumber
from minivllm.errors import ConfigError

ENDING_S = 5.0

if TYPE_CHECKING:
    from minivllm.terminal.runs import Run
    from minivllm.terminal.session import Session


@engine_flags
@sampling_flags(max_tokens=16)
def step(
    context: typer.Context,
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
    recorded: Annotated[
        bool,
        typer.Option("--recorded", help="Of a scenario that has a recording, too: open that one."),
    ] = False,
    attach: Annotated[
        str | None,
        typer.Option(
            "--attach",
            metavar="URL",
            help="Step a running server: its gate is closed, and opened again at the end. URL may "
            "carry ?driver=CODE.",
        ),
    ] = None,
    api_key: ApiKey = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--engine",
            metavar="N",
            help="Of a trace or a server with several engines: which. Default: the first.",
        ),
    ] = None,
    life: LifeNumber = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--command",
            help='Run these and exit, as in -c "until preempt; why r4". May be repeated.',
        ),
    ] = None,
    commands: Annotated[
        Path | None,
        typer.Option(
            "--commands", metavar="FILE", help="Run those in a file, a line each; # is a comment."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="With commands: one JSON object for each, a line long."),
    ] = False,
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
    output is no terminal, the story of each step is printed. `help` lists what can be typed.

    \b
    Examples: minivllm step                          then: 8× Enter, why r4, block 6, q
              minivllm step run.trace.jsonl -c "until preempt; why; request r4"
              minivllm step tiny-pressure --num-kv-blocks 21
              minivllm step --prompt "Once upon a time" --prompt "Once upon a hill"
              minivllm step --attach http://127.0.0.1:8000

    \b
    Status with commands: 0 all were carried out, and each `until` was reached
                          1 one failed, and the rest was not carried out
                          3 all were carried out, but an `until` was not reached
    """
    given = [("--prompt", prompt), ("--attach", attach), ("a scenario or trace", target)]
    if len(several := [name for name, value in given if value]) > 1:
        raise ConfigError(several[0], given[0][1] or attach, f"not with {several[1]}: only one")
    if with_model and (prompt or attach):
        raise ConfigError("--with-model", True, "only for a scenario")
    if recorded and not target:
        raise ConfigError("--recorded", True, "with the name or the file of a recording")
    for option, value in (("--engine", number), ("--life", life)):
        if prompt and value is not None:
            raise ConfigError(option, value, "only for a recorded trace, or a server")
    if as_json and not (command or commands):
        raise ConfigError("--json", True, "with -c or --commands: it tells what they answer")
    if not live and (command or commands):
        raise ConfigError("--no-live", True, "without -c and --commands: these print their answers")
    if not prompt:
        _refuse(context, SAMPLING_FLAGS, "only with --prompt: others bring their own")
    if not attach:
        _refuse(context, ("api_key",), "only with --attach")
    lines = _lines(command or [], commands)
    _show_what_can_be_shown()
    _end_in_order()
    run: Run
    if attach is not None:
        from minivllm.terminal.attached import attach_to

        if engine:
            raise ConfigError("--attach", attach, "without flags of an engine: that one runs")
        run = attach_to(attach, api_key, number or 0, life)
    elif prompt:
        from minivllm.terminal.live import live_engine
        from minivllm.terminal.steered import SteeredRun

        typer.secho("loading the model …", dim=True, err=True)
        run = SteeredRun(live_engine(prompt, sampling, engine))
    else:
        from minivllm.terminal.runs import open_run

        run = open_run(target or "tiny-pressure", engine, with_model, life, number, recorded)
    if run.others and (lines is None or run.label == "RECORDED"):  # a script asked for what it got
        typer.secho(f"{run.history.header.name}; {run.others}", dim=True, err=True)
    from minivllm.terminal.session import Session

    session = Session(run)
    try:
        status = _show(session, lines, live, as_json)
    finally:
        session.close()
    raise typer.Exit(status)


def _refuse(context: typer.Context, parameters: Sequence[str], allowed: str) -> None:
    """Flags that would be passed over, if they stand on the command line."""
    for name in parameters:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')}", context.params[name], allowed)


def _show_what_can_be_shown() -> None:
    """A character that the output's encoding lacks is replaced: it ends no script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _end_in_order() -> None:
    """SIGTERM and a terminal that goes away, too, end it as quitting does: the terminal is put back
    and a server's gate left as it was found. Some seconds later it ends in any case: to put a
    terminal back that is gone can wait for an answer that will not come."""

    def leave(signum: int, frame: object) -> None:
        last = threading.Timer(ENDING_S, os._exit, [128 + signum])
        last.daemon = True
        last.start()
        raise SystemExit(128 + signum)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), leave)


def _lines(commands: list[str], file: Path | None) -> list[str] | None:
    """What is to be carried out; None: nothing was given."""
    from minivllm.terminal.verbs import script

    if not commands and file is None:
        return None
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--commands", str(file), f"a text file ({error})") from error
        commands = [text.removeprefix("\ufeff"), *commands]  # some editors begin a file with it
    return [line for given in commands for line in script(given)]


def _show(session: Session, lines: list[str] | None, live: bool, as_json: bool) -> int:
    if lines is not None:
        from minivllm.terminal.script import run_script

        return run_script(session, lines, as_json=as_json)
    if not live or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _tell_all(session)
    from prompt_toolkit.utils import is_dumb_terminal

    if is_dumb_terminal():
        from minivllm.terminal.line_prompt import run_lines

        run_lines(session, ends_with_engine=False)
        return 0
    from minivllm.terminal.prompt import run_screen

    return run_screen(session)


def _tell_all(session: Session) -> int:
    from minivllm.cli.replay import tell

    session.let_code_be()  # nobody is here who could let it go on
    while session.forward(1):
        tell(session.view)
    return 0
