"""UniprocExecutor: what it tells of itself, and the size of its pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from minivllm.config import make_config
from minivllm.core.scheduler_output import CachedRequestData, NewRequestData, SchedulerOutput
from minivllm.errors import ConfigError, ModelError
from minivllm.executor.base import Executor
from minivllm.executor.uniproc import UniprocExecutor
from minivllm.sampling_params import SamplingParams
from tests.model.builders import (
    random_prompt,
    reference_greedy,
    reference_llama,
    save_gguf,
    save_hf,
)

TOKEN_BYTES = 2 * 3 * 2 * 16 * 4  # K and V · layers · K/V heads · head_dim · float32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("uniproc") / "small-llama"
    return str(save_hf(reference_llama(), directory).path)


def executor(path: str, **flat: Any) -> UniprocExecutor:
    return UniprocExecutor(make_config(model=path, **flat))


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_one_step_from_either_format_samples_transformers_token(kind: str, tmp_path: Path) -> None:
    reference = reference_llama()
    source = (
        save_hf(reference, tmp_path / "m")
        if kind == "safetensors"
        else save_gguf(reference, tmp_path / "m.gguf")
    )
    runs: Executor = executor(str(source.path), dtype="float32", num_kv_blocks=8)
    assert runs.initialize_kv_cache() == 8
    prompt = random_prompt(9, seed=1)
    new = NewRequestData("r1", prompt, SamplingParams(temperature=0), 0, [], [3], 0)
    output = runs.execute_model(SchedulerOutput(1, [new], CachedRequestData(), {"r1": 9}, 9, []))
    assert output.sampled_token_ids == {"r1": reference_greedy(reference, prompt, 1)}
    runs.shutdown()


def test_facts_for_the_header(path: str) -> None:
    facts = executor(path, dtype="float32").describe()
    assert facts["model"] == "small-llama"
    assert facts["dtype"] == "float32"
    assert facts["fidelity"] == "live"
    assert facts["kernel_path"] == {"cpu": "torch", "cuda": "triton"}[str(facts["device"])]
    assert isinstance(facts["threads"], int)


def test_triton_on_a_cpu_is_refused_before_the_weights_are_read(path: str) -> None:
    no_gpu = mock.patch("torch.cuda.is_available", return_value=False)
    unread = mock.patch("minivllm.worker.worker.load_model", side_effect=AssertionError("read"))
    with no_gpu, unread:
        with pytest.raises(ConfigError, match="attention_backend: got 'triton'"):
            executor(path, attention_backend="triton")


@pytest.mark.parametrize("block_size", [4, 16])
def test_pool_is_as_large_as_its_memory_allows(path: str, block_size: int) -> None:
    room = 10 * block_size * TOKEN_BYTES
    for memory, blocks in ((room, 10), (room + block_size * TOKEN_BYTES - 1, 10)):
        runs = executor(path, dtype="float32", kv_cache_memory=memory, block_size=block_size)
        assert runs.initialize_kv_cache() == blocks
        caches = runs.worker.runner.kv_caches
        assert sum(cache.numel() * 4 for cache in caches) == room


def test_bfloat16_fits_twice_the_blocks(path: str) -> None:
    memory = 10 * 16 * TOKEN_BYTES
    runs = executor(path, dtype="bfloat16", kv_cache_memory=memory)
    assert runs.initialize_kv_cache() == 20


def test_memory_for_less_than_two_blocks_is_refused_with_what_is_needed(path: str) -> None:
    runs = executor(path, dtype="float32", kv_cache_memory=16 * TOKEN_BYTES)
    with pytest.raises(ConfigError, match=f"kv_cache_memory.*at least {2 * 16 * TOKEN_BYTES}"):
        runs.initialize_kv_cache()


@pytest.mark.parametrize("kv_cache_memory", [2**50, 2**70, 2**90])
def test_pool_beyond_the_memory_is_refused_with_its_size(path: str, kv_cache_memory: int) -> None:
    runs = executor(path, dtype="float32", kv_cache_memory=kv_cache_memory)
    wanted = kv_cache_memory // (16 * TOKEN_BYTES) * 16 * TOKEN_BYTES
    with pytest.raises(ConfigError, match=f"{wanted} bytes wanted, reduce num_kv_blocks"):
        runs.initialize_kv_cache()


def test_context_is_the_models_own_unless_a_shorter_one_is_asked_for(path: str) -> None:
    assert executor(path).max_model_len == 512
    assert executor(path, max_model_len=100).max_model_len == 100
    with pytest.raises(ConfigError, match=r"max_model_len: got 513.*512"):
        executor(path, max_model_len=513)


def test_unknown_model_lists_what_is_supported() -> None:
    with pytest.raises(ModelError, match="smollm2-135m"):
        executor("no-such-model")
