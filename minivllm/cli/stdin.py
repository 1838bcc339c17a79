"""Prompts from standard input, for ``generate`` and ``chat``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from minivllm.errors import PromptError


def lines_of_stdin() -> Iterator[str]:
    """Line by line. Raises PromptError at bytes that are no text in the terminal's encoding."""
    try:
        for line in sys.stdin:
            yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"standard input is not {error.encoding} text: it holds the byte "
            f"0x{error.object[error.start]:02x}; convert it, as in `iconv -f latin1 -t utf-8`"
        ) from None
