"""What a verb answers: lines for a reader, data for a program, a question, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from minivllm.errors import MiniVLLMError


class VerbError(MiniVLLMError, ValueError):
    """What was typed is no verb, or its argument does not fit; the message says what does."""


def told(error: Exception) -> str:
    """An error in a line: one of our own says all; of another, its kind belongs to it."""
    return str(error) if isinstance(error, MiniVLLMError) else f"{type(error).__name__}: {error}"


@dataclass
class Reply:
    """What a verb answers."""

    lines: list[Text] = field(default_factory=list)
    data: Any = None
    """The same for programs, as JSON takes it."""
    title: str = ""
    message: Text | None = None
    """For one line of the screen, where the board does not tell it."""
    moved: bool = False
    """The place on the screen has changed."""
    reached: bool | None = None
    """Of ``until``: has it come to what was asked for?"""
    question: Question | None = None
    quit: bool = False


@dataclass(frozen=True)
class Question:
    """Asked back; each answer stands for lines that are then executed."""

    words: str
    answers: dict[str, list[str]]
