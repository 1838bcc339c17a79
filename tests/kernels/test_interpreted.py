"""The kernels' numerics, in a process in which Triton interprets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
HALVES = FILES[:1], FILES[1:]
"""The first takes as long as the others together; each process imports for four seconds."""


@pytest.mark.parametrize("files", HALVES, ids=["attention", "the rest"])
def test_interpreted(files: list[Path]) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, files), "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
        env={**env, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\b[1-9]\d* passed", run.stdout), run.stdout
    assert "skipped" not in run.stdout, run.stdout
