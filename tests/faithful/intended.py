"""The intended differences: where our scheduler decides otherwise than vLLM's, on purpose.

Each has the smallest plan that shows it, and where the two part. The committed vectors hold what
vLLM did; ``test_vllm_vectors.py`` sees that we still part there, and there only. README.md has the
reasons at length, and what is not compared at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.faithful.plans import Plan, PlannedRequest


@dataclass(frozen=True)
class IntendedDifference:
    name: str
    vllm: str
    minivllm: str
    reason: str
    plan: Plan
    parts_at: tuple[int, str]
    """The step and the field of the record."""


_ROOMY: dict[str, Any] = {
    "num_kv_blocks": 17,
    "block_size": 4,
    "max_model_len": 40,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "policy": "fcfs",
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "long_prefill_token_threshold": 0,
    "watermark": 0.0,
}


def _request(prompt: list[int], max_tokens: int, **fields: Any) -> PlannedRequest:
    return PlannedRequest(
        **{"arrive": 1, "output": [1] * max_tokens, **fields}, prompt=prompt, max_tokens=max_tokens
    )


_LONG = [1, 2, 3, 1, 2, 3, 3] * 4

INTENDED = [
    IntendedDifference(
        name="refunded hashes",
        vllm="a victim that was already scheduled in this step keeps the hashes of its new blocks",
        minivllm="they are un-registered; the blocks go to the front of the free queue",
        reason="the tokens will not run: whoever hits those blocks reads K and V that nobody wrote "
        "(an open defect there, pull request 43569)",
        plan=Plan(
            "refunded hashes",
            _ROOMY | {"num_kv_blocks": 9, "policy": "priority", "long_prefill_token_threshold": 8},
            [
                _request(_LONG, 2, priority=5),
                _request([3], 1),  # company: alone, the first would not be cut to the threshold
                _request([2] * 8, 2, arrive=2),
                _request(_LONG[:22], 2, arrive=4, priority=1),
            ],
        ),
        parts_at=(3, "cached"),
    ),
    IntendedDifference(
        name="room for drafts",
        vllm="others give way for the drafts of a request, as for its own tokens",
        minivllm="where no block is free for them, the drafts are given up for this step",
        reason="a guess that may be wrong is not worth the work of whoever would be preempted",
        plan=Plan(
            "room for drafts",
            _ROOMY | {"num_kv_blocks": 3},
            [_request([1] * 2, 4, drafts={"1": [1, 1]}), _request([2] * 2, 4)],
        ),
        parts_at=(2, "grants"),
    ),
    IntendedDifference(
        name="outgrown pool",
        vllm="a sequence that needs more blocks than the pool has preempts everybody, then itself, "
        "and waits for ever at the head of the queue",
        minivllm="it ends with finish_reason length, before any victim is taken",
        reason="vLLM refuses to start where the pool does not hold max_model_len tokens; here "
        "small pools are allowed, since they teach the most",
        plan=Plan("outgrown pool", _ROOMY | {"num_kv_blocks": 4}, [_request([1] * 8, 20)]),
        parts_at=(6, "preempted"),
    ),
    IntendedDifference(
        name="prompt larger than the pool",
        vllm="it waits for ever at the head of the queue",
        minivllm="it is refused when it arrives",
        reason="as above: there it cannot come about",
        plan=Plan("larger than the pool", _ROOMY | {"num_kv_blocks": 4}, [_request([1] * 13, 1)]),
        parts_at=(1, "grants"),
    ),
    IntendedDifference(
        name="threshold with chunking off",
        vllm="long_prefill_token_threshold cuts a prompt even where chunked prefill is off",
        minivllm="the threshold is a matter of chunked prefill: without it prompts run whole",
        reason="vLLM documents it as a setting of chunked prefill; a knob named off that does not "
        "switch off teaches the wrong thing",
        plan=Plan(
            "threshold with chunking off",
            _ROOMY | {"enable_chunked_prefill": False, "long_prefill_token_threshold": 4},
            [_request([1] * 6, 1), _request([2] * 6, 1)],
        ),
        parts_at=(1, "grants"),
    ),
    IntendedDifference(
        name="end before min_tokens",
        vllm="EOS or a stop id ends a request even before min_tokens; the sampler's mask alone "
        "sees to it that neither is drawn",
        minivllm="the stop checks wait for min_tokens, too",
        reason="tokens may be given instead of drawn (scenarios, replay), and no mask has seen "
        "those; where a sampler draws, both do the same",
        plan=Plan(
            "end before min_tokens",
            _ROOMY,
            [_request([1, 2], 3, output=[5, 1, 1], min_tokens=2, ignore_eos=False)],
        ),
        parts_at=(1, "outputs"),
    ),
]  # fmt: skip
