"""The report of ``minivllm bench gpu``: a Markdown file to read, a JSON file to keep."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from minivllm import __version__
from minivllm.bench.gpu.check import Check


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    facts: dict[str, Any] = {
        "minivllm": __version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["compute_capability"] = f"{properties.major}.{properties.minor}"
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
        try:
            facts["triton"] = version("triton")
        except PackageNotFoundError:
            facts["triton"] = None
    return facts


def as_markdown(facts: dict[str, Any], checks: list[Check]) -> str:
    lines = ["# minivllm on a GPU", ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    if facts["device"] != "cuda":
        lines += ["", "**A rehearsal without a GPU: it shows that the command runs, and no more.**"]
    lines += ["", "| check | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {c.name} | {c.state} | {c.seconds:.1f} |" for c in checks]
    for check in checks:
        lines += ["", f"## {check.name}: {check.state}", ""]
        if check.words:
            lines += [_fenced(check.words) if "\n" in check.words else check.words, ""]
        lines += _table(check.rows)
    return "\n".join(lines).rstrip() + "\n"


def _fenced(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [" | ".join(_cell(row.get(head, "")) for head in heads) for row in rows]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {row} |" for row in body)]


def _cell(value: object) -> str:
    text = f"{value:.2g}" if isinstance(value, float) and abs(value) < 0.01 else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def write(path: Path, facts: dict[str, Any], checks: list[Check]) -> Path:
    """``path`` gets the Markdown; the JSON lies beside it, whose path is returned."""
    path.write_text(as_markdown(facts, checks))
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({**facts, "checks": [c.as_json() for c in checks]}, indent=1))
    return beside
