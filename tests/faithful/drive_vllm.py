"""Carry plans out with vLLM's own Scheduler; no weights, no worker.

    python -m tests.faithful.drive_vllm < plans.jsonl > records.jsonl

Runs in an environment that has vLLM (see README.md) and imports nothing of minivllm. A line in is
a plan, a line out is ``{"steps": [record, …]}`` or ``{"error": …}``; the first line out is the
version.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # tells resumed requests from new ones

import torch
import vllm
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tests.faithful.plans import EOS, Plan, PlannedRequest, say
from tests.faithful.records import MAX_STEPS, Record

_TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}


class WatchedScheduler(Scheduler):
    """Notes the order in which requests give way; vLLM itself reports them as a set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preempted: list[str] = []

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.preempted.append(request.request_id)
        super()._preempt_request(request, *args, **kwargs)


def model_directory() -> str:
    path = tempfile.mkdtemp(prefix="tiny-llama-")
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(_TINY_LLAMA, file)
    return path


def build(plan: Plan, model: str) -> WatchedScheduler:
    knobs = plan.knobs
    model_config = ModelConfig(
        model=model, skip_tokenizer_init=True, dtype="float32", max_model_len=knobs["max_model_len"]
    )
    cache_config = CacheConfig(
        block_size=knobs["block_size"], enable_prefix_caching=knobs["enable_prefix_caching"]
    )
    scheduler_config = SchedulerConfig(
        max_model_len=knobs["max_model_len"],
        is_encoder_decoder=False,
        async_scheduling=False,
        **{
            name: knobs[name]
            for name in (
                "max_num_seqs",
                "max_num_batched_tokens",
                "policy",
                "enable_chunked_prefill",
                "long_prefill_token_threshold",
                "watermark",
            )
        },
    )
    config = VllmConfig(
        model_config=model_config, cache_config=cache_config, scheduler_config=scheduler_config
    )
    # VllmConfig adapts some knobs to the device; the plan's are what is compared.
    cache_config.block_size = knobs["block_size"]
    cache_config.num_gpu_blocks = knobs["num_kv_blocks"]
    cache_config.enable_prefix_caching = knobs["enable_prefix_caching"]
    for name in ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"):
        assert getattr(config.scheduler_config, name) == knobs[name], name
    spec = FullAttentionSpec(
        block_size=knobs["block_size"], num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    return WatchedScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=knobs["num_kv_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=knobs["block_size"],
        log_stats=False,
    )


class Drive:
    def __init__(self, plan: Plan, model: str) -> None:
        self.plan = plan
        self.scheduler = build(plan, model)
        self.hasher = get_request_block_hasher(plan.knobs["block_size"], sha256)
        self.planned: dict[str, PlannedRequest] = {}

    def run(self) -> list[Record]:
        records = []
        for step in range(1, MAX_STEPS):
            record = self.put_in(step)
            if self.scheduler.has_unfinished_requests():
                record |= self.step()
            elif step > self.plan.last_input:
                break
            records.append(record)
        return records

    def put_in(self, step: int) -> Record:
        for number, planned in enumerate(self.plan.requests, start=1):
            if planned.arrive == step:
                self.add(number, planned)
        for when, number in self.plan.aborts:
            if when == step:
                self.scheduler.finish_requests(f"r{number}", RequestStatus.FINISHED_ABORTED)
        return {
            "reset": [self.scheduler.reset_prefix_cache() for s in self.plan.resets if s == step]
        }

    def add(self, number: int, planned: PlannedRequest) -> None:
        params = SamplingParams(
            max_tokens=planned.max_tokens,
            min_tokens=planned.min_tokens,
            ignore_eos=planned.ignore_eos,
            stop_token_ids=list(planned.stop_token_ids),
        )
        params.update_from_generation_config({}, EOS)
        request = Request(
            request_id=f"r{number}",
            prompt_token_ids=list(planned.prompt),
            sampling_params=params,
            pooling_params=None,
            arrival_time=float(number),
            priority=planned.priority,
            cache_salt=planned.cache_salt,
            block_hasher=self.hasher,
        )
        self.planned[request.request_id] = planned
        self.scheduler.add_request(request)

    def step(self) -> Record:
        scheduler = self.scheduler
        scheduler.preempted.clear()
        scheduled = scheduler.schedule()
        cached = scheduled.scheduled_cached_reqs
        starts = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        record = {
            "grants": [[r, starts[r], n] for r, n in scheduled.num_scheduled_tokens.items()],
            "new": [new.req_id for new in scheduled.scheduled_new_reqs],
            "resumed": sorted(cached.resumed_req_ids),
            "preempted": list(scheduler.preempted),
            "tables": self.tables(),
            "running": [request.request_id for request in scheduler.running],
            "waiting": [request.request_id for request in scheduler.waiting],
            "free": self.free(),
            "cached": self.cached(),
        }
        outputs = scheduler.update_from_output(scheduled, self.execute(scheduled))
        self.draft(scheduled)
        record["outputs"] = [
            [
                one.request_id,
                list(one.new_token_ids),
                str(one.finish_reason) if one.finish_reason is not None else None,
                one.stop_reason,
                one.prefill_stats.num_cached_tokens if one.prefill_stats is not None else None,
            ]
            for one in (outputs[0].outputs if 0 in outputs else [])
        ]
        running = [request.request_id for request in scheduler.running]
        record["after"] = [running, self.free(), self.cached()]
        return record

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Whoever's last known token has run says the next one."""
        req_ids = list(scheduled.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for req_id in req_ids:
            request = self.scheduler.requests[req_id]
            guessed = scheduled.scheduled_spec_decode_tokens.get(req_id, [])
            complete = request.num_computed_tokens - len(guessed) == request.num_tokens
            said = say(self.planned[req_id], request.num_output_tokens, guessed) if complete else []
            sampled.append(said)
        index = {req_id: i for i, req_id in enumerate(req_ids)}
        return ModelRunnerOutput(req_ids=req_ids, req_id_to_index=index, sampled_token_ids=sampled)

    def draft(self, scheduled: SchedulerOutput) -> None:
        """Whoever said something in this step and goes on gets its next drafts."""
        drafts = DraftTokenIds([], [])
        for req_id in scheduled.num_scheduled_tokens:
            request = self.scheduler.requests.get(req_id)
            if request is not None:
                guess = self.planned[req_id].drafts.get(str(request.num_output_tokens), [])
                drafts.req_ids.append(req_id)
                drafts.draft_token_ids.append(list(guess))
        self.scheduler.update_draft_token_ids(drafts)

    # --- what the engine holds -----------------------------------------------------------------

    def tables(self) -> dict[str, list[int]]:
        manager = self.scheduler.kv_cache_manager.coordinator.single_type_managers[0]
        tables = sorted(manager.req_to_blocks.items())
        return {name: [b.block_id for b in table] for name, table in tables if table}

    def free(self) -> list[int]:
        queue = self.scheduler.kv_cache_manager.block_pool.free_block_queue
        return [block.block_id for block in queue.get_all_free_blocks()]

    def cached(self) -> list[list[int]]:
        found = self.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block._cache
        return sorted(
            list(under) if isinstance(under, dict) else [under.block_id] for under in found.values()
        )


def main() -> None:
    init_none_hash(sha256)
    model = model_directory()
    answers = sys.stdout
    answers.write(json.dumps({"vllm": vllm.__version__}) + "\n")
    # vLLM logs and warns where it likes; only answers go to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                answer: dict[str, Any] = {
                    "steps": Drive(Plan.from_json(json.loads(line)), model).run()
                }
            except Exception:
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
