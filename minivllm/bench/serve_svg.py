"""A run of ``bench serve`` as a picture: an SVG without a library.

On top every request as a line over time, below it how many were under way and how fast tokens
came, at the bottom how the four latencies are distributed. As in ``kv_waste_svg.py`` what is useful
is the only colour, and lightness alone tells the rest apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from minivllm.bench.serve_metrics import METRICS, Record, Report, percentile, under_way

WIDTH, MARGIN, LEFT, RIGHT = 920, 24, 72, 24  # px
LINES_TOP, LINES_HEIGHT = 92, 260
LOAD_TOP, LOAD_HEIGHT = 400, 90
CDF_TOP, CDF_HEIGHT, CDF_WIDTH, CDF_GAP = 560, 130, 196, 29
HEIGHT = 748
INK, DIM, GRID, BLUE = "#1f2933", "#616e7c", "#e4e7eb", "#2b6cb0"
WAIT, THINK = "#cbd2d9", "#7b8794"
SLICES = 60  # of the run, for the rate of tokens


def draw(title: str, records: list[Record], report: Report) -> str:
    """The SVG's text. Times of requests that were cut off end with the run."""
    end = max(report.duration, 1e-9)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(MARGIN, 28, title, size=18),
        _text(MARGIN, 48, _summary(report), DIM, size=12),
        *_legend(),
        *_lines(records, end),
        *_load(records, end),
        *_distributions(records),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'font-family="system-ui, sans-serif">\n{body}\n</svg>\n'
    )


def _summary(report: Report) -> str:
    failed = sum(report.failed.values())
    return (
        f"{report.completed} completed, {failed} failed in {report.duration:.1f} s · "
        f"{report.request_throughput:.2f} requests/s · "
        f"{report.output_throughput:.0f} output tokens/s · "
        f"{report.concurrency_mean:.1f} under way on average, {report.concurrency_max} at most"
    )


def _legend() -> Iterable[str]:
    x = float(MARGIN)
    for words, colour in (
        ("due, not sent yet", WAIT),
        ("until the first token", THINK),
        ("tokens come", BLUE),
        ("failed or cut off", INK),
    ):
        yield f'<rect x="{x:.0f}" y="64" width="18" height="6" fill="{colour}"/>'
        yield _text(x + 24, 71, words, DIM, size=12)
        x += 50 + 6.1 * len(words)


def _lines(records: list[Record], end: float) -> Iterable[str]:
    """One line a request, the first at the top."""
    scale = (WIDTH - LEFT - RIGHT) / end
    row = min(LINES_HEIGHT / max(len(records), 1), 8.0)
    paths: dict[str, list[str]] = {WAIT: [], THINK: [], BLUE: [], INK: []}

    def line(colour: str, y: float, begin: float, finish: float) -> None:
        width = max((finish - begin) * scale, 0.0)
        if width:
            paths[colour].append(f"M{LEFT + begin * scale:.1f} {y:.2f}h{width:.2f}")

    for number, record in enumerate(records):
        y = LINES_TOP + (number + 0.5) * row
        finish = end if record.end is None else record.end
        sent = finish if record.sent is None else record.sent
        line(WAIT, y, record.planned, sent)
        if record.failure is not None:
            line(INK, y, sent, max(finish, sent + 2 / scale))
        else:
            line(THINK, y, sent, record.chunks[0])
            line(BLUE, y, record.chunks[0], record.chunks[-1])
    for colour, path in paths.items():
        if path:
            yield (
                f'<path d="{"".join(path)}" stroke="{colour}" '
                f'stroke-width="{max(row * 0.8, 0.4):.2f}" fill="none"/>'
            )
    yield _text(MARGIN, LINES_TOP + 10, "request", DIM, size=11)
    yield from _time_axis(LINES_TOP + LINES_HEIGHT, end)


def _load(records: list[Record], end: float) -> Iterable[str]:
    """Requests under way as a step line; tokens per second as an area."""
    bottom, scale = LOAD_TOP + LOAD_HEIGHT, (WIDTH - LEFT - RIGHT) / end
    counts = [0.0] * SLICES
    for record in records:
        if record.chunks:
            each = max(record.output_tokens, len(record.chunks)) / len(record.chunks)
            for at in record.chunks:
                counts[min(int(at / end * SLICES), SLICES - 1)] += each
    top = max(counts) or 1.0
    width = (WIDTH - LEFT - RIGHT) / SLICES
    for number, count in enumerate(counts):
        tall = count / top * LOAD_HEIGHT
        if tall:
            yield (
                f'<rect x="{LEFT + number * width:.1f}" y="{bottom - tall:.1f}" '
                f'width="{width:.2f}" height="{tall:.1f}" fill="{BLUE}" fill-opacity="0.28"/>'
            )
    steps = under_way(records, end)
    most = max((n for _, n in steps), default=0)
    path = [f"M{LEFT} {bottom}"]
    for at, now in steps:
        y = bottom - now / max(most, 1) * LOAD_HEIGHT
        path.append(f"H{LEFT + min(at, end) * scale:.1f}V{y:.1f}")
    yield f'<path d="{"".join(path)}" stroke="{INK}" fill="none"/>'
    yield _text(MARGIN, LOAD_TOP - 10, f"— requests under way, at most {most}", INK, size=12)
    peak = f"■ output tokens per second, at most {top * SLICES / end:.0f}"
    yield _text(MARGIN + 240, LOAD_TOP - 10, peak, BLUE, size=12)
    yield from _time_axis(bottom, end)


def _time_axis(y: float, end: float) -> Iterable[str]:
    yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GRID}"/>'
    for part in range(5):
        x = LEFT + part / 4 * (WIDTH - LEFT - RIGHT)
        yield _text(x, y + 16, f"{end * part / 4:.3g} s", DIM, size=11, anchor="middle")


def _distributions(records: list[Record]) -> Iterable[str]:
    """For each latency the share of values that are at most x."""
    done = [r for r in records if r.done]
    values: dict[str, list[float]] = {
        "ttft": [r.ttft for r in done],
        "tpot": [t for r in done if (t := r.tpot) is not None],
        "itl": [gap for r in done for gap in r.itl],
        "e2el": [r.e2el for r in done],
    }
    for number, (name, words) in enumerate(METRICS.items()):
        x, bottom = MARGIN + number * (CDF_WIDTH + CDF_GAP), CDF_TOP + CDF_HEIGHT
        yield _text(x, CDF_TOP - 14, words, size=13)
        yield f'<path d="M{x} {CDF_TOP}V{bottom}H{x + CDF_WIDTH}" stroke="{GRID}" fill="none"/>'
        ordered = [1e3 * v for v in sorted(values[name])]  # ms
        if not ordered:
            yield _text(x + 8, bottom - 8, "none", DIM, size=12)
            continue
        widest = percentile(ordered, 99) * 1.1 or 1.0  # the last percent may be far out
        path = []
        for share in range(101):
            at = min(percentile(ordered, share) / widest, 1.0)
            path.append(f"{x + at * CDF_WIDTH:.1f} {bottom - share / 100 * CDF_HEIGHT:.1f}")
        yield f'<path d="M{"L".join(path)}" stroke="{BLUE}" stroke-width="2" fill="none"/>'
        for place, p in enumerate((50, 95, 99)):
            at = percentile(ordered, p)
            mark = (
                f'cx="{x + at / widest * CDF_WIDTH:.1f}" cy="{bottom - p / 100 * CDF_HEIGHT:.1f}"'
            )
            yield f'<circle {mark} r="3" fill="{INK}"/>'
            yield _text(x, bottom + 18 + 15 * place, f"p{p}  {at:.4g} ms", DIM, size=12)


def _text(
    x: float, y: float, words: str, fill: str = INK, size: int = 13, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
