"""Scheduler and pool under whatever comes, chosen step by step: they keep rules and promises.

``MINIVLLM_EXAMPLES=5000 pytest -s tests/core/test_state_machine.py`` looks further than CI does.
"""

from __future__ import annotations

import time

from hypothesis.stateful import run_state_machine_as_test

from tests.core.state_machine import SEEN, EngineMachine
from tests.core.test_random_runs import random_runs

MACHINES = 80

RARE = [
    "kv.evict",
    "kv.uncache not_executed",
    "kv.reserve",
    "kv.reset",
    "req.abort",
    "req.error",
    "req.grammar_ready",
    "req.preempt",
    "req.resume",
    "run.error",
    "run.knob",
    "sched.chunk",
    "sched.refund",
    "sched.skip chunking_off",
    "sched.skip fragmented",
    "sched.skip larger_than_pool",
    "sched.skip max_num_seqs",
    "sched.skip no_budget",
    "sched.skip no_free_blocks",
    "sched.skip static_batch",
    "sched.skip waiting_for_grammar",
    "spec.accept",
    "spec.reject draft_mismatch",
    "spec.reject output_ended",
]


def test_whatever_is_done_rules_and_promises_hold() -> None:
    SEEN.clear()
    # Hypothesis draws on constants of whatever modules are loaded, so what is rare is not met in
    # every company; where something lacks, it looks further before that counts as a failure.
    for machines in (MACHINES, 5 * MACHINES):
        begin, before = time.process_time(), SEEN["steps"]
        run_state_machine_as_test(EngineMachine, settings=random_runs(max_examples=machines))
        took, steps = time.process_time() - begin, SEEN["steps"] - before
        print(f"\n{steps} steps, {steps / took:.0f} a second")
        lacking = [what for what in RARE if not SEEN[what]]
        if not lacking:
            break
    assert not lacking, f"the machine never came upon {lacking}"
