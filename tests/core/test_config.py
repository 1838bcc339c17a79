"""Configuration: a bad value is named with what was given and what is allowed."""

from __future__ import annotations

import dataclasses

import pytest

from minivllm.config import EngineConfig, make_config
from minivllm.errors import ConfigError

NAN = float("nan")

BAD = {
    "model": ["", 3],
    "dtype": ["float64", "half", 32],
    "quantization": ["q8", "", 4],
    "enforce_eager": ["yes", 1],
    "max_model_len": [1, 0, -5, 2.5, True, "64"],
    "seed": [-1, 2**63, 1.5, "0"],
    "served_model_name": ["", 3],
    "attention_backend": ["cuda", "Triton", 1],
    "block_size": [0, -1, 1025, 4.0, True, "16"],
    "num_kv_blocks": [1, 0, -3, 1.5, True, 2**22 + 1],
    "kv_cache_memory": [0, -1, 1.5],
    "gpu_memory_utilization": [0, -0.1, 1.01, NAN, "0.9", True],
    "enable_prefix_caching": ["no", 1, 0],
    "max_num_batched_tokens": [0, -1, 2.5, True],
    "max_num_seqs": [0, -1, "8"],
    "policy": ["lifo", 1, ["fcfs"]],
    "enable_chunked_prefill": ["off", 1],
    "long_prefill_token_threshold": [-1, 0.5, False],
    "watermark": [-0.1, 1, 1.5, NAN, "0.1", True, False],
    "admission": ["loose", 0],
    "batching": ["dynamic", True],
    "scheduler_cls": ["", "mine", 3, ["a.b"]],
    "kv_manager_cls": ["", "mine", 3],
    "contiguous_reserve": ["all", 0],
    "speculative_ngram": [-1, 65, 1.5, True],
    "prompt_lookup_min": [0, -1, 2.5],
    "prompt_lookup_max": [0, 1, "4"],
    "data_parallel_size": [0, -1, 65, 1.5, True, "2"],
    "data_parallel_rank": [-1, 64, 1.5, True, "0"],
    "engine_processes": ["yes", 1],
    "routing_policy": ["random", 1],
    "engine_stall_timeout": [-1, NAN, float("inf"), "60", True],
    "engine_step_timeout": [-1, NAN, float("inf"), "60", True],
    "path": ["", 3],
    "live": ["yes", 1],
    "level": ["all", "Tensors", 1],
    "tensors_limit": [0, 2**16 - 1, -1, True, "256MiB", 1.5],
    "retention": [0, -1, 1.5, "5", True],
    "redact": ["yes", 1],
    "check": ["yes", 1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD.items() for value in values]
)
def test_bad_value_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**{field: value})
    error = caught.value
    assert (error.field, error.given) == (field, value) or value is NAN
    assert str(error).startswith(f"{field}: got {value!r}; allowed: ") and error.allowed


def test_every_field_has_bad_values_above() -> None:
    config = EngineConfig()
    parts = config.model, config.cache, config.scheduler, config.parallel, config.trace
    names = {f.name for part in parts for f in dataclasses.fields(part)}
    assert names == set(BAD)


def test_flat_names_find_their_section() -> None:
    config = make_config(block_size=4, max_num_seqs=3, seed=7, live=True)
    assert (config.cache.block_size, config.scheduler.max_num_seqs) == (4, 3)
    assert (config.model.seed, config.trace.live) == (7, True)


def test_none_leaves_a_value_as_it_is() -> None:
    base = make_config(block_size=4)
    assert make_config(base, block_size=None, max_num_seqs=None) == base


def test_changes_are_made_over_the_base_and_leave_it_alone() -> None:
    base = make_config(block_size=4, max_num_seqs=3)
    changed = make_config(base, block_size=8)
    assert (changed.cache.block_size, changed.scheduler.max_num_seqs) == (8, 3)
    assert base.cache.block_size == 4


def test_unknown_name_gets_the_nearest_that_exists() -> None:
    with pytest.raises(ConfigError, match="did you mean max_num_seqs") as caught:
        make_config(max_num_seq=3)
    assert caught.value.field == "max_num_seq" and "block_size" in caught.value.allowed


def test_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(zzz=1)
    assert "did you mean" not in str(caught.value) and "block_size" in str(caught.value)


def test_budget_must_hold_a_whole_prompt_while_chunking_is_off() -> None:
    config = make_config(enable_chunked_prefill=False, max_num_batched_tokens=100)
    config.check_with_model_len(100)
    with pytest.raises(ConfigError, match="at least max_model_len \\(101\\)"):
        config.check_with_model_len(101)
    make_config(max_num_batched_tokens=1).check_with_model_len(10_000)


def test_vllms_name_of_the_policy_is_taken_too() -> None:
    assert make_config(scheduling_policy="priority").scheduler.policy == "priority"
    assert make_config(scheduling_policy="priority", policy=None).scheduler.policy == "priority"
    assert make_config(scheduling_policy=None, policy="priority").scheduler.policy == "priority"
    with pytest.raises(ConfigError, match="--scheduling-policy"):
        make_config(scheduling_policy="lifo")
    with pytest.raises(ConfigError, match=r"scheduling_policy: .*policy is 'fcfs'"):
        make_config(scheduling_policy="priority", policy="fcfs")
    with pytest.raises(ConfigError, match=r"did you mean scheduling_policy\?"):
        make_config(scheduling_polcy="fcfs")


def test_a_reserve_that_paged_would_not_heed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"contiguous_reserve: .*paged takes blocks when"):
        make_config(contiguous_reserve="request")
    for knobs in ({"kv_manager_cls": "contiguous"}, {"kv_manager_cls": "examples/x.py:Mine"}):
        make_config(contiguous_reserve="request", enable_prefix_caching=False, **knobs)
