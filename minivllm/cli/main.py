"""The entry point: the commands, and how an error is told.

A named error is one line and an exit status, never a traceback: 1 for what failed, 2 for what was
asked for wrongly or needs a part that is not installed, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer
from typer.core import TyperCommand

from minivllm import __version__
from minivllm.cli import (
    admin,
    bench,
    chat,
    compare,
    demo,
    fork,
    gallery,
    generate,
    replay,
    serve,
    step,
    trace,
    view,
)
from minivllm.errors import MiniVLLMError

P = ParamSpec("P")


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """Give Ctrl-C and a reader that went away (``| head``) the shell's usual exit statuses."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Or the interpreter would complain when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None

    return run


class HelpByTopic(TyperCommand):
    """``--help`` with the flags under their topics, each with room for its whole name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        topics: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (row := param.get_help_record(ctx)) is not None:
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                topic = getattr(param, "rich_help_panel", None) or kind
                topics.setdefault(topic, []).append(row)
        for topic, rows in topics.items():
            with formatter.section(topic):
                formatter.write_dl(rows)


app = typer.Typer(
    name="minivllm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # its table cuts long flags short; see HelpByTopic
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo.demo,
    view.view,
    serve.serve,
    chat.chat,
    generate.generate,
    step.step,
    replay.replay,
    fork.fork,
    compare.compare,
):
    app.command(command.__name__, cls=HelpByTopic)(interruptible(command))
GROUPS = {"trace": trace.app, "gallery": gallery.app, "bench": bench.app, "admin": admin.app}
for name, group in GROUPS.items():
    for info in group.registered_commands:
        assert info.callback is not None
        info.callback, info.cls = interruptible(info.callback), HelpByTopic
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"minivllm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The life of an inference request, as in vLLM V1: small enough to read and to watch.

    Begin with `minivllm demo`: a recorded run at once, a live one when the engine is ready. What
    runs a model needs the part minivllm[engine]; the rest works without.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="minivllm")
    except MiniVLLMError as error:
        _end(str(error), error.exit_status)
    except OSError as error:
        if error.errno is None:  # not the system's word: a fault of ours
            raise
        _end(f"{error.filename or 'writing'}: {os.strerror(error.errno)}", 1)


def _end(message: str, status: int) -> None:
    print(f"minivllm: {message}", file=sys.stderr)
    sys.exit(status)
