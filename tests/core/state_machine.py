"""The state machine: what is done to the engine is chosen step by step, with its state in view.

A plan (``random_runs.py``) is drawn before the run begins. Here a rule may look: abort somebody who
was just preempted, send the prompt of one that is half computed, change a knob while others wait.
Hypothesis shrinks a failure to the fewest rules that bring it about.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from minivllm.config import make_config
from minivllm.request import RequestStatus
from minivllm.trace.events import Event
from tests.core.content_executor import VOCABULARY
from tests.core.driven import Driven
from tests.core.promises import Decision, Watched
from tests.core.random_runs import arrivals, knobs

SLANTS: dict[str | None, dict[str, Any]] = {
    # The later, the more urgent: who comes first in the batch gives way to who comes last, and
    # grants of the same step are taken back.
    "rising urgency": {"policy": "priority", "batching": "continuous"},
    "static": {"batching": "static", "max_num_seqs": 3},
    "contiguous": {
        "kv_manager_cls": "contiguous",
        "contiguous_reserve": "request",
        "enable_prefix_caching": False,
        "batching": "continuous",
        "block_size": 4,
        "num_kv_blocks": 15,
        "max_num_seqs": 6,
    },
    "whole prompts": {"enable_chunked_prefill": False, "max_num_seqs": 6, "watermark": 0.0},
    "right guesses": {"speculative_ngram": 3, "batching": "continuous"},
}
"""What chance alone brings about too seldom; all other knobs are as they were drawn."""

ROOM = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([4, 2, 3]),
        "max_model_len": st.sampled_from([40, 24]),
        "max_num_seqs": st.sampled_from([4, 6, 3]),
        "num_kv_blocks": st.integers(8, 15),
        "watermark": st.sampled_from([0.0, 0.0, 0.0, 0.3]),
    }
)
"""Most prompts fit, several run at once, and the pool is too small for what they will say."""

CHANGES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "max_num_batched_tokens": st.sampled_from([64, 41]),  # as much as a whole context
            "max_num_seqs": st.integers(1, 6),
            "long_prefill_token_threshold": st.sampled_from([0, 2, 5]),
            "watermark": st.sampled_from([0.0, 0.2]),
            "admission": st.sampled_from(["full", "strict"]),
            "policy": st.sampled_from(["fcfs", "priority"]),
            "speculative_ngram": st.sampled_from([0, 3]),
        },
    ),
    st.just({"enable_chunked_prefill": True, "max_num_batched_tokens": 5}),
    st.just({"enable_chunked_prefill": False, "max_num_batched_tokens": 44}),
)
"""Knobs that another person turns while requests run."""

MOST_STEPS_OF_A_GRAMMAR = 6
GRAMMARS = st.tuples(
    st.sampled_from([1, 0, 2, 3, MOST_STEPS_OF_A_GRAMMAR]), st.sampled_from([True, True, False])
)
"""The steps that it takes to compile, and whether it then can be had."""

SEEN: Counter[str] = Counter()
"""What all machines together came upon: event kinds with their reasons, and ``steps``."""


class Watching(Driven):
    """Counts what happens, and demands what the events of a step tell beyond its result."""

    def take(self, event: Event) -> None:
        super().take(event)
        SEEN[event.kind] += 1
        if event.kind == "spec.propose":
            most = self.core.config.scheduler.speculative_ngram
            assert len(event.data.token_ids) <= most, "more drafts than the knob allows"
        for field in ("reason", "why", "limited_by"):
            if (value := getattr(event.data, field, None)) is not None:
                SEEN[f"{event.kind} {getattr(value, 'value', value)}"] += 1

    def check_step(self, was_running: list[str], events: list[Event]) -> None:
        super().check_step(was_running, events)
        SEEN["steps"] += 1
        drafts = self.last.batch.scheduled_spec_decode_tokens
        for event in events:
            if event.kind == "sched.victim":
                assert event.data.for_req in was_running, "somebody gave way to a newcomer"
                assert event.data.for_req not in drafts, "somebody gave way to a draft"

    def decided(self, decision: Decision) -> None:
        self.last = decision
        for name in decision.batch.scheduled_spec_decode_tokens:
            params = self.core.scheduler.requests[name].sampling_params
            assert params.structured_outputs is None, "drafts under a grammar"

    def drain(self) -> None:
        """No more arrivals: all end, within a number of steps that their lengths give."""
        live = list(self.core.scheduler.requests.values())
        longest = sum(r.num_prompt_tokens + r.max_tokens + 1 for r in live)
        for _ in range((len(live) + 1) * longest + MOST_STEPS_OF_A_GRAMMAR):
            if not self.core.has_requests():
                return
            self.step()
        assert not self.core.has_requests(), f"{len(live)} requests do not end"


class EngineMachine(RuleBasedStateMachine):
    """One engine, from its knobs to its last request."""

    engine: Watching

    @initialize(settings=knobs(), room=ROOM, slant=st.sampled_from([None, *SLANTS]))
    def start(self, settings: dict[str, Any], room: dict[str, Any], slant: str | None) -> None:
        settings |= room | SLANTS.get(slant, {})
        if not settings["enable_chunked_prefill"]:
            settings["max_num_batched_tokens"] = settings["max_model_len"]
        self.slant = slant
        config = make_config(**settings, scheduler_cls=Watched)
        self.engine = Watching(config, vocabulary=2 if slant == "right guesses" else VOCABULARY)
        self.engine.core.scheduler.on_decision = self.engine.decided

    # --- arrivals --------------------------------------------------------------------------

    @rule(arrival=arrivals(), grammar=st.one_of(st.none(), st.none(), st.none(), GRAMMARS))
    def arrive(self, arrival: dict[str, Any], grammar: tuple[int, bool] | None = None) -> None:
        if self.slant == "rising urgency":  # all at once, or nobody gives way
            grammar = None
        if grammar is not None:  # those behind it go on without it
            self.engine.core.scheduler.always_fcfs = False
        if self.slant == "rising urgency":
            arrival = arrival | {"priority": -len(self.engine.messages)}
        if self.slant == "right guesses":  # of two tokens one ends it: in the midst of its drafts
            arrival = arrival | {"stop_token_ids": [1], "min_tokens": 5, "max_tokens": 20}
        if self.slant == "contiguous":  # some are brief, so that gaps open between the others
            brief = len(self.engine.messages) % 2
            arrival = arrival | {"max_tokens": 3 if brief else 16, "min_tokens": 0}
        self.engine.add(**arrival, grammar=grammar)

    @rule(burst=st.lists(arrivals(), min_size=2, max_size=4))
    def several_arrive(self, burst: list[dict[str, Any]]) -> None:
        for arrival in burst:
            self.arrive(arrival)

    @precondition(lambda self: self.engine.core.has_requests())
    @rule(arrival=arrivals(), whose=st.integers(0, 9), cut=st.integers(0, 3))
    def somebody_says_the_same(self, arrival: dict[str, Any], whose: int, cut: int) -> None:
        """A prompt that is what another has said so far: blocks that are in use, or half done."""
        live = list(self.engine.core.scheduler.requests.values())
        other = live[whose % len(live)]
        prompt = other.token_ids[: max(len(other.token_ids) - cut, 1)]
        self.arrive(arrival | {"prompt": list(prompt), "cache_salt": other.cache_salt})

    # --- time passes -----------------------------------------------------------------------

    @rule(n=st.sampled_from([1, 1, 2, 3, 8]))
    def step(self, n: int) -> None:
        for _ in range(n):
            self.engine.step()

    @rule()
    def step_until_somebody_gives_way(self) -> None:
        """For what follows a preemption at once."""
        before = SEEN["req.preempt"]
        for _ in range(12):
            self.engine.step()
            if SEEN["req.preempt"] > before or not self.engine.core.has_requests():
                return

    # --- accidents -------------------------------------------------------------------------

    @precondition(lambda self: self.engine.core.has_requests())
    @rule(
        which=st.integers(0, 9),
        status=st.sampled_from([None, RequestStatus.PREEMPTED, RequestStatus.RUNNING]),
    )
    def abort(self, which: int, status: RequestStatus | None) -> None:
        live = list(self.engine.core.scheduler.requests.values())
        live = [r for r in live if r.status is status] or live
        self.engine.abort(live[which % len(live)].request_id)

    @precondition(lambda self: len(self.engine.messages) % 4 == 3)  # seldom
    @rule(when=st.sampled_from(["early", "late", "poison"]))
    def the_next_step_fails(self, when: str) -> None:
        self.engine.fail_next(when)
        self.engine.step()

    @rule()
    def reset_prefix_cache(self) -> None:
        self.engine.reset()

    @rule(changed=CHANGES)
    def change_knobs(self, changed: dict[str, Any]) -> None:
        self.engine.set_knobs(**changed)

    # --- the end ---------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.drain()
        if self.engine.messages:
            self.engine.check_end()
        self.engine.check_that_all_of_the_pool_can_be_used()
