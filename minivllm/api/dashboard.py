"""The Grafana dashboard over ``/metrics``, made from a table of panels.

    python -m minivllm.api.dashboard > grafana/minivllm.json

Read from top left: is it up, how busy is it, how fast for its callers, where does their time go,
what does the cache do, what was refused. vLLM's own dashboards work on the same metrics; this one
adds engines and refusals. A test makes sure that the file is what this says, and that every query
names a metric that ``/metrics`` shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # a panel, in Grafana's grid of 24 columns

ENGINES = '{model_name="$model_name", engine=~"$engine"}'
SERVER = '{model_name="$model_name"}'


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    says: str
    """What to look for."""
    unit: str
    queries: tuple[tuple[str, str], ...]
    """(PromQL, legend)"""


def rate(metric: str, by: str = "", of: str = ENGINES) -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{of}[$__rate_interval]))"


def quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    buckets = rate(f"{histogram}_bucket", by="le")
    return tuple(
        (f"histogram_quantile({q}, {buckets})", f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)
    )


def share(part: str, whole: str) -> str:
    return f"{rate(part)} / {rate(whole)}"


def mean(histogram: str) -> str:
    return share(f"{histogram}_sum", f"{histogram}_count")


PANELS = (
    Panel(
        "Engines",
        "1: it takes requests. 0: it starts, drains, or is dead.",
        "none",
        (
            (f"minivllm:engine_up{ENGINES}", "engine {{engine}}"),
            (f"minivllm:engine_restarts_total{ENGINES}", "restarts of {{engine}}"),
        ),
    ),
    Panel(
        "Requests",
        "Waiting for capacity while the KV pool is full: memory is the limit; else the batch is.",
        "none",
        (
            (f"sum (vllm:num_requests_running{ENGINES})", "running"),
            (f"sum by (reason) (vllm:num_requests_waiting_by_reason{ENGINES})", "{{reason}}"),
        ),
    ),
    Panel(
        "KV pool in use",
        "Blocks that requests hold. At 100 % somebody is preempted next.",
        "percentunit",
        ((f"vllm:kv_cache_usage_perc{ENGINES}", "engine {{engine}}"),),
    ),
    Panel(
        "Time to first token",
        "From arrival; the queue is in it.",
        "s",
        quantiles("vllm:time_to_first_token_seconds"),
    ),
    Panel(
        "Between two tokens",
        "Long prompts that share the batch, and preemptions, show here.",
        "s",
        quantiles("vllm:inter_token_latency_seconds"),
    ),
    Panel(
        "Whole request",
        "From arrival to its last word.",
        "s",
        quantiles("vllm:e2e_request_latency_seconds"),
    ),
    Panel(
        "Where a request's time goes",
        "Means. Queue: wait for room. Prefill: to the first token. Decode: to the last.",
        "s",
        (
            (mean("vllm:request_queue_time_seconds"), "queue"),
            (mean("vllm:request_prefill_time_seconds"), "prefill"),
            (mean("vllm:request_decode_time_seconds"), "decode"),
        ),
    ),
    Panel(
        "Tokens per second",
        "Prompts count with their first token, cached ones included.",
        "none",
        (
            (rate("vllm:prompt_tokens_total"), "prompt"),
            (rate("vllm:generation_tokens_total"), "generation"),
        ),
    ),
    Panel(
        "Tokens in a step",
        "How well the batch is filled.",
        "none",
        ((mean("vllm:iteration_tokens_total"), "mean"),),
    ),
    Panel(
        "Prefix cache",
        "Share of looked-up prompt tokens that need not be computed.",
        "percentunit",
        ((share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"), "found"),),
    ),
    Panel(
        "Preemptions per second",
        "Each throws away what its victim had computed.",
        "none",
        ((rate("vllm:num_preemptions_total", by="engine"), "engine {{engine}}"),),
    ),
    Panel(
        "Drafts that were right",
        "Share of speculated tokens; empty without speculation.",
        "percentunit",
        (
            (
                share(
                    "vllm:spec_decode_num_accepted_tokens_total",
                    "vllm:spec_decode_num_draft_tokens_total",
                ),
                "accepted",
            ),
        ),
    ),
    Panel(
        "Requests that ended, per second",
        "abort: the client went, or was out of time. error: look into the log.",
        "reqps",
        ((rate("vllm:request_success_total", by="finished_reason"), "{{finished_reason}}"),),
    ),
    Panel(
        "Refused and cut off, per second",
        "Refusals by a queue's limit mean: more callers than this server can serve.",
        "reqps",
        (
            (rate("vllm:admission_rejections_total", by="reason", of=SERVER), "{{reason}}"),
            (rate("minivllm:request_timeouts_total", of=SERVER), "out of time"),
            (rate("minivllm:client_disconnects_total", of=SERVER), "client gone"),
            (rate("minivllm:slow_readers_total", of=SERVER), "client does not read"),
        ),
    ),
    Panel(
        "Answers by status, per second",
        "5xx is ours, 4xx is the caller's.",
        "reqps",
        ((rate("minivllm:http_responses_total", by="status", of=SERVER), "{{status}}"),),
    ),
)


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "title": "minivllm",
        "uid": "minivllm",
        "description": "Engines, latencies, KV pool and refusals of a minivllm server.",
        "tags": ["minivllm", "vllm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(i, panel) for i, panel in enumerate(PANELS)],
    }


def _variables() -> list[dict[str, Any]]:
    def labels(name: str, query: str, **more: Any) -> dict[str, Any]:
        asked = {"query": query, "refId": "StandardVariableQuery"}
        variable = {"name": name, "type": "query", "datasource": DATASOURCE, "refresh": 2}
        return {**variable, "definition": query, "query": asked, **more}

    running = "vllm:num_requests_running"
    every = {"text": "All", "value": "$__all"}
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        labels("model_name", f"label_values({running}, model_name)"),
        labels(
            "engine",
            f'label_values({running}{{model_name="$model_name"}}, engine)',
            multi=True,
            includeAll=True,
            current=every,
        ),
    ]


def _panel(i: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(i, COLUMNS)
    return {
        "id": i + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "expr": expr, "legendFormat": of}
            for n, (expr, of) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
