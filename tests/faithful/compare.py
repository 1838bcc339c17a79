"""Drive vLLM's scheduler and ours with the same plans, and name the first difference.

    python -m tests.faithful.compare --seeds 0:5000 --vllm-python VENV/bin/python

Needs an environment with vLLM (README.md); CI has none and replays ``vectors.json.gz`` instead.
Exit status 1 if any plan differs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faithful.drive_minivllm import drive, goes_its_own_way
from tests.faithful.plans import Plan, random_plan
from tests.faithful.records import Difference, Record, first_difference

ROOT = Path(__file__).parents[2]
Counts = collections.Counter[str]


def vllm_answers(plans: list[Plan], python: str) -> Iterator[dict[str, Any]]:
    """vLLM's version, then its answer to each plan, in order. One process for all of them, since
    it starts slowly."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as given:
        for plan in plans:
            given.write(json.dumps(plan.to_json()) + "\n")
        given.seek(0)
        command = [python, "-m", "tests.faithful.drive_vllm"]
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=ROOT, env=environment, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line)
            if process.wait():
                raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")


def compare(plan: Plan, theirs: list[Record], counts: Counts) -> Difference | None:
    """The first difference that is not intended, or None.

    Two of the intended differences come about in random plans. Where one shows, we are compared
    twice: as we are, up to that step; with both switched off, to the end.
    """
    ours = drive(plan)
    counts["plans"] += 1
    counts["steps"] += len(theirs)
    counts["grants"] += sum(len(record.get("grants", [])) for record in theirs)
    counts["preemptions"] += sum(len(record.get("preempted", [])) for record in theirs)
    counts["refunds"] += sum(kind == "SchedRefund" for told in ours.told for kind, _, _ in told)
    counts["plans with drafts"] += any(request.drafts for request in plan.requests)
    before = next((i for i, told in enumerate(ours.told) if goes_its_own_way(told)), None)
    if before is not None:
        counts["plans compared twice"] += 1
        parted = first_difference(theirs, drive(plan, as_vllm=True).steps)
        if parted:
            return parted
    return first_difference(theirs[:before], ours.steps[:before])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="0:200", help="first:last+1 (default %(default)s)")
    parser.add_argument("--vllm-python", required=True, help="a Python that can import vLLM")
    parser.add_argument("--stop-after", type=int, default=5, help="differences to show")
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.seeds.split(":"))
    plans = [random_plan(seed) for seed in range(first, last)]
    counts: Counts = collections.Counter()
    num_different = 0
    answers = vllm_answers(plans, arguments.vllm_python)
    print(f"vLLM {next(answers)['vllm']}")
    for plan, answer in zip(plans, answers, strict=True):
        parted = answer.get("error") or compare(plan, answer["steps"], counts)
        if parted:
            num_different += 1
            print(f"{plan.name}: {parted}\n  knobs {plan.knobs}")
            if num_different >= arguments.stop_after:
                break
    print(", ".join(f"{value} {name}" for name, value in counts.items()))
    print(f"{num_different} differ")
    return min(num_different, 1)


if __name__ == "__main__":
    sys.exit(main())
