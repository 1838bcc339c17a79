"""W1 to W4 of ``bench compare`` on the GPU, beside the engines that are installed here.

A GPU has room for one engine's pool only, so they cannot take turns within one life as on a CPU:
each is started, runs every workload a few times, and ends. The GPU should be otherwise idle.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from minivllm.bench.compare import WORKLOADS, Engine, Workload
from minivllm.bench.export import as_directory
from minivllm.bench.gpu.check import Check
from minivllm.errors import MiniVLLMError
from minivllm.models.source import resolve

PACKAGES = {"hf": "transformers", "vllm": "vllm", "nanovllm": "nanovllm"}
"""Peer → the package that must be there, in this very environment."""


def installed() -> list[str]:
    return [peer for peer, name in PACKAGES.items() if importlib.util.find_spec(name) is not None]


def throughput(
    check: Check,
    model: str,
    peers: Sequence[str] | None = None,
    workloads: Sequence[Workload] = WORKLOADS,
    trials: int = 3,
) -> None:
    """Median speed of each workload, and how many times as fast as the peer minivllm is. A peer
    that cannot run the model is told and left out."""
    source = resolve(model)
    speeds: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as logs:
        for peer in ["minivllm", *(installed() if peers is None else peers)]:
            path = source.path if peer == "minivllm" else as_directory(source)
            try:
                speeds[peer] = _measure(peer, path, Path(logs), workloads, trials)
            except MiniVLLMError as error:
                if peer == "minivllm":
                    raise
                check.words += f"{peer} is left out: {error} "
    for workload in workloads:
        name = workload.name
        row: dict[str, object] = {"workload": f"{name} {workload.title}", "unit": workload.unit}
        for peer, found in speeds.items():
            row[peer] = round(found[name], 1)
        for peer in list(speeds)[1:]:
            row[f"÷ {peer}"] = round(speeds["minivllm"][name] / speeds[peer][name], 2)
        check.rows.append(row)


def _measure(
    peer: str, model: Path, logs: Path, workloads: Sequence[Workload], trials: int
) -> dict[str, float]:
    rng = random.Random(0)
    engine = Engine(peer, model, 1, logs / f"{peer}.log", python=Path(sys.executable))
    try:
        found = {}
        for workload in workloads:
            turns = [workload.make(rng) for _ in range(trials + 1)]
            took = [workload.speed(turn, engine.run(turn)) for turn in turns]
            found[workload.name] = median(took[1:])  # the first warms up
    finally:
        engine.stop()
    return found
