"""Random arrivals, aborts, failures and knobs: the scheduler keeps its rules and changes no token.

``MINIVLLM_EXAMPLES=5000 pytest tests/core/test_random_runs.py`` looks further than CI does.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, example, given, settings

from tests.core.random_runs import GRANT_TAKEN_BACK, OUTGROWN_WHILE_WAITING, Plan, Run, plans

EXAMPLES = int(os.environ.get("MINIVLLM_EXAMPLES", "0"))
SHRINK = os.environ.get("MINIVLLM_SHRINK") != "0"  # off: a failure is reported as it was found


def random_runs(max_examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or max_examples,
        derandomize=not EXAMPLES,  # CI sees the same plans every time
        database=None,
        phases=[p for p in Phase if SHRINK or p not in (Phase.shrink, Phase.explain)],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@random_runs(max_examples=250)
@given(plans())
@example(GRANT_TAKEN_BACK)
@example(OUTGROWN_WHILE_WAITING)
def test_scheduling_changes_when_a_token_appears_never_which(plan: Plan) -> None:
    run = Run(plan).run()
    if run.messages:
        run.check_end()
    run.check_that_all_of_the_pool_can_be_used()
