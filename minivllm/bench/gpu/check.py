"""What ``minivllm bench gpu`` finds out, one check at a time, and how a failure stays with its own.

The engine was written without a GPU at hand. What could be proven without one is in the tests; this
is the rest: whoever has a GPU runs it once, and the report says what holds there.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass(slots=True)
class Check:
    """One question and what came of it."""

    name: str
    state: str = "passed"
    """``passed`` | ``failed`` | ``skipped`` (with the reason in ``words``)."""
    words: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Figures, each with the same keys."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Skipped(Exception):
    """This check cannot be made here; the message says why."""


def run_checks(checks: dict[str, Callable[[Check], None]]) -> Iterator[Check]:
    """Each in turn. One that raises has failed, and the next one is made all the same."""
    for name, make in checks.items():
        check = Check(name)
        began = time.perf_counter()
        try:
            make(check)
        except Skipped as reason:
            check.state, check.words = "skipped", str(reason)
        except Exception as error:
            lines = traceback.format_exception(error)
            check.state = "failed"
            check.words = f"{type(error).__name__}: {error}\n{''.join(lines[-3:])}"
        check.seconds = time.perf_counter() - began
        yield check


def microseconds(device: torch.device, run: Callable[[], object], rounds: int = 20) -> float:
    """Median time of ``run`` on the device, after three runs that are not counted."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
        else:
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e6)
    return sorted(times)[len(times) // 2]
