"""PrometheusStatLogger: each step's statistics into the counters that ``/metrics`` shows.

    engine core ──── SchedulerStats ──┐
                                      ├─► the output thread ─► PrometheusStatLogger ─► registry
    output processor ─ IterationStats ┘

Counterpart in vLLM: ``PrometheusStatLogger`` in ``vllm/v1/metrics/loggers.py``. Three numbers are
exact here where vLLM's front end estimates them: ``iteration_tokens_total`` is what a step ran
(there a prompt counts, whole, in the step that ends it), and ``generation_tokens`` and
``num_preemptions`` come from the core: nothing is missed of a request that was aborted meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from minivllm.api.metric_names import PREFIX, MetricName, engine_metrics
from minivllm.engine.messages import SchedulerStats, SpecDecodingStats
from minivllm.engine.stats import FinishedParentStats, FinishedRequestStats, IterationStats

LABELS = ("model_name", "engine")


@dataclass(frozen=True, slots=True)
class Series:
    """The metrics of one engine, by name without ``vllm:`` and, where it has a label, its value."""

    gauges: dict[tuple[str, ...], Gauge]
    counters: dict[tuple[str, ...], Counter]
    histograms: dict[str, Histogram]

    def set(self, value: float, *name: str) -> None:
        self.gauges[name].set(value)

    def count(self, n: int, *name: str) -> None:
        if n:
            self.counters[name].inc(n)

    def observe(self, name: str, value: float | None) -> None:
        """None: there is nothing to observe."""
        if value is not None:
            self.histograms[name].observe(value)


class PrometheusStatLogger:
    """A :class:`~minivllm.engine.stats.StatLogger`. Prometheus' objects have locks of their own."""

    def __init__(
        self, registry: CollectorRegistry, model: str, max_model_len: int, engines: Iterable[int]
    ) -> None:
        """``engines``: whose series stand at 0 from the start; another's begin with its first
        step."""
        self._model = model
        self._gauges: list[tuple[MetricName, Gauge]] = []
        self._counters: list[tuple[MetricName, Counter]] = []
        self._histograms: list[tuple[MetricName, Histogram]] = []
        for m in engine_metrics(max_model_len):
            name, labels = PREFIX + m.name, (*LABELS, *([m.label] if m.label else []))
            if m.kind == "gauge":
                self._gauges.append((m, Gauge(name, m.doc, labels, registry=registry)))
            elif m.kind == "counter":
                self._counters.append((m, Counter(name, m.doc, labels, registry=registry)))
            else:
                made = Histogram(name, m.doc, labels, registry=registry, buckets=m.buckets)
                self._histograms.append((m, made))
        self._series = {engine: self._make(engine) for engine in engines}

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None
    ) -> None:
        if scheduler_stats is not None:
            self._record_step(self._of(scheduler_stats.engine), scheduler_stats)
        if iteration_stats is not None:
            self._record_outputs(self._of(iteration_stats.engine), iteration_stats)
            for finished in iteration_stats.finished_requests:
                self._record_finished(self._of(finished.engine), finished)
            for parent in iteration_stats.finished_parents:
                self._record_parent(self._of(parent.engine), parent)

    def _record_step(self, of: Series, stats: SchedulerStats) -> None:
        capacity, deferred = stats.num_waiting_reqs, stats.num_skipped_waiting_reqs
        of.set(stats.num_running_reqs, "num_requests_running")
        of.set(capacity + deferred, "num_requests_waiting")
        of.set(capacity, "num_requests_waiting_by_reason", "capacity")
        of.set(deferred, "num_requests_waiting_by_reason", "deferred")
        of.set(stats.kv_cache_usage, "kv_cache_usage_perc")
        if ran := stats.num_prefill_tokens + stats.num_decode_tokens:
            of.observe("iteration_tokens_total", ran)
        of.count(stats.num_generation_tokens, "generation_tokens")
        of.count(stats.num_preempted_reqs, "num_preemptions")
        of.count(stats.prefix_cache_queries, "prefix_cache_queries")
        of.count(stats.prefix_cache_hits, "prefix_cache_hits")
        of.count(stats.prefix_cache_hits, "prompt_tokens_cached_by_source", "device")
        if stats.spec_decoding_stats is not None:
            self._record_drafts(of, stats.engine, stats.spec_decoding_stats)

    def _record_drafts(self, of: Series, engine: int, drafts: SpecDecodingStats) -> None:
        of.count(drafts.num_drafts, "spec_decode_num_drafts")
        of.count(drafts.num_draft_tokens, "spec_decode_num_draft_tokens")
        of.count(drafts.num_accepted_tokens, "spec_decode_num_accepted_tokens")
        name = "spec_decode_num_accepted_tokens_per_pos"
        for position, accepted in enumerate(drafts.num_accepted_tokens_per_pos):
            key = name, str(position)
            if key not in of.counters:  # drafts have any length: a position comes with the first
                per_pos = next(counter for m, counter in self._counters if m.name == name)
                of.counters[key] = per_pos.labels(self._model, str(engine), str(position))
            of.count(accepted, *key)

    @staticmethod
    def _record_outputs(of: Series, stats: IterationStats) -> None:
        prompt, cached = stats.num_prompt_tokens, stats.num_cached_tokens
        of.count(prompt, "prompt_tokens")
        of.count(cached, "prompt_tokens_cached")
        of.count(prompt - cached, "prompt_tokens_by_source", "local_compute")
        of.count(cached, "prompt_tokens_by_source", "local_cache_hit")
        for seconds in stats.time_to_first_tokens:
            of.observe("time_to_first_token_seconds", seconds)
        for seconds in stats.inter_token_latencies:
            of.observe("inter_token_latency_seconds", seconds)

    @staticmethod
    def _record_parent(of: Series, done: FinishedParentStats) -> None:
        of.observe("request_max_num_generation_tokens", done.max_num_generation_tokens)
        of.observe("request_params_n", done.n)

    @staticmethod
    def _record_finished(of: Series, done: FinishedRequestStats) -> None:
        of.count(1, "request_success", done.finish_reason)
        of.observe("e2e_request_latency_seconds", done.e2e_latency)
        of.observe("request_queue_time_seconds", done.queued_time)
        of.observe("request_prefill_time_seconds", done.prefill_time)
        of.observe("request_decode_time_seconds", done.decode_time)
        of.observe("request_inference_time_seconds", done.inference_time)
        of.observe("request_time_per_output_token_seconds", done.mean_time_per_output_token)
        of.observe("request_num_preemptions", done.num_preemptions)
        computed = done.num_prompt_tokens - done.num_cached_tokens
        of.observe("request_prefill_kv_computed_tokens", computed)
        of.observe("request_prompt_tokens", done.num_prompt_tokens)
        of.observe("request_generation_tokens", done.num_generation_tokens)
        of.observe("request_params_max_tokens", done.max_tokens)

    def _of(self, engine: int) -> Series:
        series = self._series.get(engine)
        if series is None:
            series = self._series[engine] = self._make(engine)
        return series

    def _make(self, engine: int) -> Series:
        labels = self._model, str(engine)
        gauges = {
            key: gauge.labels(*labels, *key[1:]) for m, gauge in self._gauges for key in _keys(m)
        }
        gauges["engine_sleep_state", "awake"].set(1)
        counters = {
            key: counter.labels(*labels, *key[1:])
            for m, counter in self._counters
            for key in _keys(m)
        }
        histograms = {m.name: histogram.labels(*labels) for m, histogram in self._histograms}
        return Series(gauges, counters, histograms)


def _keys(metric: MetricName) -> list[tuple[str, ...]]:
    if metric.label is None:
        return [(metric.name,)]
    return [(metric.name, value) for value in metric.values]
