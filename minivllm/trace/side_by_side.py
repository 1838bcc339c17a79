"""Two runs of one workload, side by side: the rows of the table that ``compare`` prints. Pure.

A row has A, B, their difference, and the cause where a cause is a sum over events that adds up to
the difference; else it is left empty: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minivllm.trace.metrics import Metrics, Milliseconds, Share, Spread
from minivllm.trace.words import join

Get = Callable[[Metrics], "float | None"]


@dataclass(frozen=True, slots=True)
class Row:
    """Cells as text, ready to be aligned; ``group`` is the heading it stands under."""

    group: str
    label: str
    a: str
    b: str
    difference: str
    because: str = ""


def rows(a: Metrics, b: Metrics) -> list[Row]:
    """All rows that say something: one that is 0 on both sides and need not be is left out."""
    table = _Table(a, b)
    table.add("Work", "steps", lambda m: m.steps)
    table.add("Work", "requests failed", lambda m: m.ended.get("error", 0), optional=True)
    table.add("Work", "output tokens", lambda m: m.output_tokens)
    table.add("Work", "tokens run", lambda m: m.tokens_run, _why_run(a, b))
    table.add("Work", "tokens reused", lambda m: m.tokens_reused, _why_reused(a, b))
    table.add("Work", "tokens run again after preemption", lambda m: m.again)
    table.add("Work", "tokens padded", lambda m: m.tokens_padded, optional=True)
    table.add("Work", "drafts run", lambda m: m.drafts_run, optional=True)
    table.add("Work", "drafts accepted", lambda m: m.drafts_accepted, optional=True)
    table.add("Throughput", "tokens out / step", lambda m: m.output_tokens_per_step)
    table.add("Throughput", "tokens out / s", _ms(lambda ms: ms.output_tokens_per_second))
    _waiting(table, a, b)
    table.add("Memory", "prefix hits", lambda m: m.prefix_hits)
    table.add("Memory", "preemptions", lambda m: len(m.preemptions), _victims(a, b))
    for label, field in (
        ("KV blocks taken", "taken"),
        ("KV holding tokens", "token_states"),
        ("KV taken, no token in it", "wasted"),
        ("KV free but scattered", "scattered"),
    ):
        optional = field == "scattered"
        table.share("Memory", f"{label}, mean", field, lambda s: s.mean, optional)
        table.share("Memory", f"{label}, max", field, lambda s: s.max, optional)
    table.percent("Budget", "budget used", lambda m: m.budget_use)
    for reason in dict.fromkeys([*a.unused_because, *b.unused_because]):
        ours, theirs = a.unused_because.get(reason, 0), b.unused_because.get(reason, 0)
        table.put("Budget", f"unused: {reason}", ours, theirs)
    return table.rows


def _waiting(table: _Table, a: Metrics, b: Metrics) -> None:
    why = _why_ttft(a, b)
    table.add("Waiting", "TTFT mean, steps", lambda m: m.ttft.mean if m.ttft else None, why)
    names = {"TTFT": "ttft", "TPOT": "tpot", "longest gap": "gap", "queue": "queue"}
    for name, field in names.items():
        for rank in ("p50", "p95"):
            for unit in ("steps", "ms"):
                values = [_rank(m.milliseconds if unit == "ms" else m, field, rank) for m in (a, b)]
                if values != [None, None]:
                    digits = 1 if unit == "ms" else 2
                    table.put(
                        "Waiting", f"{name} {rank}, {unit}", values[0], values[1], digits=digits
                    )


def _rank(source: Metrics | Milliseconds | None, field: str, rank: str) -> float | None:
    spread: Spread | None = getattr(source, field) if source else None
    value: float | None = getattr(spread, rank) if spread else None
    return value


class _Table:
    def __init__(self, a: Metrics, b: Metrics) -> None:
        self.a, self.b = a, b
        self.rows: list[Row] = []

    def add(
        self, group: str, label: str, get: Get, because: str = "", optional: bool = False
    ) -> None:
        a, b = get(self.a), get(self.b)
        if (a is None and b is None) or (optional and not a and not b):
            return
        self.put(group, label, a, b, because)

    def put(
        self,
        group: str,
        label: str,
        a: float | None,
        b: float | None,
        because: str = "",
        digits: int = 2,
    ) -> None:
        difference = "" if a is None or b is None else _signed(b - a, digits)
        cells = _number(a, digits), _number(b, digits), difference
        self.rows.append(Row(group, label, *cells, because))

    def percent(self, group: str, label: str, get: Get, optional: bool = False) -> None:
        a, b = get(self.a), get(self.b)
        if (a is None and b is None) or (optional and not a and not b):
            return
        difference = ""
        if a is not None and b is not None:
            difference = _signed(round(100 * b, 1) - round(100 * a, 1), digits=1)
        ours, theirs = ("–" if share is None else f"{share:.1%}" for share in (a, b))
        self.rows.append(Row(group, label, ours, theirs, difference))

    def share(
        self, group: str, label: str, field: str, get: Callable[[Share], float], optional: bool
    ) -> None:
        self.percent(
            group,
            label,
            lambda m: get(getattr(m.memory, field)) if m.memory else None,
            optional,
        )


def _ms(get: Callable[..., float]) -> Get:
    return lambda m: get(m.milliseconds) if m.milliseconds else None


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _signed(value: float, digits: int = 2) -> str:
    text = f"{value:+,}" if isinstance(value, int) else f"{value:+,.{digits}f}"
    return text.replace("-", "−") if value and float(text.replace(",", "")) else "0"


# --- causes ------------------------------------------------------------------------------------


def _why_run(a: Metrics, b: Metrics) -> str:
    """``tokens_run = needed − reused_first + again + drafts_in_vain``, term by term."""
    hits = a.reused_first - b.reused_first
    terms = (
        (hits, "no hit" if hits > 0 else "hit"),
        (b.again - a.again, "again"),
        (b.drafts_in_vain - a.drafts_in_vain, "drafts in vain"),
        (b.needed - a.needed, "to do"),
    )
    return ", ".join(f"{_signed(n)} {words}" for n, words in terms if n)


def _why_reused(a: Metrics, b: Metrics) -> str:
    """What was taken over is somebody else's work, or one's own from before a preemption."""
    first = b.reused_first - a.reused_first
    own = (b.tokens_reused - b.reused_first) - (a.tokens_reused - a.reused_first)
    terms = ((first, "of others"), (own, "of its own, after preemption"))
    return ", ".join(f"{_signed(n)} {words}" for n, words in terms if n)


def _victims(a: Metrics, b: Metrics) -> str:
    sides = [
        f"{name}: " + join([f"{p.req} in {p.step}" for p in metrics.preemptions], most=5)
        for name, metrics in (("A", a), ("B", b))
        if metrics.preemptions
    ]
    return "; ".join(sides)


def _why_ttft(a: Metrics, b: Metrics) -> str:
    """The requests whose own TTFT differs: their differences add up to n times that of the mean;
    and those whose is the same."""
    if a.by_request.keys() != b.by_request.keys():
        return ""
    parts: list[tuple[int, str]] = []
    same: list[str] = []
    for req, ours in a.by_request.items():
        first, second = ours.ttft, b.by_request[req].ttft
        if first is None or second is None:
            return ""
        if first != second:
            parts.append((second - first, req))
        else:
            same.append(req)
    if not parts:
        return ""
    parts.sort(key=lambda part: -abs(part[0]))
    shown = [f"{req} {_signed(n)}" for n, req in parts[:4]]
    if rest := parts[4:]:
        shown.append(f"{len(rest)} others {_signed(sum(n for n, _ in rest))}")
    return ", ".join(shown) + (f" ({join(same, most=4)} the same)" if same else "")
