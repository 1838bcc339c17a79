"""What all regions of the board read: a step's view, and the marks of the step."""

from __future__ import annotations

from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from minivllm.terminal.cells import Marks
from minivllm.terminal.history import View

PLAIN, DIM, BOLD = Style(), Style(dim=True), Style(bold=True)
CHIP = Style(bold=True, reverse=True)


@dataclass(frozen=True)
class Scene:
    """A view and the marks of its step: what all regions read."""

    view: View
    marks: Marks


def title(words: str, rest: str = "") -> Text:
    line = Text().append(words, style="bold")
    return line.append(f" {rest}", style="dim") if rest else line
