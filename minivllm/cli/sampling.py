"""The flags of sampling, shared by ``generate``, ``chat`` and ``step``; named as in vLLM's API.

    @engine_flags
    @sampling_flags(max_tokens=64)
    def generate(prompts: list[str], *, sampling: dict[str, Any], engine: dict[str, Any]): ...

``sampling`` then holds the fields of a SamplingParams that were given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from minivllm.errors import SamplingParamsError
from minivllm.structured_output.params import StructuredOutputsParams

_PANEL = "Sampling"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=_PANEL)


def _flags(
    max_tokens: Annotated[int, _option("--max-tokens", help="Most output tokens.")],
    temperature: Annotated[
        float,
        _option(
            "--temperature",
            help="0: always the most likely token. Higher: flatter, more surprising (0 to 2).",
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        _option(
            "--top-p",
            help="Draw only among the most likely tokens that hold this share together; 1: all.",
        ),
    ] = 1.0,
    top_k: Annotated[int, _option("--top-k", help="Draw only among this many; 0: no limit.")] = 0,
    min_p: Annotated[
        float,
        _option(
            "--min-p",
            help="Leave out tokens below this share of the most likely one's probability; 0: off.",
        ),
    ] = 0.0,
    presence_penalty: Annotated[
        float,
        _option(
            "--presence-penalty",
            help="Taken off the logit of each token that the output has (-2 to 2).",
        ),
    ] = 0.0,
    frequency_penalty: Annotated[
        float,
        _option(
            "--frequency-penalty",
            help="The same, once for each time that the output has it (-2 to 2).",
        ),
    ] = 0.0,
    repetition_penalty: Annotated[
        float,
        _option(
            "--repetition-penalty",
            help="Weakens tokens that prompt or output have; 1: off, above 1: repeat less.",
        ),
    ] = 1.0,
    logit_bias: Annotated[
        list[str] | None,
        _option(
            "--logit-bias",
            help="Added to this token's logit (-100 to 100); may be repeated.",
            metavar="ID=BIAS",
        ),
    ] = None,
    allowed_token_ids: Annotated[
        list[int] | None,
        _option(
            "--allowed-token-ids",
            help="Draw only this token, and others given so; may be repeated.",
            metavar="ID",
        ),
    ] = None,
    bad_words: Annotated[
        list[str] | None,
        _option(
            "--bad-words", help="A text that may not be said; may be repeated.", metavar="TEXT"
        ),
    ] = None,
    json_schema: Annotated[
        Path | None,
        _option(
            "--json-schema", help="The text is JSON that keeps to this JSON Schema.", metavar="FILE"
        ),
    ] = None,
    json_object: Annotated[
        bool, _option("--json-object", help="The text is a JSON object, of any form.")
    ] = False,
    regex: Annotated[str | None, _option("--regex", help="The whole text matches this.")] = None,
    choice: Annotated[
        list[str] | None,
        _option(
            "--choice",
            help="The text is this one, or another given so; may be repeated.",
            metavar="TEXT",
        ),
    ] = None,
    grammar: Annotated[
        Path | None,
        _option("--grammar", help="The text keeps to this EBNF grammar.", metavar="FILE"),
    ] = None,
    min_tokens: Annotated[
        int,
        _option(
            "--min-tokens", help="Neither end of text nor a stop id before so many output tokens."
        ),
    ] = 0,
    stop: Annotated[
        list[str] | None,
        _option("--stop", help="End when the text contains this; may be repeated."),
    ] = None,
    stop_token_ids: Annotated[
        list[int] | None,
        _option("--stop-token-ids", help="End at this token; may be repeated.", metavar="ID"),
    ] = None,
    ignore_eos: Annotated[
        bool,
        _option("--ignore-eos", help="Go on after the model's end-of-text token, to --max-tokens."),
    ] = False,
) -> None:
    """Only the signature is used: the flags, as any command declares its own."""


_FLAGS = tuple(
    p.replace(
        annotation=get_type_hints(_flags, include_extras=True)[p.name],
        kind=inspect.Parameter.KEYWORD_ONLY,
    )
    for p in inspect.signature(_flags).parameters.values()
)


SAMPLING_FLAGS = tuple(flag.name for flag in _FLAGS)
"""The parameters that ``sampling_flags`` adds to a command."""


def sampling_flags(max_tokens: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command all of these flags; ``max_tokens`` is the default of that one."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            command(sampling=_as_fields({f.name: given.pop(f.name) for f in _FLAGS}), **given)

        hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
        ]
        before = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        after = [p for p in own if p not in before and p.name != "sampling"]
        first, *others = _FLAGS
        parameters = [*before, first.replace(default=max_tokens), *others, *after]
        # Typer (and engine_flags) read a command's parameters off its signature.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _as_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Without what was not given; the biases as a map, the form as one field."""
    names = ("json_schema", "json_object", "regex", "choice", "grammar")
    form = {name: given.pop(name) for name in names}
    for name in ("json_schema", "grammar"):
        if form[name] is not None:
            form[name] = _read(name, form[name])
    form = {name: value for name, value in form.items() if value}
    fields = {name: value for name, value in given.items() if value is not None and value != []}
    if "logit_bias" in fields:
        fields["logit_bias"] = dict(_bias(text) for text in fields["logit_bias"])
    if form:
        if "json_schema" in form:
            form["json"] = form.pop("json_schema")
        fields["structured_outputs"] = StructuredOutputsParams(**form)
    return fields


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        flag, why = f"--{name.replace('_', '-')}", getattr(error, "strerror", None) or str(error)
        raise SamplingParamsError(flag, str(path), f"a file that can be read ({why})") from None


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        allowed = "ID=BIAS, a token id and a number, as in 50256=-100"
        raise SamplingParamsError("--logit-bias", text, allowed) from None
