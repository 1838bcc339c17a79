"""How the machine's cores and memory are shared out between engines.

Torch takes a thread for every core it sees, in every process: two engines on four cores would be
eight threads that wait for each other in each matrix product. So each engine is given its share,
by ``OMP_NUM_THREADS`` in its environment, which torch reads at its import.

Counterpart in vLLM: ``set_multiprocessing_worker_envs`` in
``vllm/v1/executor/multiproc_executor.py``, and the thread binding of its CPU backend.
"""

from __future__ import annotations

import os
from pathlib import Path

from minivllm.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")


def threads_per_engine(cores: int, n: int) -> int:
    """Torch threads of each of ``n`` engines, so that all of them together stay within ``cores``.

    From four cores on, one is left to the front end (HTTP, tokeniser, streams); on a smaller
    machine that would cost an engine a third of its speed or more, for a process that mostly waits.
    More engines than cores have one thread each: fewer there cannot be.
    """
    reserve = 1 if cores >= 4 else 0
    return max(1, (cores - reserve) // n)


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # neither affinity nor cgroups there
        cores = os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def engine_threads(n: int) -> int | None:
    """Torch threads for each of ``n`` engines; None where the user has said it (then the
    environment is handed on as it is)."""
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    return threads_per_engine(usable_cores(), n)


def usable_memory(cgroup: Path = _CGROUP) -> int | None:
    """Bytes that this machine, or this container, has altogether; None where nobody tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _read(cgroup / "memory.max")
    return min(total, int(limit)) if limit.isdecimal() else total


def check_pools(pool_bytes: int, n: int, memory: int | None) -> None:
    """Raise ConfigError where ``n`` pools do not fit in ``memory`` bytes, weights aside.

    The system would hand the memory out at the start and kill an engine later, under load.
    """
    if memory is not None and n * pool_bytes > memory:
        raise ConfigError(
            "kv_cache_memory",
            pool_bytes,
            f"at most {memory // n} for each of {n} engines: this machine has {memory} bytes. "
            "Lower kv_cache_memory or data_parallel_size",
        )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
