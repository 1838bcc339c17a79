"""How cores and memory are shared out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.engine.cores import (
    check_pools,
    engine_threads,
    threads_per_engine,
    usable_cores,
    usable_memory,
)
from minivllm.errors import ConfigError


@given(st.integers(1, 256), st.integers(1, 64))
def test_the_threads_of_all_engines_stay_within_the_cores(cores: int, n: int) -> None:
    threads = threads_per_engine(cores, n)
    assert threads >= 1
    assert threads * n <= cores or threads == 1


def test_a_larger_machine_leaves_a_core_to_the_front_end() -> None:
    assert [threads_per_engine(cores, 1) for cores in (1, 2, 3, 4, 8)] == [1, 2, 3, 3, 7]
    assert threads_per_engine(8, 2) == 3


def test_a_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert engine_threads(2) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert engine_threads(1000) == 1


def test_a_containers_quota_counts(tmp_path: Path) -> None:
    affinity = usable_cores(tmp_path)  # no such file: no quota
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == affinity


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    machine = usable_memory(tmp_path)
    assert machine is not None
    (tmp_path / "memory.max").write_text("4096\n")
    assert usable_memory(tmp_path) == 4096
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == machine


def test_pools_that_do_not_fit_together_are_refused_at_the_start() -> None:
    check_pools(1000, 4, 4000)
    check_pools(1000, 4, None)
    with pytest.raises(ConfigError, match="at most 999 for each of 4 engines"):
        check_pools(1000, 4, 3999)
