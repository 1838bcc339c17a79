"""A worksheet as text: a table in Markdown whose columns are aligned, so that it is read as it is.

``worksheet.py`` makes the rows; ``worksheet_page.py`` is the same as a page to print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minivllm.trace.worksheet import ASKED, COLUMNS, LEGEND, Arrival, Sheet, cells

PROMPT_SHOWN = 100
"""Characters of a prompt: how it begins, for that is what another may share."""
TASK = "Name ____________________   Date ____________"


def sheet_text(sheet: Sheet, blank: bool, asked: Sequence[str] = ASKED) -> str:
    """The whole sheet; ``blank``: without what stands in the columns ``asked``."""
    parts = [f"# {heading(sheet, blank)}", ""]
    parts += [TASK, ""] if blank else []
    parts += [" · ".join(sheet.knobs) + ".", ""]
    head, rows = scenario_table(sheet.arrivals)
    parts += [*_table(head, rows), ""]
    parts += [f"Before step {sheet.rows[0].step}, {line}" for line in sheet.before]
    parts += [""] if sheet.before else []
    # A blank column is as wide as what belongs there, so that there is room to write.
    filled = [list(cells(row).values()) for row in sheet.rows]
    hidden = [blank and name in asked for name in COLUMNS]
    parts += [*_table(list(COLUMNS.values()), filled, hidden), "", LEGEND]
    return "\n".join(parts) + "\n"


def heading(sheet: Sheet, blank: bool) -> str:
    return f"{sheet.title}: {'what does each step do?' if blank else 'every step'}"


def scenario_table(arrivals: Sequence[Arrival]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of who arrives; a column in which nothing stands is left out."""
    table = {
        "request": [a.req for a in arrivals],
        "arrives in step": [str(a.arrives) for a in arrivals],
        "prompt": [shortened(a.prompt) for a in arrivals],
        "tokens": [str(a.tokens) for a in arrivals],
        "the same beginning": [a.shares for a in arrivals],
        "says tokens": [a.outputs for a in arrivals],
        "priority": [str(a.priority or "") for a in arrivals],
    }
    kept = {name: column for name, column in table.items() if any(column)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def shortened(prompt: str, most: int = PROMPT_SHOWN) -> str:
    text = prompt.replace("\n", "⏎")
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], hidden: Sequence[bool] = ()
) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    hidden = hidden or [False] * len(head)

    def line(parts: Iterable[str]) -> str:
        return "| " + " | ".join(f"{p:<{w}}" for p, w in zip(parts, widths, strict=True)) + " |"

    shown = [["" if hide else c for c, hide in zip(r, hidden, strict=True)] for r in rows]
    return [line(head), line("-" * w for w in widths), *map(line, shown)]
