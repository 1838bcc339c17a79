"""``GET /metrics``: the engines' statistics and the server's own counters, for Prometheus.

Names that begin with ``vllm:`` are vLLM's, so its dashboards work unchanged (``metric_names.py``,
``stat_logger.py``); what it has no word for begins with ``minivllm:``. Each application has a
registry of its own: two of them in one process do not add up.

Counterpart in vLLM: ``vllm/entrypoints/serve/instrumentator/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from minivllm.api.metric_names import QUEUE_LIMITS
from minivllm.api.stat_logger import PrometheusStatLogger
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.client import EngineCoreClient

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The form that every Prometheus reads."""

FACTS = ("block_size", "num_gpu_blocks", "enable_prefix_caching")
"""Labels of ``vllm:cache_config_info``, by vLLM's names: a CPU's blocks are "GPU" blocks, too."""


class ServerMetrics:
    """What the server counts. All methods may be called from any thread."""

    def __init__(self, llm: AsyncLLM, model: str) -> None:
        """Listens to ``llm`` from now on."""
        self.registry = registry = CollectorRegistry()
        engines = [status.engine for status in llm.client.engines()]
        llm.add_stat_logger(PrometheusStatLogger(registry, model, llm.max_model_len, engines))
        self._tell_cache(llm, engines)
        registry.register(EngineStates(llm.client, model))
        ProcessCollector(registry=registry)  # CPU, memory, open files; on Linux
        self._model = model

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(name, doc, ("model_name", *labels), registry=registry)

        self._rejections = counter(
            "vllm:admission_rejections", "Requests refused because of a queue's limit.", "reason"
        )
        for reason in QUEUE_LIMITS:
            self._rejections.labels(model, reason)
        self._responses = counter(
            "minivllm:http_responses",
            "Answers, by status; of a stream that broke off, the status it would have had (499: "
            "its client left).",
            "status",
        )
        self._timeouts = counter(
            "minivllm:request_timeouts", "Requests ended because their time was up."
        ).labels(model)
        self._disconnects = counter(
            "minivllm:client_disconnects", "Requests ended because their client had gone."
        ).labels(model)
        self._slow_readers = counter(
            "minivllm:slow_readers", "Streams ended because their client did not read."
        ).labels(model)

    def _tell_cache(self, llm: AsyncLLM, engines: Iterable[int]) -> None:
        facts = llm.client.facts()
        info = Gauge(
            "vllm:cache_config_info",
            "The KV pool's settings, as labels.",
            (*FACTS, "engine"),
            registry=self.registry,
        )
        caching = facts.get("enable_prefix_caching", False)
        values = facts["block_size"], facts["num_kv_blocks"], caching
        for engine in engines:
            info.labels(*values, engine).set(1)

    def rejected(self, reason: str) -> None:
        """A request was not let in: ``max_num_queued_reqs``, or another limit by its name."""
        self._rejections.labels(self._model, reason).inc()

    def answered(self, status: int) -> None:
        self._responses.labels(self._model, str(status)).inc()

    def timed_out(self) -> None:
        self._timeouts.inc()

    def disconnected(self) -> None:
        self._disconnects.inc()

    def slow_reader(self) -> None:
        self._slow_readers.inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)


class EngineStates(Collector):
    """What the client knows of its engines, asked when somebody looks."""

    def __init__(self, client: EngineCoreClient, model: str) -> None:
        self._client, self._model = client, model

    def collect(self) -> Iterator[Metric]:
        labels = ["model_name", "engine"]
        up = GaugeMetricFamily(
            "minivllm:engine_up", "1 if it takes requests and gives signs of life.", labels=labels
        )
        stalled = GaugeMetricFamily(
            "minivllm:engine_stalled_seconds",
            "How long it has not moved though it has work, or given no sign of life.",
            labels=labels,
        )
        restarts = CounterMetricFamily(
            "minivllm:engine_restarts", "Times that it was started again.", labels=labels
        )
        for status in self._client.engines():
            of = [self._model, str(status.engine)]
            up.add_metric(of, status.state == "ready" and status.responsive)
            stalled.add_metric(of, status.stalled_s)
            restarts.add_metric(of, status.epoch - 1)
        yield from (up, stalled, restarts)

    def describe(self) -> list[Metric]:
        """None: or the registry would ask the client for its names at once."""
        return []


@dataclass(slots=True)
class MetricsRoute:
    metrics: ServerMetrics

    def add_to(self, bp: Blueprint) -> None:
        bp.get("/metrics", endpoint="metrics")(self.show)

    def show(self) -> Response:
        return Response(self.metrics.render(), content_type=CONTENT_TYPE)
