"""Profiles as a picture: a stacked bar for each kind of step, an SVG without a library.

A bar has a scale of its own: a decode takes milliseconds, a prompt hundreds of them. As in
``serve_svg.py`` colour is what is useful, here the model's own work; the engine around it is grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from minivllm.bench.profile import STAGES, Kind, Least, Profile, words
from minivllm.bench.timers import BETWEEN, REST

WIDTH, MARGIN, TOP, ROW, BAR = 920, 24, 92, 84, 30  # px
LEGEND_ROW, LEGEND_WORDS, COLUMN = 20, 300, 150  # px
NARROWEST = 46  # px of a part that has its milliseconds written in it
INK, DIM, GRID = "#1f2933", "#616e7c", "#e4e7eb"
FILLS = {
    "schedule": "#3e4c59",
    "plan": "#7b8794",
    "embedding": "#bee3f8",
    "before": "#63b3ed",
    "before_products": "url(#light)",
    "attention": "#1a365d",
    "after": "#2b6cb0",
    "after_products": "url(#dark)",
    "head": "#90cdf4",
    "sampler": "#52606d",
    "outputs": "#9aa5b1",
    REST: "#cbd2d9",
    BETWEEN: "#ffffff",
}
DARK = {"schedule", "plan", "attention", "after", "after_products", "sampler"}
"""Fills on which white is read."""


@dataclass(frozen=True, slots=True)
class Bar:
    profile: Profile
    kind: Kind
    least: Least


def draw(title: str, facts: Sequence[str], bars: Sequence[Bar]) -> str:
    """The SVG's text. ``facts``: lines below the title, of how and when it was measured."""
    top = TOP + 17 * (len(facts) - 1)
    legend = top + ROW * len(bars) + 34
    shown = [s for s in STAGES if any(bar.kind.ns.get(s) for bar in bars)]
    height = legend + LEGEND_ROW * (len(shown) + 1) + 16
    parts = [
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 28, title, size=18),
        *(_text(MARGIN, 48 + 17 * i, line, DIM, size=12) for i, line in enumerate(facts)),
    ]
    for number, bar in enumerate(bars):
        parts += _bar(bar, top + ROW * number)
    parts += _legend(bars, shown, legend)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'font-family="system-ui, sans-serif">\n{_DEFINITIONS}\n{body}\n</svg>\n'
    )


def _bar(bar: Bar, y: float) -> Iterable[str]:
    """A line of words, the bar, and below it the roofline's mark."""
    kind, least = bar.kind, bar.least
    scale = (WIDTH - 2 * MARGIN) / (max(kind.total_ms, least.ms) or 1)  # px per ms
    tokens = per_step(kind)
    steps = f"{kind.num_steps:,} step{'s' * (kind.num_steps != 1)}"
    yield _text(
        MARGIN, y + 8, f"{bar.profile.workload} {kind.name}: {number(kind.total_ms)} ms a step"
    )
    told = f"{bar.profile.title} · {steps} of {tokens} token{'s' * (tokens != '1')}"
    yield _text(WIDTH - MARGIN, y + 8, told, DIM, size=12, anchor="end")
    x, y, at = float(MARGIN), y + 16, MARGIN + least.ms * scale
    for stage in STAGES:
        ms = kind.ms(stage)
        width = ms * scale
        if not ms:
            continue
        tip = f"<title>{escape(words(stage, [bar.profile]))}: {number(ms)} ms</title>"
        yield (
            f'<rect class="{stage}" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{BAR}" '
            f'fill="{FILLS[stage]}" stroke="{DIM}" stroke-width="0.4">{tip}</rect>'
        )
        left, right = x, x + width
        if left < at < right:  # the number stands on the larger side of the mark
            left, right = (left, at) if at - left > right - at else (at, right)
        if right - left >= NARROWEST:
            ink = "#ffffff" if stage in DARK else INK
            yield _text((left + right) / 2, y + 20, number(ms), ink, size=12, anchor="middle")
        x += width
    for colour, width in (("#ffffff", 5), (INK, 2)):  # seen on dark parts, too
        mark = f'stroke="{colour}" stroke-width="{width}"'
        yield f'<path d="M{at:.1f} {y - 3}V{y + BAR + 8}" {mark}/>'
    share = f"{least.ms / kind.total_ms:.0%} of the step" if kind.total_ms else "no step"
    said = f"roofline {number(least.ms)} ms, {share}: {least.why}"
    first_half = at < WIDTH / 2
    anchor = "start" if first_half else "end"
    yield _text(at + (6 if first_half else -6), y + BAR + 14, said, INK, size=11, anchor=anchor)


def _legend(bars: Sequence[Bar], shown: Sequence[str], y: float) -> Iterable[str]:
    """A row a stage, a column a bar: milliseconds of a step, and their share of it."""
    column = min(COLUMN, (WIDTH - 2 * MARGIN - LEGEND_WORDS) / max(len(bars), 1))
    ends = [MARGIN + LEGEND_WORDS + column * (i + 1) for i in range(len(bars))]
    size = 12 if column > 90 else 10
    yield _text(MARGIN, y, "exclusive, ms a step and share", DIM, size=12)
    for end, bar in zip(ends, bars, strict=True):
        yield _text(end, y - 16, bar.profile.workload, DIM, size=size, anchor="end")
        yield _text(end, y, bar.kind.name, DIM, size=size, anchor="end")
    profiles = [bar.profile for bar in bars]
    for row, stage in enumerate(shown, start=1):
        at = y + row * LEGEND_ROW
        yield f'<path d="M{MARGIN} {at - 14}H{ends[-1]:.1f}" stroke="{GRID}"/>'
        yield (
            f'<rect x="{MARGIN}" y="{at - 10}" width="12" height="12" fill="{FILLS[stage]}" '
            f'stroke="{DIM}" stroke-width="0.75"/>'
        )
        yield _text(MARGIN + 18, at, words(stage, profiles), size=12)
        for end, bar in zip(ends, bars, strict=True):
            yield _text(end - 4 * size, at, number(bar.kind.ms(stage)), size=size, anchor="end")
            share = f"{100 * bar.kind.share(stage):.1f} %"
            yield _text(end, at, share, DIM, size=size, anchor="end")


def number(value: float) -> str:
    """Three digits that count: 0.042, 1.53, 12.3, 1,234."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def per_step(kind: Kind) -> str:
    """Tokens."""
    return f"{kind.num_tokens / kind.num_steps:,.1f}".removesuffix(".0")


_DEFINITIONS = """<defs>
<pattern id="light" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)">
<rect width="6" height="6" fill="#63b3ed"/><rect width="2" height="6" fill="#bee3f8"/></pattern>
<pattern id="dark" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)">
<rect width="6" height="6" fill="#2b6cb0"/><rect width="1.5" height="6" fill="#1a365d"/></pattern>
</defs>"""


def _text(
    x: float, y: float, said: str, fill: str = INK, size: int = 13, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(said)}</text>"
    )
