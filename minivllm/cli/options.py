"""The engine's flags, given to all commands that run an engine.

    @app.command()
    @engine_flags
    def generate(prompts: list[str], *, engine: dict[str, Any]) -> None: ...

``engine`` then holds what was given, under the flat names that :func:`minivllm.config.make_config`
and ``LLM(...)`` take. Which flags there are stands in ``flags.py``; a flag's default is the field's
default in ``config.py``: it is not repeated. Counterpart in vLLM: ``vllm/engine/arg_utils.py``.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from minivllm.cli.flags import FLAGS, Flag, show_size
from minivllm.config import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    TraceConfig,
)
from minivllm.errors import ConfigError


def defaults() -> dict[str, Any]:
    """Field → default, from the configuration's own sections."""
    sections = (ModelConfig, CacheConfig, SchedulerConfig, ParallelConfig, TraceConfig)
    return {f.name: f.default for section in sections for f in fields(section)}


def engine_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of :data:`FLAGS`; it receives those that were set as ``engine``."""

    def run(**given: Any) -> None:
        engine = {flag.field: given.pop(flag.field) for flag in FLAGS}
        # What was not given stays away, so that it overrides nothing (a scenario's own knobs).
        command(engine={k: v for k, v in engine.items() if v is not None}, **given)

    hints = get_type_hints(command, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name])
        for p in inspect.signature(command).parameters.values()
        if p.name != "engine"
    ]
    added = [_parameter(flag) for flag in FLAGS]
    # Typer reads a command's parameters off its signature.
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, __name__
    return run


def _parameter(flag: Flag) -> inspect.Parameter:
    default = defaults()[flag.field]
    shown = "" if default is None else str(default)
    if flag.metavar == "SIZE" and default is not None:
        shown = show_size(default)
    elif flag.kind is bool:
        shown = "on" if default else "off"
    option = typer.Option(
        flag.names,
        *([flag.short] if flag.short else []),
        help=f"{flag.help}  [default: {shown}]" if shown else flag.help,
        show_default=False,
        rich_help_panel=flag.panel,
        callback=_parsed(flag) if flag.parse else None,
        metavar=flag.metavar or ("N" if flag.kind in (int, float) else None),
    )
    annotation = Annotated[flag.kind | None, option]  # type: ignore[name-defined]
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(flag.field, kind, default=None, annotation=annotation)


def _parsed(flag: Flag) -> Callable[[str | None], Any]:
    parse = flag.parse
    assert parse is not None
    return lambda text: None if text is None else parse(text)


def parse_flags(text: str, where: str) -> dict[str, Any]:
    """The engine's flags in one string (``--block-size 8 --batching static``) → field → value.

    ``where`` names the option that the string came by. Raises ConfigError.
    """
    found: dict[str, Any] = {}

    def take(engine: dict[str, Any]) -> None:
        found.update(engine)

    reader = typer.Typer(add_completion=False)
    reader.command(add_help_option=False)(engine_flags(take))
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(where, text, f"flags as the shell takes them ({error})") from error
    try:
        typer.main.get_command(reader).main(words, prog_name="minivllm", standalone_mode=False)
    except _UsageError as error:
        problem = error.format_message()  # type: ignore[attr-defined]
        raise ConfigError(where, text, f"the engine's flags. {problem}") from error
    return found


_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer or click has it, by version
