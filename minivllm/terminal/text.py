"""Lines that fit a terminal: what a model says is shown as text, never obeyed as control codes.

Widths are counted in cells: a CJK character or an emoji takes two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

_SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\x1b": "␛", "\x7f": "␡"}


def clean(text: str) -> str:
    """Line breaks as ⏎; no other character that moves the cursor or hides.

    Joiners and variation selectors go, too: terminals disagree about how wide they make a
    character, and one wrong cell would push the rest of the line aside.
    """
    return "".join(_clean_char(c) for c in text)


def _clean_char(char: str) -> str:
    if char in _SHOWN:
        return _SHOWN[char]
    category = unicodedata.category(char)
    if category == "Cc":
        return chr(0x2400 + ord(char)) if ord(char) < 32 else "·"
    if category in ("Cf", "Cs", "Zl", "Zp") or 0xFE00 <= ord(char) <= 0xFE0F:
        return ""
    return char


def tail(text: str, width: int) -> str:
    """The end of a text in at most ``width`` cells, with … where it was cut."""
    if cell_len(text) <= width:
        return text
    kept: list[str] = []
    used = 1  # the …
    for char in reversed(text):
        used += cell_len(char)
        if used > width:
            break
        kept.append(char)
    return ("…" + "".join(reversed(kept))) if width > 0 else ""


def fit(line: Text, width: int) -> Text:
    """Exactly ``width`` cells: cut with … or padded."""
    line = line.copy()
    line.truncate(max(width, 0), overflow="ellipsis", pad=True)
    return line


def within(lines: list[Text], width: int) -> list[Text]:
    """Each in at most ``width`` cells."""
    return [line if line.cell_len <= width else fit(line, width) for line in lines]


def wrap(text: str, width: int, most: int, style: str = "") -> list[Text]:
    """Words over at most ``most`` lines; what does not fit ends in …"""
    lines: list[str] = []
    rest = text.split()
    while rest and len(lines) < most:
        line = rest.pop(0)
        while rest and cell_len(line) + 1 + cell_len(rest[0]) <= width:
            line += " " + rest.pop(0)
        lines.append(line)
    if rest:
        lines[-1] += " …" if cell_len(lines[-1]) + 2 <= width else "…"
    return [Text(line, style=style) for line in lines]


def flow(head: Text, pieces: Sequence[Text], width: int, most: int, gap: str = "  ") -> list[Text]:
    """Pieces one after the other, over at most ``most`` lines; how many did not fit is said."""
    lines = [head]
    for shown, piece in enumerate(pieces):
        left = len(pieces) - shown
        more = f"{gap}… {left} more"
        last = len(lines) == most
        room = width - (len(more) if last and left > 1 else 0)
        if lines[-1].cell_len + len(gap) + piece.cell_len > room:
            if last:
                lines[-1] = fit(lines[-1], min(lines[-1].cell_len, width - len(more)))
                lines[-1].append(more, style="dim")
                break
            lines.append(Text(" " * head.cell_len))
        lines[-1].append(gap).append_text(piece)
    return [fit(line, width) for line in lines]


def beside(columns: list[tuple[list[Text], int]], height: int, gap: str = " │ ") -> list[Text]:
    """Columns of lines (each with its width) as ``height`` whole lines."""
    rows: list[Text] = []
    for i in range(height):
        row = Text()
        for number, (lines, width) in enumerate(columns):
            if number:
                row.append(gap, style="dim")
            row.append_text(fit(lines[i] if i < len(lines) else Text(), width))
        rows.append(row)
    return rows


def columns(head: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[Text]:
    """A table as lines; numbers stand at the right. Each line has at most ``width`` cells."""
    cells = [[c if isinstance(c, Text) else Text(clean(str(c))) for c in row] for row in rows]
    wide = [max([cell_len(h), *(row[i].cell_len for row in cells)]) for i, h in enumerate(head)]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] == "" for row in rows)
        for i in range(len(head))
    ]
    lines = []
    for n, row in enumerate([[Text(h, style="dim") for h in head], *cells]):
        line = Text()
        for i, cell in enumerate(row):
            pad = " " * (wide[i] - cell.cell_len)
            line.append(pad if right[i] else "").append_text(cell)
            line.append("" if right[i] else pad).append("  ")
        line.rstrip()
        if line.cell_len > width:
            line = fit(line, width)
        if n or any(head):
            lines.append(line)
    return lines
