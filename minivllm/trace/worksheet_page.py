"""A worksheet as HTML to be printed: each sheet on one page of A4, across.

The print shrinks until a sheet fits, down to ``SMALLEST_PT``; what does not fit then is refused,
with the number of steps that would. How much room a table takes is reckoned from the letters in
it; ``tests/viz`` has a browser count the pages. One ``<style>`` and no script, so that a server can
name it in its policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from minivllm.errors import ConfigError
from minivllm.trace.words import count
from minivllm.trace.worksheet import ASKED, COLUMNS, LEGEND, Sheet, cells
from minivllm.trace.worksheet_text import heading, scenario_table

WIDTH_PT, HEIGHT_PT = 780, 532
"""A4 across, less 10 mm at each edge and a little."""
LARGEST_PT, SMALLEST_PT = 10.0, 6.5
"""Smaller is not read any more, and nobody can write between the lines."""
LINE = 1.3
LETTER = 0.53
"""Width of a letter, in its height; a little more than the mean of the usual sans-serif fonts."""
PADDING = 1.0
"""Left and right of a cell together, in heights of a letter."""

STYLE = """
@page { size: A4 landscape; margin: 10mm; }
* { box-sizing: border-box; margin: 0; }
body { font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #000; background: #fff; }
section { break-after: page; break-inside: avoid; max-width: 277mm; margin: 0 auto; }
section:last-of-type { break-after: auto; }
h1 { font-size: 1.4em; }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 2em; }
header p { white-space: nowrap; }
p { margin: 0.4em 0; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; margin: 0.5em 0; }
th, td { border: 0.75pt solid #555; padding: 0.1em 0.5em; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
thead th { overflow-wrap: normal; background: #e8e8e8;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tbody th { font-weight: 600; }
.scenario { width: auto; table-layout: auto; }
.scenario td, .scenario th { border-width: 0 0 0.75pt; }
@media screen { body { padding: 8mm; } section { margin-bottom: 12mm; } }
"""


@dataclass(frozen=True, slots=True)
class Fit:
    size_pt: float
    widths: list[float]
    """Of the table's columns, in shares of its width."""
    row_pt: float
    """A blank row is at least as high: what the page has left is room to write."""


def sheet_page(sheet: Sheet, sheets: Sequence[bool], asked: Sequence[str] = ASKED) -> str:
    """One HTML document; ``sheets``: for each page whether it is a blank one.

    Raises ConfigError where the steps do not fit on a page.
    """
    fit = fitted(sheet)
    columns = "".join(
        f".steps th:nth-child({i}) {{ width: {100 * share:.2f}%; }}\n"
        for i, share in enumerate(fit.widths, start=1)
    )
    style = (
        f"{STYLE}body {{ font-size: {fit.size_pt}pt; line-height: {LINE}; }}\n"
        f".blank tbody tr {{ height: {fit.row_pt:.1f}pt; }}\n{columns}"
    )
    body = "\n".join(_section(sheet, blank, asked) for blank in sheets)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(sheet.title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def style_of(page: str) -> str:
    """The text of its ``<style>``, for a policy that names it by its hash."""
    return page.partition("<style>")[2].partition("</style>")[0]


def _section(sheet: Sheet, blank: bool, asked: Sequence[str]) -> str:
    field = "Name ______________________ &nbsp; Date ______________" if blank else ""
    knobs = " · ".join(sheet.knobs)
    before = "".join(
        f"<p>Before step {sheet.rows[0].step}, {escape(line)}</p>" for line in sheet.before
    )
    arrived = _table("scenario", *scenario_table(sheet.arrivals)) if sheet.arrivals else ""
    filled = [cells(row) for row in sheet.rows]
    shown = [["" if blank and c in asked else row[c] for c in COLUMNS] for row in filled]
    return (
        f"<section><header><h1>{escape(heading(sheet, blank))}</h1><p>{field}</p></header>\n"
        f"<p>{escape(knobs)}.</p>\n{arrived}\n{before}"
        f"{_table('steps blank' if blank else 'steps', list(COLUMNS.values()), shown)}\n"
        f"<p>{escape(LEGEND)}</p></section>"
    )


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(i: int, text: str) -> str:
        return f'<th scope="row">{escape(text)}</th>' if not i else f"<td>{escape(text)}</td>"

    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(
        f"<tr>{''.join(cell(i, text) for i, text in enumerate(row))}</tr>\n" for row in rows
    )
    return f'<table class="{name}"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>'


# --- how it fits -------------------------------------------------------------------------------


def fitted(sheet: Sheet) -> Fit:
    """The largest print in which the sheet is one page high. Raises ConfigError."""
    table = [list(COLUMNS.values()), *(list(cells(row).values()) for row in sheet.rows)]
    size = LARGEST_PT
    while size >= SMALLEST_PT:
        widths = _widths(table, size)
        lines = [_lines(row, widths, size) for row in table]
        free = HEIGHT_PT - _above(sheet, size) - _height(lines[0], size)
        if sum(_height(n, size) for n in lines[1:]) <= free:
            shares = [width / sum(widths) for width in widths]
            return Fit(size, shares, free / len(sheet.rows))
        size -= 0.25
    size = SMALLEST_PT
    least = [_height(n, size) for n in lines[1:]]
    most, used = 0, 0.0
    while most < len(least) and used + least[most] <= free:
        used += least[most]
        most += 1
    steps = count(len(sheet.rows), "step")
    if not most:
        raise ConfigError(
            "worksheet",
            f"{count(len(sheet.arrivals), 'request')} and {steps}",
            f"what fits on a page of A4 at {SMALLEST_PT} pt: its list of requests alone does not; "
            "end at an early step (--to), or make it as text, which has no pages (-o FILE.md)",
        )
    first = sheet.rows[0].step
    raise ConfigError(
        "worksheet",
        steps,
        f"what fits on a page of A4 at {SMALLEST_PT} pt: here about {most}, such as {first} to "
        f"{first + most - 1} (--from, --to); or as text, which has no pages (-o FILE.md)",
    )


def _as_bold(heading: str) -> str:
    """A heading's words, each as long as its bold letters are wide: none is to be broken."""
    return " ".join(word + "m" * (1 + math.ceil(len(word) / 4)) for word in heading.split())


def _widths(table: list[list[str]], size: float) -> list[float]:
    """Of each column, in points: its longest word, and of the rest a share by what stands in it."""
    letter = LETTER * size
    bold = [_as_bold(heading) for heading in table[0]]
    columns = list(zip(bold, *table[1:], strict=True))
    least = [max(len(word) for cell in c for word in cell.split() or [""]) for c in columns]
    whole = [max(map(len, c)) for c in columns]
    room = (WIDTH_PT - len(columns) * PADDING * size) / letter
    wish = [w - n for w, n in zip(whole, least, strict=True)]
    rest = room - sum(least)
    share = rest / max(sum(wish), 1)
    return [(n + w * share) * letter + PADDING * size for n, w in zip(least, wish, strict=True)]


def _lines(row: list[str], widths: list[float], size: float) -> int:
    """Lines are broken between words: a tenth of each is lost."""
    room = [(width - PADDING * size) / (LETTER * size) for width in widths]
    return max(
        1 if len(cell) <= n else math.ceil(1.1 * len(cell) / max(n, 1))
        for cell, n in zip(row, room, strict=True)
    )


def _height(lines: int, size: float) -> float:
    return lines * LINE * size + 0.2 * size + 0.75


def _above(sheet: Sheet, size: float) -> float:
    """Heading, knobs, who arrives, the state before, and the legend below."""
    letters = WIDTH_PT / (LETTER * size)
    paragraphs = [" · ".join(sheet.knobs), *sheet.before, LEGEND]
    text = sum(math.ceil(1.05 * len(p) / letters) * LINE * size + 0.8 * size for p in paragraphs)
    requests = _scenario_height(sheet, size)
    return 1.4 * LINE * size + text + requests + 2.0 * size


def _scenario_height(sheet: Sheet, size: float) -> float:
    """As wide as it needs to be; where the page is narrower, the longest columns break."""
    if not sheet.arrivals:
        return 0.0
    head, rows = scenario_table(sheet.arrivals)
    table = [[name + "m" * math.ceil(len(name) / 4) for name in head], *rows]
    natural = [
        max(map(len, column)) * LETTER * size + PADDING * size
        for column in zip(*table, strict=True)
    ]
    widths = natural if sum(natural) <= WIDTH_PT else _widths(table, size)
    return sum(_height(_lines(row, widths, size), size) for row in table)
