"""Compiled for GPUs that are not here: it compiles, it fits, it spills nothing.

The representative configurations; ``minivllm bench kernels --aot --all`` looks at every one. What
was compiled once lies in Triton's cache, so only the first run takes its time.
"""

from __future__ import annotations

import json

import pytest

from minivllm.bench import kernels as bench
from tests.cli.test_commands import CLI
from tests.conftest import RunPython


def rows(run_python: RunPython, *arguments: str) -> list[dict[str, object]]:
    run = run_python(CLI, "bench", "kernels", "--aot", "--json", *arguments, blocked=())
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_every_kernel_compiles_fits_and_spills_nothing_on_three_targets(
    python_without: RunPython,
) -> None:
    table = rows(python_without)
    kernels = {
        "paged_attention",
        "merge_splits",
        "reshape_and_cache",
        "rope",
        "rms_norm of heads",
        "rms_norm + residual",
        "rms_norm",
        "silu_mul",
    }
    assert {(row["kernel"], row["arch"]) for row in table} == {
        (kernel, arch) for kernel in kernels for arch in (80, 90, 100)
    }
    for row in table:
        assert row["spilled_bytes"] == 0
        assert 0 < row["registers"] <= 255  # type: ignore[operator]
        assert row["shared_bytes"] <= row["shared_limit_bytes"]  # type: ignore[operator]


TIGHTEST = [  # where the compiler was nearest to running out of registers
    (80, 256, "bfloat16", "prefill"),
    (80, 96, "float32", "prefill"),
    (90, 256, "float32", "splits"),
    (100, 80, "float16", "prefill"),
]


@pytest.mark.parametrize(("arch", "head_dim", "dtype", "workload"), TIGHTEST)
def test_the_tightest_configurations_do(
    arch: int, head_dim: int, dtype: str, workload: str
) -> None:
    cases = [c for c in bench.make_cases(arch, head_dim, dtype) if c.kernel == "paged_attention"]
    (case,) = [c for c in cases if workload in c.workload]
    assert bench.problem(bench.compile_case(case, bench.TARGETS[arch])) is None


def test_tiles_that_are_too_large_are_found_out() -> None:
    """The measurement itself: it must see a spill where there is one."""
    case = next(bench.make_cases(80, 256, "bfloat16"))
    case.launch.args.update(BLOCK_M=128, BLOCK_Q=32)
    case.launch.num_warps = 4
    row = bench.compile_case(case, bench.TARGETS[80])
    assert row.spilled_bytes > 0 and "spilled" in str(bench.problem(row))


def case_of(kernel: str, arch: int, workload: str = "") -> bench.Case:
    cases = bench.make_cases(arch, 128, "bfloat16")
    return next(c for c in cases if c.kernel == kernel and workload in c.workload)


def test_roofline_of_a_decode_is_its_bytes_over_the_bandwidth() -> None:
    """64 requests × 2,048 keys × 8 heads × 128 × K and V × 2 bytes, and the queries and outputs."""
    decode = case_of("paged_attention", 80, "64 ×")
    assert decode.bytes_moved == 64 * 2048 * 8 * 128 * 2 * 2 + 2 * 64 * 32 * 128 * 2
    time_us, bound_by = bench.roofline(decode, bench.TARGETS[80])
    assert bound_by == "memory"
    assert time_us == pytest.approx(1e6 * decode.bytes_moved / 2.039e12, rel=1e-3)


def test_roofline_of_a_prefill_is_its_flops_over_the_tensor_cores() -> None:
    """Four FLOPs for each pair of a query and a key it sees, each head and each element."""
    prefill = case_of("paged_attention", 90, "prefill")
    assert prefill.flops == 4 * 32 * 128 * sum(range(1, 2048 + 1))
    time_us, bound_by = bench.roofline(prefill, bench.TARGETS[90])
    assert bound_by == "compute"
    assert time_us == pytest.approx(1e6 * prefill.flops / 989.4e12, rel=1e-3)


def test_a_target_without_stated_peaks_has_no_roofline() -> None:
    assert bench.roofline(case_of("rope", 100), bench.TARGETS[100]) == (None, "")
