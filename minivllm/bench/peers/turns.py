"""How an engine under measurement is spoken to: a JSON line in, a JSON line out.

First it says ``{"ready": seconds}``, and beside it what it is: its Python, the versions of its
packages, whatever else it knows of itself. Then each line
``{"prompts": [[ids]], "outputs": [lengths]}`` is one turn: all prompts at once, greedy, each to its
length, no stop; the answer is ``{"seconds": …, "tokens": …}``. Between turns it waits on its input,
and so takes no core from the engine whose turn it is. The engine's own chatter goes to stderr.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO

Run = Callable[[list[list[int]], list[int]], int]
"""(prompts, output lengths) → tokens that came."""
Facts = dict[str, object]


def take_turns(
    start: Callable[[str, int], Run], packages: Sequence[str] = (), facts: Facts | None = None
) -> None:
    """``start``: (model's path, threads) → the engine. Ends with its input. ``packages``: whose
    versions are told, of those that are there. ``facts``: more to tell, filled by ``start``."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begin = time.perf_counter()
    run = start(sys.argv[1], int(sys.argv[2]))
    run([[1000 + i for i in range(16)]], [2])
    ready = time.perf_counter() - begin
    told = {"python": platform.python_version(), "versions": _versions(packages), **(facts or {})}
    _say(answers, {"ready": ready, **told})
    for line in sys.stdin:
        turn = json.loads(line)
        begin = time.perf_counter()
        tokens = run(turn["prompts"], turn["outputs"])
        _say(answers, {"seconds": time.perf_counter() - begin, "tokens": tokens})


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _say(answers: TextIO, what: Facts) -> None:
    print(json.dumps(what), file=answers, flush=True)
