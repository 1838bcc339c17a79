"""The metrics of an engine as data: name, kind, labels, buckets, and what it says.

They are vLLM's (0.32), so that whatever was built on its names works here: dashboards, alerts,
autoscalers. Prometheus appends ``_total`` to a counter, ``_bucket``, ``_sum`` and ``_count`` to a
histogram. Counterpart in vLLM: ``vllm/v1/metrics/loggers.py``, ``buckets.py`` and
``vllm/v1/spec_decode/metrics.py``. Left out, though vLLM always shows them:
``external_prefix_cache_queries`` and ``_hits``, ``mm_cache_queries`` and ``_hits`` (nothing here is
external or multimodal), ``lora_requests_info``, and the ``http_requests_total`` and
``http_request_duration_seconds`` of its FastAPI instrumentator (see ``minivllm:http_responses``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PREFIX = "vllm:"

QUEUE_LIMITS = ("max_num_queued_reqs", "max_num_queued_tokens")
"""What ``vllm:admission_rejections`` counts by."""

LATENCY: tuple[float, ...] = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120)
LATENCY += (240, 480, 960, 1920, 7680)
TTFT: tuple[float, ...] = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1)
TTFT += (2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
ITL: tuple[float, ...] = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
ITL += (7.5, 10, 20, 40, 80)
STEP_TOKENS = (1, *(2**i for i in range(3, 15)))
N = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
"""Upper bounds: seconds, or counts."""


@dataclass(frozen=True, slots=True)
class MetricName:
    name: str
    """Without ``vllm:``."""
    kind: Literal["gauge", "counter", "histogram"]
    doc: str
    label: str | None = None
    """Beside ``model_name`` and ``engine``, which all have."""
    values: tuple[str, ...] = ()
    """The label's values that are there from the start."""
    buckets: tuple[float, ...] = ()


def engine_metrics(max_model_len: int) -> Iterator[MetricName]:
    """All metrics that each engine has; ``max_model_len``, in tokens, ends some buckets."""

    def gauge(name: str, doc: str, label: str | None = None, *values: str) -> MetricName:
        return MetricName(name, "gauge", doc, label, values)

    def counter(name: str, doc: str, label: str | None = None, *values: str) -> MetricName:
        return MetricName(name, "counter", doc, label, values)

    def histogram(name: str, doc: str, buckets: tuple[float, ...]) -> MetricName:
        return MetricName(name, "histogram", doc, buckets=buckets)

    tokens = _steps_1_2_5(max_model_len)

    # How the engine stands.
    yield gauge("num_requests_running", "Requests that run.")
    yield gauge("num_requests_waiting", "Requests that wait, for whatever reason.")
    reasons = "capacity", "deferred"
    doc = "Requests that wait: for room in the batch or the pool, or for a grammar (deferred)."
    yield gauge("num_requests_waiting_by_reason", doc, "reason", *reasons)
    yield gauge("kv_cache_usage_perc", "Share of the KV blocks that is in use, 0 to 1.")
    states = "awake", "weights_offloaded", "discard_all"
    yield gauge("engine_sleep_state", "Always awake: no sleep mode here.", "sleep_state", *states)

    # What it has done.
    yield counter("prompt_tokens", "Tokens of prompts that have got their first token.")
    sources = "local_compute", "local_cache_hit", "external_kv_transfer"
    yield counter(
        "prompt_tokens_by_source", "The same by where K and V came from.", "source", *sources
    )
    yield counter("prompt_tokens_cached", "Of them, tokens found in the prefix cache.")
    doc = "Tokens found in the prefix cache at admission, by where they lay."
    yield counter("prompt_tokens_cached_by_source", doc, "source", "device")
    yield counter("generation_tokens", "Tokens that were sampled and kept.")
    yield counter("prefix_cache_queries", "Tokens of admitted prompts that were looked up.")
    yield counter("prefix_cache_hits", "Tokens of them that were found.")
    yield counter("num_preemptions", "Times that a request gave way to another.")
    ends = "stop", "length", "abort", "error", "repetition"
    yield counter("request_success", "Requests that have ended.", "finished_reason", *ends)
    yield counter("spec_decode_num_drafts", "Times that a request ran with drafts.")
    yield counter("spec_decode_num_draft_tokens", "Draft tokens that ran.")
    yield counter("spec_decode_num_accepted_tokens", "Draft tokens that were right.")
    doc = "The same by their place in the draft, from 0."
    yield counter("spec_decode_num_accepted_tokens_per_pos", doc, "position")

    # How it was spread.
    yield histogram("iteration_tokens_total", "Tokens that ran in a step.", STEP_TOKENS)
    yield histogram("time_to_first_token_seconds", "From arrival to the first token.", TTFT)
    yield histogram("inter_token_latency_seconds", "From one output to the next.", ITL)
    doc = "Decode time by token after the first, of a request."
    yield histogram("request_time_per_output_token_seconds", doc, ITL)
    yield histogram("e2e_request_latency_seconds", "From arrival to the end.", LATENCY)
    yield histogram("request_queue_time_seconds", "From the queue to the first step.", LATENCY)
    doc = "From the first step to the first token."
    yield histogram("request_prefill_time_seconds", doc, LATENCY)
    doc = "From the first token to the last."
    yield histogram("request_decode_time_seconds", doc, LATENCY)
    doc = "From the first step to the last token."
    yield histogram("request_inference_time_seconds", doc, LATENCY)
    yield histogram("request_prompt_tokens", "Tokens of a prompt.", tokens)
    yield histogram("request_generation_tokens", "Tokens that a request said.", tokens)
    doc = "Tokens of the longest of a request's n samples."
    yield histogram("request_max_num_generation_tokens", doc, tokens)
    yield histogram("request_params_max_tokens", "The parameter max_tokens.", tokens)
    yield histogram("request_params_n", "The parameter n.", N)
    yield histogram("request_num_preemptions", "Times that a request gave way.", PREEMPTIONS)
    doc = "Tokens of a prompt that were computed and not found in the cache."
    yield histogram("request_prefill_kv_computed_tokens", doc, tokens)


def _steps_1_2_5(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 … up to ``most``."""
    steps: list[float] = []
    power = 1
    while power <= most:
        steps += [digit * power for digit in (1, 2, 5) if digit * power <= most]
        power *= 10
    return tuple(steps)
