"""The flags of sampling, shared by ``generate`` and ``chat``; named as in the OpenAI API."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "Sampling"

MaxTokens = Annotated[
    int, typer.Option("--max-tokens", help="Most output tokens.", rich_help_panel=_PANEL)
]
Temperature = Annotated[
    float,
    typer.Option(
        help="0: always the most likely token. Higher: flatter, more surprising (0 to 2).",
        rich_help_panel=_PANEL,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        help="Draw only among the most likely tokens that hold this share together; 1: all.",
        rich_help_panel=_PANEL,
    ),
]
TopK = Annotated[
    int,
    typer.Option("--top-k", help="Draw only among this many; 0: no limit.", rich_help_panel=_PANEL),
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p",
        help="Leave out tokens below this share of the most likely one's probability; 0: off.",
        rich_help_panel=_PANEL,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End when the text contains this; may be repeated.", rich_help_panel=_PANEL),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        help="Go on after the model's end-of-text token, to --max-tokens.",
        rich_help_panel=_PANEL,
    ),
]
