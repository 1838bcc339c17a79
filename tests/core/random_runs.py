"""Random runs: plans of arrivals, aborts and failures, and what must hold after every step of them.

A plan is plain data, so that hypothesis can shrink it and a failure can be run again by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st

from minivllm.config import make_config
from minivllm.trace.file import decode_event
from minivllm.trace.tracer import Tracer
from tests.core.builders import recorder
from tests.core.driven import Driven


@dataclass(frozen=True)
class Plan:
    """The engine's knobs, and what is done to it: ``(operation, argument)`` in order; afterwards
    it steps to the end."""

    knobs: dict[str, Any]
    actions: list[tuple[str, Any]]


# --- strategies --------------------------------------------------------------------------------

PREFIXES = [[1] * 12, [1] * 4 + [2] * 8, [3, 4, 5, 6, 7, 8]]


@st.composite
def knobs(draw: st.DrawFn) -> dict[str, Any]:
    """Small pools, so that there is pressure; few tokens a step, so that there are chunks."""
    max_model_len = draw(st.sampled_from([24, 40, 12]))
    chunking = draw(st.sampled_from([True, True, False]))
    budget = draw(st.sampled_from([12, 20, 16, 7, 4, 1]))
    contiguous = draw(st.sampled_from([False] * 7 + [True]))
    paging = {
        "enable_prefix_caching": not contiguous
        and draw(st.sampled_from([True, True, True, False])),
        "kv_manager_cls": "contiguous" if contiguous else "paged",
        "contiguous_reserve": draw(
            st.sampled_from(["request", "max_model_len"] if contiguous else ["max_model_len"])
        ),
    }
    return paging | {
        "num_kv_blocks": 1 + draw(st.integers(5, 14)),
        "block_size": draw(st.sampled_from([2, 4, 3, 1])),
        "max_model_len": max_model_len,
        "max_num_seqs": draw(st.sampled_from([4, 6, 5, 3, 2, 1])),
        "max_num_batched_tokens": budget if chunking else max_model_len + budget,
        "policy": draw(st.sampled_from(["priority", "fcfs"])),
        "enable_chunked_prefill": chunking,
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 0, 1, 3, 6])),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.15, 0.5])),
        "admission": draw(st.sampled_from(["full", "full", "full", "strict"])),
        "batching": draw(st.sampled_from(["continuous"] * 5 + ["static"])),
        "speculative_ngram": draw(st.sampled_from([0, 0, 2, 4, 1])),
        "prompt_lookup_min": 1,
    }


@st.composite
def arrivals(draw: st.DrawFn) -> dict[str, Any]:
    """A request: most share a prefix with others, few end by EOS or a stop id before long."""
    prefix = draw(st.sampled_from(PREFIXES))
    own = draw(st.lists(st.integers(1, 3), max_size=3))
    max_tokens = draw(st.sampled_from([9, 6, 9, 14, 20, 3, None]))
    return {
        "prompt": prefix[: draw(st.integers(0, len(prefix)))] + own,
        "max_tokens": max_tokens,
        "min_tokens": draw(st.integers(0, 3)) if max_tokens is None or max_tokens > 2 else 0,
        "ignore_eos": draw(st.sampled_from([True, True, False])),
        "stop_token_ids": draw(st.sampled_from([[], [], [], [9, 10]])),
        "priority": draw(st.integers(0, 2)),
        "cache_salt": draw(st.sampled_from([None, None, None, None, "a", "b"])),
    }


@st.composite
def rounds(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Some arrive, something may go wrong, some steps pass."""
    actions = [("add", draw(arrivals())) for _ in range(draw(st.sampled_from([2, 1, 3, 0])))]
    accident = draw(st.sampled_from([None] * 8 + ["abort", "abort", "reset", "fail", "poison"]))
    if accident is not None:
        argument = {"abort": st.integers(1, 9), "fail": st.sampled_from(["early", "late"])}
        actions.append((accident, draw(argument.get(accident, st.none()))))
    return [*actions, ("step", draw(st.sampled_from([1, 2, 3, 5])))]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts = draw(st.lists(rounds(), min_size=2, max_size=7))
    actions = [action for part in parts for action in part]
    settings = draw(knobs())
    if draw(st.booleans()):
        # The later, the more urgent, and prompts run in pieces of several blocks: who comes first
        # in the batch gives way to who comes last, so that grants of the same step are taken back.
        settings |= {"policy": "priority", "long_prefill_token_threshold": draw(st.integers(3, 6))}
        for number, (kind, argument) in enumerate(actions):
            if kind == "add":
                argument["priority"] = len(actions) - number
    return Plan(settings, actions)


def _add(prompt: list[int], priority: int, max_tokens: int) -> tuple[str, Any]:
    return "add", {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "min_tokens": 0,
        "ignore_eos": True,
        "stop_token_ids": [],
        "priority": priority,
        "cache_salt": None,
    }


_ROOMY = {"block_size": 4, "max_model_len": 40, "max_num_seqs": 4, "max_num_batched_tokens": 64}
_LONG = [1, 2, 3, 1, 2, 3, 3] * 4

# What chance finds once in ten thousand plans.
GRANT_TAKEN_BACK = Plan(
    {**_ROOMY, "num_kv_blocks": 9, "policy": "priority", "long_prefill_token_threshold": 8},
    [
        _add(_LONG, 5, 2),
        _add([3], 0, 1),  # alone, the first would have the whole budget
        *[("step", 1), _add([2] * 8, 0, 2), ("step", 2), _add(_LONG[:22], 1, 2)],
    ],
)
"""The last request has the prompt of one whose blocks were hashed and then not computed."""

OUTGROWN_WHILE_WAITING = Plan(
    {**_ROOMY, "num_kv_blocks": 5}, [_add([1] * 8, 0, 4), _add([1] * 16, 0, 4)]
)
"""The second fills the pool together with the first, samples a token more, and gives way."""


# --- a run -------------------------------------------------------------------------------------


class Run(Driven):
    """Carries a plan out, over a trace as it is written: lines of JSON."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        super().__init__(make_config(**plan.knobs))

    def make_tracer(self) -> Tracer:
        trace = recorder()
        trace.log.subscribe(lambda _, lines: [self.take(decode_event(line)) for line in lines])
        return trace

    def run(self) -> Run:
        for operation, argument in self.plan.actions:
            if operation == "add":
                self.add(**argument)
            elif operation == "step":
                for _ in range(argument):
                    self.step()
            elif operation == "abort":
                self.abort(f"q{argument}")
            elif operation == "reset":
                self.reset()
            elif operation == "fail":
                self.fail_next(argument)
            elif operation == "poison":
                self.fail_next("poison")
        while self.core.has_requests():
            self.step()
        return self
