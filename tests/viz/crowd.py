"""A crowd as a trace: 256 requests in a pool of 10,000 blocks, with shared prefixes; no model."""

from __future__ import annotations

from pathlib import Path
from random import Random

from minivllm.engine.messages import EngineCoreRequest
from minivllm.sampling_params import SamplingParams
from minivllm.scenario import Scenario, start

ENGINE = {
    "num_kv_blocks": 10_001,
    "block_size": 16,
    "max_num_batched_tokens": 16_384,
    "max_num_seqs": 256,
    "max_model_len": 2048,
}


def record_crowd(path: Path, steps: int = 8, requests: int = 300) -> Path:
    """Some end within the steps, so that the queue has cached blocks, too."""
    run = start(Scenario(name="crowd", engine=ENGINE, request=[]), trace_path=str(path))
    random = Random(1)
    for i in range(1, requests + 1):
        shared = [1000 * random.randrange(6) + j for j in range(96)]
        own = [random.randrange(5000) for _ in range(random.randrange(40, 300))]
        ends = SamplingParams(max_tokens=random.choice([2, 4, 40]), ignore_eos=True)
        run.core.add_request(
            EngineCoreRequest(
                request_id=f"q{i}", prompt_token_ids=shared + own, sampling_params=ends, priority=0
            )
        )
    for _ in range(steps):
        run.core.step()
    run.recorder.close()
    return path
