"""The table of ``kv_waste.py`` as a picture: one bar for each system, an SVG without a library.

Fills differ in lightness and hatch, so that the picture reads in grey, too; what is useful is the
only colour.
"""

from __future__ import annotations

from html import escape

from minivllm.bench.kv_waste import PAPER, PAPER_BEFORE, PAPER_PAGED, Waste

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 920, 224, 40, 96, 54, 30  # px
MARGIN = 24  # px: where title, legend and labels begin
PARTS = (  # field, words, fill
    ("token_states", "token states", "#2b6cb0"),
    ("reserved", "reserved for later tokens", "#9aa5b1"),
    ("never_used", "never used (internal)", "url(#hatch)"),
    ("scattered", "free, scattered (external)", "url(#dots)"),
    ("too_few", "free, too few for who waits", "#ffffff"),
)
INK, DIM = "#1f2933", "#616e7c"


def draw(rows: list[Waste]) -> str:
    """The SVG's text."""
    scale = (WIDTH - LEFT - RIGHT) / 100  # px per %
    bottom = TOP + ROW * len(rows)
    parts = [_text(MARGIN, 28, "What the KV memory holds while somebody waits for it", size=18)]
    x = float(MARGIN)
    for _, words, fill in PARTS:
        parts.append(_box(x, 48, 12, 12, fill))
        parts.append(_text(x + 18, 58, words, DIM, size=12))
        x += 44 + 6.1 * len(words)
    for percent in range(0, 101, 20):
        at = LEFT + percent * scale
        parts.append(f'<line x1="{at}" y1="{TOP - 8}" x2="{at}" y2="{bottom}" stroke="#e4e7eb"/>')
        parts.append(_text(at, bottom + 16, f"{percent} %", DIM, size=11, anchor="middle"))
    for number, row in enumerate(rows):
        y, x = TOP + number * ROW, float(LEFT)
        parts.append(_text(MARGIN, y + 20, row.system))
        for field, _, fill in PARTS:
            percent = 100 * getattr(row, field)
            parts.append(_box(x, y, percent * scale, BAR, fill))
            if field == "token_states":
                parts.append(_text(x + 8, y + 20, f"{percent:.0f} %", "#ffffff"))
            x += percent * scale
    parts += _paper(rows, scale, bottom)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 74}" '
        f'width="{WIDTH}" font-family="system-ui, sans-serif">\n{_DEFINITIONS}\n{body}\n</svg>\n'
    )


def _paper(rows: list[Waste], scale: float, bottom: int) -> list[str]:
    """Brackets under the bars: the paper's numbers, apart from what was measured."""
    parts: list[str] = []
    for number, row in enumerate(rows):
        low, high = PAPER_BEFORE if row.system != "paged" else (PAPER_PAGED, PAPER_PAGED)
        y = TOP + number * ROW + BAR + 6
        x1, x2 = LEFT + low * scale - (low == high), LEFT + high * scale + (low == high)
        parts.append(
            f'<path d="M{x1:.1f} {y - 4}V{y + 4}M{x1:.1f} {y}H{x2:.1f}M{x2:.1f} {y - 4}V{y + 4}" '
            f'stroke="{INK}" fill="none" stroke-width="1.5"/>'
        )
    told = (
        f"Bars: measured here, no model, lengths like ShareGPT's. Brackets: token states in {PAPER}"
    )
    parts.append(_text(MARGIN, bottom + 42, told, DIM, size=12))
    more = (
        f"({PAPER_BEFORE[0]} to {PAPER_BEFORE[1]} % in the systems before, {PAPER_PAGED} % paged; "
        "another workload and other systems)."
    )
    parts.append(_text(MARGIN, bottom + 59, more, DIM, size=12))
    return parts


_DEFINITIONS = """<defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)">
<rect width="6" height="6" fill="#e4e7eb"/><rect width="2" height="6" fill="#7b8794"/></pattern>
<pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" fill="#f5f7fa"/><circle cx="3" cy="3" r="1.2" fill="#7b8794"/></pattern>
</defs>
<rect width="100%" height="100%" fill="#ffffff"/>"""


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{fill}" '
        'stroke="#7b8794" stroke-width="0.75"/>'
    )


def _text(
    x: float, y: float, words: str, fill: str = INK, size: int = 13, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{fill}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
