"""The GPU's path without a GPU: persistent buffers, recorded decode steps, the measured pool.

What is recorded here is played again operation by operation (``recording.py``), so it shows what a
graph would: stale lengths, a moved buffer, a number that Python looked up.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from minivllm.attention.torch_backend import TorchAttention
from minivllm.config import make_config
from minivllm.errors import ConfigError
from minivllm.executor.uniproc import UniprocExecutor
from minivllm.models.causal_lm import CausalLM
from minivllm.models.loader import load_model
from minivllm.worker.decode_graphs import capture_sizes
from minivllm.worker.memory_profile import profile_memory
from minivllm.worker.model_runner import ModelRunner
from minivllm.worker.step_inputs import DeviceInputs, GrowingInputs
from tests.model.builders import CPU, random_prompt, reference_llama, save_hf
from tests.model.driver import Driver
from tests.model.recording import GatheringAttention, HostSyncError, RecordedCapture

BLOCK, BLOCKS, WIDTH = 4, 80, 12  # WIDTH: blocks of the longest request


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reference = reference_llama(seed=5, max_position_embeddings=256)
    return Path(save_hf(reference, tmp_path_factory.mktemp("device") / "m").path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    reference = reference_llama(seed=5, max_position_embeddings=256)
    return load_model(save_hf(reference, tmp_path_factory.mktemp("graphs")), "float32", CPU)


class MixedAttention(GatheringAttention):
    """Prompts by the torch backend, decodes by what can be recorded, over one cache."""

    def prepare(self, metadata: Any, block_size: int) -> Any:
        if metadata.slot_mapping.numel() == metadata.seq_lens.numel():
            return super().prepare(metadata, block_size)
        return TorchAttention().prepare(metadata, block_size)


def recorded(model: CausalLM, sizes: list[int]) -> tuple[Driver, RecordedCapture]:
    runner = ModelRunner(model, MixedAttention(), BLOCK, CPU)
    runner.inputs = GrowingInputs(CPU, (8, 2, 2))  # too small on purpose: it must grow
    d = Driver(runner, BLOCKS)
    capture = RecordedCapture()
    runner.record_graphs(sizes, WIDTH, capture)
    capture.replays.clear()
    return d, capture


def eager(model: CausalLM) -> Driver:
    return Driver(ModelRunner(model, TorchAttention(), BLOCK, CPU), BLOCKS)


@pytest.mark.parametrize("seed", range(4))
def test_recorded_decodes_say_what_eager_ones_say(model: CausalLM, seed: int) -> None:
    """Requests come, go, are preempted and change places; each batch of decodes is padded to the
    next recording, and everything else runs eagerly."""
    rng = random.Random(seed)
    graphs, capture = recorded(model, [1, 2, 4, 6])
    plain = eager(model)
    alive: list[str] = []
    decodes: list[int] = []
    for step in range(25):
        if len(alive) < 6 and rng.random() < 0.4:
            name, length = f"r{step}", rng.randrange(1, 14)
            prompt, heat = random_prompt(length, seed=100 * seed + step), rng.choice([0.0, 0.8])
            for d in (graphs, plain):
                d.add(name, prompt, seed=step, temperature=heat)
            alive.append(name)
        if not alive:
            continue
        rng.shuffle(alive)
        if rng.random() < 0.1:
            victim = alive[-1]
            if graphs.requests[victim].known:
                for d in (graphs, plain):
                    d.preempt(victim)
        plan = {
            name: len(plain.requests[name].tokens) - plain.requests[name].computed for name in alive
        }
        if len(plan) == sum(plan.values()):
            decodes.append(len(plan))
        for d in (graphs, plain):
            d.step(plan)
        for name in list(alive):
            mine, theirs = graphs.requests[name], plain.requests[name]
            assert mine.output == theirs.output
            if len(mine.output) > 12 or len(mine.tokens) > BLOCK * WIDTH - 2:
                alive.remove(name)
                for d in (graphs, plain):
                    d.finish(name)
    assert [next(s for s in (1, 2, 4, 6) if s >= n) for n in decodes] == capture.replays
    assert len(decodes) > 5


def test_rows_of_nobody_leave_the_cache_alone(model: CausalLM) -> None:
    d, capture = recorded(model, [8])
    d.add("a", random_prompt(5, seed=1))
    d.step({"a": 5})
    before = [cache[:, 1:BLOCKS].clone() for cache in d.runner.kv_caches]
    d.step({"a": 1})  # one row, seven of nobody
    assert capture.replays == [8]
    block, offset = d.requests["a"].blocks[5 // BLOCK], 5 % BLOCK
    for old, cache in zip(before, d.runner.kv_caches, strict=True):
        changed = (old != cache[:, 1:BLOCKS]).any(-1).any(-1).any(0)  # (blocks, slots)
        assert changed.nonzero().tolist() == [[block - 1, offset]]


def test_recording_runs_real_decodes_and_stores_nothing(model: CausalLM) -> None:
    """Each row a request of one token: else kernels are compiled and warmed up for another
    shape. Its K and V go nowhere: attention reads the null block, which stays zero."""
    runner = ModelRunner(model, MixedAttention(), BLOCK, CPU)
    runner.initialize_kv_cache(BLOCKS)
    seen: list[Any] = []
    run_model = runner._run_model

    def watching(inputs: Any, capture: Any = None) -> torch.Tensor:
        meta = inputs.metadata
        rows = (meta.query_start_loc.tolist(), meta.seq_lens.tolist(), meta.slot_mapping.tolist())
        seen.append((*rows, meta.block_table.shape[1]))
        return run_model(inputs, capture)

    runner._run_model = watching  # type: ignore[method-assign]

    def once(run: Any) -> Any:
        result = run()
        return lambda: result

    runner.record_graphs([1, 3], WIDTH, once)
    assert seen == [
        ([0, 1, 2, 3], [1, 1, 1], [-1, -1, -1], WIDTH),
        ([0, 1], [1], [-1], WIDTH),
    ]
    assert not any(cache[:, :BLOCKS].any() for cache in runner.kv_caches)


def test_fresh_buffers_store_nothing() -> None:
    assert DeviceInputs(CPU, 4, 2, 3).views(4, 2, 3).metadata.slot_mapping.tolist() == [-1] * 4


def test_more_requests_than_the_largest_recording_run_eagerly(model: CausalLM) -> None:
    d, capture = recorded(model, [1, 2])
    plain = eager(model)
    for one in (d, plain):
        for name in ("a", "b", "c"):
            one.add(name, random_prompt(3, seed=ord(name)))
        one.step({"a": 3, "b": 3, "c": 3})
        one.decode(["a", "b", "c"], 3)
        one.decode(["a", "c"], 1)
    assert capture.replays == [2]
    assert {n: r.output for n, r in d.requests.items()} == {
        n: r.output for n, r in plain.requests.items()
    }


def test_a_captured_step_runs_eagerly_and_is_told_its_arrays(model: CausalLM) -> None:
    d, capture = recorded(model, [1])
    d.add("a", random_prompt(4, seed=9))
    d.step({"a": 4})
    d.decode(["a"], 1)
    assert capture.replays == [1]
    execute = d.runner.execute_model

    def watched(output: Any) -> Any:
        output.capture_tensors = True
        return execute(output)

    d.runner.execute_model = watched  # type: ignore[method-assign]
    assert d.step({"a": 1}).tensors is not None
    assert capture.replays == [1]


def test_an_attention_that_looks_at_lengths_cannot_be_recorded(model: CausalLM) -> None:
    """The stand-in refuses what a CUDA graph refuses; else these tests would prove nothing."""
    runner = ModelRunner(model, TorchAttention(), BLOCK, CPU)
    runner.initialize_kv_cache(BLOCKS)
    with pytest.raises(HostSyncError):
        runner.record_graphs([2], WIDTH, RecordedCapture())


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 4]),
        (8, [1, 2, 4, 8]),
        (9, [1, 2, 4, 8, 16]),
        (64, [1, 2, 4, *range(8, 65, 8)]),
        (2000, [1, 2, 4, *range(8, 513, 8)]),
    ],
)
def test_recorded_sizes_reach_the_limit(most: int, sizes: list[int]) -> None:
    assert capture_sizes(most) == sizes


def test_buffers_keep_their_addresses_and_refuse_what_they_cannot_hold(model: CausalLM) -> None:
    runner = ModelRunner(model, TorchAttention(), BLOCK, CPU)
    d = Driver(runner, BLOCKS)
    d.add("a", random_prompt(7, seed=2))
    seen = []
    inputs = DeviceInputs(CPU, 8, 2, 3)

    class Watched:
        def load(self, flat: Any) -> Any:
            loaded = inputs.load(flat)
            seen.append(loaded.input_ids.data_ptr())
            return loaded

    runner.inputs = Watched()
    d.step({"a": 7})
    d.decode(["a"], 2)
    assert len(seen) == 3 and len(set(seen)) == 1
    d.add("long", random_prompt(9, seed=3))
    with pytest.raises(ValueError, match=r"10 tokens, 2 requests .* hold \(8, 2, 3\)"):
        d.step({"a": 1, "long": 9})


class FakeMemory:
    """A GPU of 1,000 bytes, of which another program has 100; torch holds 300 after the step and
    had 550 in use at its peak."""

    def __init__(self) -> None:
        self.stepped = False

    def reset_peak(self) -> None:
        assert not self.stepped, "the peak must be that of the step"

    def free_and_total(self) -> tuple[int, int]:
        return 600, 1000

    def reserved(self) -> int:
        return 300

    def peak(self) -> int:
        assert self.stepped
        return 550

    def step(self) -> None:
        self.stepped = True


def test_pool_gets_what_others_and_the_peak_leave() -> None:
    memory = FakeMemory()
    profile = profile_memory(memory, 0.9, memory.step)
    assert (profile.others, profile.available) == (100, 900 - 100 - 550)


class SharedGPU:
    """1,000 bytes for several engines. Another program may have some of them."""

    def __init__(self, foreign: int = 0) -> None:
        self.used = foreign


class Sister:
    """One of the engines on it, as a DeviceMemory: 10 bytes for CUDA, 50 of weights, and 30 that
    torch keeps once a step has needed them."""

    def __init__(self, gpu: SharedGPU) -> None:
        self.gpu, self.held = gpu, 50
        gpu.used += 10 + 50

    def measure(self) -> int:
        return profile_memory(self, 0.9, lambda: self.allocate(30), num_engines=2).available

    def allocate(self, num_bytes: int) -> None:
        self.held += num_bytes
        self.gpu.used += num_bytes

    def take_pool(self) -> int:
        pool = self.measure()
        self.allocate(pool)
        return pool

    def reset_peak(self) -> None: ...

    def free_and_total(self) -> tuple[int, int]:
        return 1000 - self.gpu.used, 1000

    def reserved(self) -> int:
        return self.held

    def peak(self) -> int:
        return 80


def both_ready(gpu: SharedGPU) -> list[int]:
    """Weights of both, then one pool after the other."""
    a, b = Sister(gpu), Sister(gpu)
    return [a.take_pool(), b.take_pool()]


def one_after_the_other(gpu: SharedGPU) -> list[int]:
    return [Sister(gpu).take_pool(), Sister(gpu).take_pool()]


def second_first(gpu: SharedGPU) -> list[int]:
    a, b = Sister(gpu), Sister(gpu)
    second = b.take_pool()
    return [a.take_pool(), second]


def at_once(gpu: SharedGPU) -> list[int]:
    """Neither sees the other's pool."""
    a, b = Sister(gpu), Sister(gpu)
    pools = [a.measure(), b.measure()]
    for one, pool in zip((a, b), pools, strict=True):
        one.allocate(pool)
    return pools


@pytest.mark.parametrize("order", [both_ready, one_after_the_other, second_first, at_once])
def test_two_engines_on_one_gpu_have_half_of_it_each(order: Any) -> None:
    """The engine that comes second gives what CUDA holds for both, where it sees that."""
    gpu = SharedGPU()
    pools = order(gpu)
    assert all(450 - 80 - 20 <= pool <= 450 - 80 for pool in pools)
    assert gpu.used <= 900 + 2 * 10


def test_of_two_engines_beside_another_program_none_takes_what_is_not_there() -> None:
    gpu = SharedGPU(foreign=300)
    first, second = one_after_the_other(gpu)
    assert (first, second, gpu.used) == (450 - 80, 50, 900)
    with pytest.raises(ConfigError, match=r"others hold 910.*each of 2 engines may have 450"):
        one_after_the_other(SharedGPU(foreign=500))


def test_no_room_for_a_pool_is_refused_with_the_numbers() -> None:
    memory = FakeMemory()
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization.*others hold 100.*need 550"):
        profile_memory(memory, 0.6, memory.step)


def test_the_pool_is_measured_with_a_step_of_the_largest_size(path: Path) -> None:
    config = make_config(
        model=str(path),
        dtype="float32",
        max_num_batched_tokens=50,
        max_num_seqs=7,
        block_size=BLOCK,
    )
    worker = UniprocExecutor(config).worker
    seen: list[tuple[int, int]] = []
    run = worker.runner._run_model

    def watched(inputs: Any, capture: Any = None) -> torch.Tensor:
        seen.append((inputs.input_ids.numel(), inputs.metadata.seq_lens.numel()))
        return run(inputs, capture)

    worker.runner._run_model = watched  # type: ignore[method-assign]
    assert worker.measure_kv_memory(FakeMemoryOfWorker()) == 900 - 100 - 550
    assert seen == [(50, 7)]
    assert worker.runner.kv_caches == []  # the small cache of that step is gone


def test_engines_on_one_gpu_measure_a_share_each(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"data_parallel_size": 4, "engine_processes": True, "dtype": "float32"}
    worker = UniprocExecutor(make_config(model=str(path), **flags)).worker
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)  # so one of them has two
    monkeypatch.setattr(FakeMemoryOfWorker, "peak", lambda _: 50)
    assert worker.measure_kv_memory(FakeMemoryOfWorker()) == 450 - 50


class FakeMemoryOfWorker(FakeMemory):
    def peak(self) -> int:
        return 550


@pytest.mark.parametrize("share", [0, -0.5, 1.5, True, "half"])
def test_a_share_of_the_memory_is_a_number_up_to_one(share: Any) -> None:
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        make_config(gpu_memory_utilization=share)


def test_worker_records_what_its_limits_allow(path: Path) -> None:
    config = make_config(model=str(path), dtype="float32", max_num_seqs=5, num_kv_blocks=20)
    worker = UniprocExecutor(config).worker
    worker.runner.backend = GatheringAttention()
    worker.keep_buffers()
    worker.initialize_kv_cache()
    assert worker.graph_sizes == []  # not on a CPU
    worker.record_graphs(RecordedCapture())
    assert worker.graph_sizes == [1, 2, 4, 8]
