"""KV waste: one workload under four ways of handing memory out, measured step by step.

After figure 2 of "Efficient memory management for large language model serving with PagedAttention"
(Kwon et al., SOSP 2023): in the systems before it 20 to 38 % of the KV memory held token states,
with paging 96 %. This reproduces the kind of figure, not the experiment: there is no model here and
no clock, only what scheduler and pool do with requests of such lengths.

    contiguous, max_model_len    one run of blocks for the longest sequence there may be
    contiguous, max_tokens       for prompt + the caller's limit: the next power of two of what it
                                 will say, so at most twice as much (the paper's "Pow2")
    contiguous, oracle           for prompt + exactly what it will say, which nobody can know
    paged                        a block whenever one is needed

The pool has 15,696 slots, enough for seven sequences of the longest. The requests all wait from
the first step on, so that memory is short for long; only steps in which somebody waits for memory
are counted. Lengths are drawn from log-normal distributions with a fixed seed: short prompts,
longer answers and a long tail, as in ShareGPT's conversations; means of 161 and 338 tokens before
they are cut at 1,024.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minivllm.scenario import Scenario, ScenarioRequest, start
from minivllm.scenario_file import made_up_ids
from minivllm.trace.events import Event
from minivllm.trace.file import decode_event
from minivllm.trace.fold import HANDLERS
from minivllm.trace.kv_use import memory_by_step

PAPER = "Kwon et al., SOSP 2023, figure 2"
PAPER_BEFORE = (20, 38)  # % of the KV memory that held token states
PAPER_PAGED = 96

NUM_REQUESTS = 128
SEED = 1
BLOCK_SIZE = 16
NUM_BLOCKS = 981
MAX_MODEL_LEN = 2048
MEAN_PROMPT, MEAN_OUTPUT, LONGEST, SPREAD = 161, 338, 1024, 1.0

ENGINE: dict[str, Any] = {
    "block_size": BLOCK_SIZE,
    "num_kv_blocks": NUM_BLOCKS + 1,  # and the null block
    "max_model_len": MAX_MODEL_LEN,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 256,
    "enable_prefix_caching": False,  # contiguous has none, and nobody shares anything here
}


@dataclass(frozen=True, slots=True)
class Length:
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class System:
    name: str
    limit: Callable[[int], int]
    """Output tokens → the caller's max_tokens."""
    knobs: dict[str, Any]


def power_of_two(n: int) -> int:
    """The next one: ``n`` ≤ it < 2 ``n``."""
    return 1 << math.ceil(math.log2(n))


_CONTIGUOUS = {"kv_manager_cls": "contiguous"}
SYSTEMS = (
    System(
        "contiguous, max_model_len",
        power_of_two,
        {**_CONTIGUOUS, "contiguous_reserve": "max_model_len"},
    ),
    System(
        "contiguous, max_tokens", power_of_two, {**_CONTIGUOUS, "contiguous_reserve": "request"}
    ),
    System("contiguous, oracle", lambda n: n, {**_CONTIGUOUS, "contiguous_reserve": "request"}),
    System("paged", power_of_two, {"kv_manager_cls": "paged"}),
)


@dataclass(frozen=True, slots=True)
class Waste:
    """One system: shares of the pool (0 to 1), the mean over the steps that count."""

    system: str
    token_states: float
    reserved: float
    never_used: float
    scattered: float
    too_few: float
    running: float
    """Requests at once, over the same steps."""
    steps: int
    """Of the whole run."""
    counted: int
    """Steps in which somebody waited for memory."""
    preemptions: int


def lengths(n: int = NUM_REQUESTS, seed: int = SEED) -> list[Length]:
    """The workload's."""
    rng = random.Random(seed)

    def draw(mean: int) -> int:
        middle = math.log(mean) - SPREAD**2 / 2  # so that the mean is ``mean``
        return min(max(int(rng.lognormvariate(middle, SPREAD)), 4), LONGEST)

    return [Length(draw(MEAN_PROMPT), draw(MEAN_OUTPUT)) for _ in range(n)]


def run(system: System, requests: list[Length]) -> Waste:
    """All requests through the real scheduler and pool."""
    scenario = Scenario(
        name="kv-waste",
        engine={**ENGINE, **system.knobs},
        request=[
            ScenarioRequest(
                arrives=1,
                prompt_token_ids=made_up_ids(f"request {number}", length.prompt),
                output_tokens=length.output,
                max_tokens=system.limit(length.output),
            )
            for number, length in enumerate(requests, start=1)
        ],
    )
    events: list[Event] = []
    engine = start(scenario)
    log, stream = engine.recorder.log, engine.recorder.stream

    def keep(_: str, lines: list[bytes]) -> None:
        events.extend(e for e in map(decode_event, lines) if e.kind in _NEEDED)

    keep(stream, log.lines(stream, 1, log.head_seq(stream)))
    log.subscribe(keep)
    engine.run(max_steps=1_000_000)
    return measure(system.name, events)


_NEEDED = {*HANDLERS, "batch.compose", "sched.skip"}


def measure(name: str, events: list[Event]) -> Waste:
    steps = memory_by_step(events)
    rows = {e.step: len(e.data.rows) for e in events if e.kind == "batch.compose"}
    short = [step for step in steps if step.short]

    def mean(field: str) -> float:
        return fmean(getattr(step, field) / step.pool for step in short) if short else 0.0

    return Waste(
        system=name,
        token_states=mean("token_states"),
        reserved=mean("reserved"),
        never_used=mean("never_used"),
        scattered=mean("scattered"),
        too_few=mean("too_few"),
        running=fmean(rows[step.step] for step in short) if short else 0.0,
        steps=steps[-1].step,
        counted=len(short),
        preemptions=sum(event.kind == "req.preempt" for event in events),
    )


def run_all(requests: list[Length], told: Callable[[str], None] = lambda name: None) -> list[Waste]:
    """Every system; ``told`` hears the name of each before it runs."""
    found: list[Waste] = []
    for system in SYSTEMS:
        told(system.name)
        found.append(run(system, requests))
    return found
