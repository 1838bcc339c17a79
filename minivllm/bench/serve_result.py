"""What ``bench serve`` tells: tables for the terminal, and JSON with every number taken."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minivllm import __version__
from minivllm.bench.serve import Outcome
from minivllm.bench.serve_metrics import METRICS, PERCENTILES, Distribution, Record, Report
from minivllm.bench.serve_settings import Settings

RESULT_VERSION = 1


def tables(settings: Settings, outcome: Outcome, report: Report, shown: Collection[str]) -> Group:
    """Everything for people. ``shown``: which latencies."""
    parts: list[Any] = [_totals(report), Text(), _latencies(report, shown)]
    if report.failed:
        parts += [Text(), _failures(outcome.records)]
    return Group(*parts, Text(), Text(_notes(settings, outcome, report), style="dim"))


def _totals(report: Report) -> Table:
    table = _table("load", "total", "per second")
    failed = sum(report.failed.values())
    rows = [
        ("requests completed", f"[bold]{report.completed}[/]", f"{report.request_throughput:.2f}"),
        ("requests failed", f"{failed}", ""),
        ("prompt tokens", f"{report.prompt_tokens:,}", ""),
        ("output tokens", f"{report.output_tokens:,}", f"[bold]{report.output_throughput:.1f}[/]"),
        (
            "all tokens",
            f"{report.prompt_tokens + report.output_tokens:,}",
            f"{report.total_throughput:.1f}",
        ),
    ]
    if report.cached_tokens:
        share = report.cached_tokens / report.prompt_tokens
        rows.insert(3, ("  of them cached", f"{report.cached_tokens:,}", f"({share:.0%})"))
    if report.interrupted:
        rows.insert(2, ("requests cut off", f"{report.interrupted}", ""))
    if report.goodput is not None:
        rows.append(("  within the limits", "", f"{report.goodput:.2f}"))
    rows.append(("duration", f"{report.duration:.2f} s", ""))
    rows.append(
        ("under way", f"{report.concurrency_mean:.1f} (mean)", f"{report.concurrency_max} (most)")
    )
    for row in rows:
        table.add_row(*row)
    return table


def _latencies(report: Report, shown: Collection[str]) -> Table:
    headings = ("n", "mean", *(f"p{p}" for p in PERCENTILES))
    table = _table("latency, ms", *headings)
    for name in METRICS:
        if name not in shown:
            continue
        found = report.latencies[name]
        if found is None:
            table.add_row(METRICS[name], "0", *["–"] * (1 + len(PERCENTILES)))
            continue
        values = (found.mean, *found.percentiles.values())
        table.add_row(METRICS[name], f"{found.count}", *(f"{1e3 * v:.2f}" for v in values))
    return table


def _failures(records: list[Record]) -> Table:
    """By kind, each with what the first one said."""
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.failure is not None and record.failure.kind != "interrupted":
            by_kind[record.failure.kind].append(record)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("failed by")
    table.add_column("n", justify="right")
    table.add_column("the first one said", overflow="fold")
    for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        failure = found[0].failure
        assert failure is not None
        said = failure.message
        if failure.retry_after_s is not None:
            said += f" (Retry-After: {failure.retry_after_s:g} s)"
        table.add_row(kind, f"{len(found)}", Text(said))
    return table


def _notes(settings: Settings, outcome: Outcome, report: Report) -> str:
    late = report.sent_late
    if settings.loads_by_rate:
        told = "Latency counts from each request's planned start, also while it waited to be sent"
        if late is not None:
            mean, p99 = 1e3 * late.mean, 1e3 * late.percentiles[99]
            told += f" (sent {mean:.1f} ms late on average, p99 {p99:.1f} ms)"
    else:
        told = "No rate was given: latency counts from the moment a request's turn came"
    counted = report.counted_by
    if counted.get("chunks"):
        told += (
            f".\nTokens: for {counted['chunks']} requests the server sent no usage: there a chunk "
            "is taken for a token, and the prompt is as long as it was asked for"
        )
    elif counted:
        told += ".\nTokens: as the server counted them (usage)"
    if outcome.interrupted:
        told += ".\nInterrupted: this is what was measured so far"
    return told + "."


def _table(title: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(title, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def as_json(settings: Settings, model: str, outcome: Outcome, report: Report) -> dict[str, Any]:
    """All raw numbers, what was asked for, and what ran. Times in seconds but where a name says
    ``_ms``; the summary's names are vLLM's."""
    summary: dict[str, Any] = {
        "duration": report.duration,
        "completed": report.completed,
        "failed": sum(report.failed.values()),
        "failed_by_kind": report.failed,
        "interrupted": report.interrupted,
        "total_input_tokens": report.prompt_tokens,
        "total_cached_tokens": report.cached_tokens,
        "total_output_tokens": report.output_tokens,
        "tokens_counted_by": report.counted_by,
        "request_throughput": report.request_throughput,
        "request_goodput": report.goodput,
        "output_throughput": report.output_throughput,
        "total_token_throughput": report.total_throughput,
        "mean_concurrent_requests": report.concurrency_mean,
        "max_concurrent_requests": report.concurrency_max,
    }
    for name, found in report.latencies.items():
        summary |= _milliseconds(name, found)
    summary |= _milliseconds("sent_late", report.sent_late)
    return {
        "result_version": RESULT_VERSION,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "minivllm": __version__,
            "python": platform.python_version(),
            "aiohttp": version("aiohttp"),
        },
        "model": model,
        "settings": settings.told(),
        "latency_from": "planned start" if settings.loads_by_rate else "turn",
        "interrupted": outcome.interrupted,
        "summary": summary,
        "requests": [_request(record) for record in outcome.records],
    }


def _milliseconds(name: str, found: Distribution | None) -> dict[str, float | None]:
    told = {f"mean_{name}_ms": None if found is None else 1e3 * found.mean}
    for p in PERCENTILES:
        told[f"p{p}_{name}_ms"] = None if found is None else 1e3 * found.percentiles[p]
    return told


def _request(record: Record) -> dict[str, Any]:
    told = asdict(record)
    if record.done:
        told |= {"ttft": record.ttft, "tpot": record.tpot, "e2el": record.e2el}
    return told
