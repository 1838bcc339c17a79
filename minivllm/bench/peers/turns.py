"""How an engine under measurement is spoken to: a JSON line in, a JSON line out.

First it says ``{"ready": seconds}``. Then each line ``{"prompts": [[ids]], "outputs": [lengths]}``
is one turn: all prompts at once, greedy, each to its length, no stop; the answer is
``{"seconds": …, "tokens": …}``. Between turns it waits on its input, and so takes no core from the
engine whose turn it is. The engine's own chatter goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

Run = Callable[[list[list[int]], list[int]], int]
"""(prompts, output lengths) → tokens that came."""


def take_turns(start: Callable[[str, int], Run]) -> None:
    """``start``: (model's path, threads) → the engine. Ends with its input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begin = time.perf_counter()
    run = start(sys.argv[1], int(sys.argv[2]))
    run([[1000 + i for i in range(16)]], [2])
    _say(answers, {"ready": time.perf_counter() - begin})
    for line in sys.stdin:
        turn = json.loads(line)
        begin = time.perf_counter()
        tokens = run(turn["prompts"], turn["outputs"])
        _say(answers, {"seconds": time.perf_counter() - begin, "tokens": tokens})


def _say(answers: TextIO, what: dict[str, float]) -> None:
    print(json.dumps(what), file=answers, flush=True)
