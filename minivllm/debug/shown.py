"""What a notebook shows, and what ``print`` prints: a board, and the answer of a verb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.jupyter import JupyterMixin
from rich.text import Text

from minivllm.terminal.board import board
from minivllm.terminal.history import View
from minivllm.terminal.reply import Reply

HEIGHT = 24
MIN_WIDTH = 40


class _Lines(JupyterMixin):
    """Lines that rich prints and a notebook displays, as they are: no wrapping."""

    def lines(self, width: int) -> list[Text]:
        raise NotImplementedError

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.lines(options.max_width):
            line.no_wrap, line.overflow = True, "ignore"  # a notebook scrolls a wide board
            yield line

    def __str__(self) -> str:
        return "\n".join(line.plain.rstrip() for line in self.lines(Console().width))

    __repr__ = __str__


class Board(_Lines):
    """One place of a run, as the terminal shows it."""

    def __init__(
        self,
        view: View,
        *,
        width: int | None = None,
        height: int | None = None,
        zoom: int | None = None,
        label: str = "",
    ) -> None:
        self.view, self._width, self._height = view, width, height or HEIGHT
        self._zoom, self._label = zoom, label

    def lines(self, width: int) -> list[Text]:
        width = max(self._width or width, MIN_WIDTH)
        return board(self.view, width, self._height, zoom=self._zoom, label=self._label)


class Answer(_Lines):
    """What a verb answered: ``data`` for programs, its lines for readers."""

    def __init__(self, reply: Reply) -> None:
        self.data: Any = reply.data
        self.reached = reply.reached
        self._lines = reply.lines

    def lines(self, width: int) -> list[Text]:
        return [line.copy() for line in self._lines]
