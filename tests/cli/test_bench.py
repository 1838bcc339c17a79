"""``bench``: what it prints and draws, how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import CLI
from tests.conftest import RunPython


def test_bench_kv_waste_prints_the_table_and_draws_it(
    tmp_path: Path, python_without: RunPython
) -> None:
    picture = tmp_path / "waste.svg"
    run = python_without(
        CLI, "bench", "kv-waste", "--requests", "96", "-o", str(picture), env={"COLUMNS": "100"}
    )
    assert run.returncode == 0, run.stderr
    for told in ("contiguous, max_model_len", "contiguous, oracle", "paged", "Measured here: 96"):
        assert told in run.stdout
    assert "The paper's (Kwon et al., SOSP 2023, figure 2): 20 to 38 %" in run.stdout
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kv-waste", "--requests", "2"], "96 to 2000"),
        (["kv-waste", "--seed", "-1"], "--seed: got -1; allowed: 0 or more"),
        (["scheduler", "--rounds", "0"], "1 or more"),
        (["trace", "--steps", "1"], "80 or more"),
        (["trace", "--model", "x"], "together with --with-model"),
        (["kernels"], "to run the kernels takes a GPU"),
        (["kernels", "--aot"], "bench kernels needs torch and Triton"),
    ],
)
def test_bench_refuses_with_one_line(
    arguments: list[str], message: str, python_without: RunPython
) -> None:
    run = python_without(CLI, "bench", *arguments)
    assert run.returncode == 2 and message in run.stderr and run.stderr.count("\n") == 1


def test_benchmarks_run_without_torch(python_without: RunPython) -> None:
    scheduler = python_without(CLI, "bench", "scheduler", "--rounds", "1")
    assert scheduler.returncode == 0, scheduler.stderr
    assert "256 requests, 10,000 blocks:" in scheduler.stdout
    trace = python_without(CLI, "bench", "trace", "--steps", "80")
    assert trace.returncode == 0, trace.stderr
    assert all(name in trace.stdout for name in ("removed", "off", "structure"))


def test_bench_kernels_prints_a_table_with_the_peaks_it_counts_with(
    python_without: RunPython,
) -> None:
    run = python_without(
        CLI, "bench", "kernels", "--aot", "--target", "90", blocked=(), env={"COLUMNS": "140"}
    )
    assert run.returncode == 0, run.stderr
    for told in ("heads of 128, bfloat16", "sm_90 H100", "paged_attention", "3.35 TB/s"):
        assert told in run.stdout
    refused = python_without(CLI, "bench", "kernels", "--aot", "--head-dim", "72", blocked=())
    assert refused.returncode == 2
    assert "--head-dim: got 72; allowed: 64 | 80 | 96 | 128 | 256" in refused.stderr
