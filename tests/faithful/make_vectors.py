"""Write the committed vectors: a few hundred plans, and what vLLM's scheduler did with each.

    python -m tests.faithful.make_vectors --vllm-python VENV/bin/python

Refuses to write while any plan differs without an intended reason.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
from pathlib import Path
from typing import Any

from tests.faithful.compare import compare, vllm_answers
from tests.faithful.coverage import WANTED, labels
from tests.faithful.drive_minivllm import drive
from tests.faithful.intended import INTENDED
from tests.faithful.plans import Plan, random_plan

VECTORS = Path(__file__).with_name("vectors.json.gz")
TIMES = 5
"""In how many plans each label is to occur."""


def chosen(candidates: list[Plan], total: int) -> list[Plan]:
    """First whatever brings labels that are still rare, the shortest first; then any, to the total.

    A plan that is only there for its labels is preferably short, for whoever must follow it.
    """
    had: collections.Counter[str] = collections.Counter()
    taken: list[Plan] = []
    rest = []
    driven = [(plan, drive(plan)) for plan in candidates]
    driven.sort(key=lambda pair: sum(len(step.get("grants", [])) for step in pair[1].steps))
    for plan, run in driven:
        brings = labels(plan, run) & WANTED
        if any(had[label] < TIMES for label in brings):
            had.update(brings)
            taken.append(plan)
        else:
            rest.append(plan)
    spread = rest[:: max(1, len(rest) // max(1, total - len(taken)))]
    return (taken + spread)[:total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vllm-python", required=True, help="a Python that can import vLLM")
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--plans", type=int, default=300)
    arguments = parser.parse_args()
    plans = chosen([random_plan(seed) for seed in range(arguments.candidates)], arguments.plans)
    answers = vllm_answers(plans + [one.plan for one in INTENDED], arguments.vllm_python)
    content: dict[str, Any] = {**next(answers), "plans": [], "intended": {}}
    for plan, answer in zip(plans, answers, strict=False):
        parted = compare(plan, answer["steps"], collections.Counter())
        if parted:
            raise SystemExit(f"{plan.name}: {parted}")
        content["plans"].append({"plan": plan.to_json(), "steps": answer["steps"]})
    for one, answer in zip(INTENDED, answers, strict=True):
        # What comes after they part is of no use; a stuck request would fill pages.
        content["intended"][one.name] = answer["steps"][: one.parts_at[0]]
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    VECTORS.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(plans)} plans, {len(text)} bytes, {VECTORS.stat().st_size} compressed")


if __name__ == "__main__":
    main()
