"""GET /metrics: vLLM's names, the numbers of the trace, and dashboards whose queries find them."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from minivllm import AsyncLLM, SamplingParams
from minivllm.api import dashboard
from minivllm.api.metric_names import engine_metrics
from minivllm.api.metrics import ServerMetrics
from minivllm.api.server import create_app
from minivllm.config import make_config
from minivllm.engine.client import EngineStatus
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    SchedulerStats,
)
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.file import Trace
from minivllm.trace.metrics import measure
from tests.conftest import ROOT
from tests.core.builders import HEADER, SMALL, recorder
from tests.helpers import events_of
from tests.serve.fakes import FakeClient, FakeTokenizer
from tests.serve.test_stats import until

MODEL = "m"

VLLM_DASHBOARD = {
    "e2e_request_latency_seconds_bucket",
    "e2e_request_latency_seconds_sum",
    "e2e_request_latency_seconds_count",
    "prompt_tokens_total",
    "generation_tokens_total",
    "inter_token_latency_seconds_bucket",
    "inter_token_latency_seconds_sum",
    "inter_token_latency_seconds_count",
    "num_requests_running",
    "num_requests_waiting",
    "time_to_first_token_seconds_bucket",
    "time_to_first_token_seconds_sum",
    "time_to_first_token_seconds_count",
    "kv_cache_usage_perc",
    "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket",
    "request_success_total",
    "request_queue_time_seconds_sum",
    "request_prefill_time_seconds_sum",
    "request_decode_time_seconds_sum",
    "request_max_num_generation_tokens_sum",
}
"""What vLLM's examples/observability/prometheus_grafana/grafana.json asks for, without "vllm:"."""

MORE_OF_VLLM = {
    "num_requests_waiting_by_reason",
    "engine_sleep_state",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "prompt_tokens_cached_total",
    "prompt_tokens_by_source_total",
    "num_preemptions_total",
    "iteration_tokens_total_bucket",
    "request_params_n_bucket",
    "request_params_max_tokens_bucket",
    "request_num_preemptions_bucket",
    "request_prefill_kv_computed_tokens_bucket",
    "request_inference_time_seconds_bucket",
    "request_time_per_output_token_seconds_bucket",
    "cache_config_info",
    "admission_rejections_total",
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
}
"""What the others in examples/observability/dashboards/grafana ask for, as far as there is an
engine on one CPU behind it."""


class Scraped(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Sample name and labels → value."""

    def __init__(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self[sample.name, frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self}

    def of(self, name: str, engine: int = 0, **labels: str) -> float:
        given = {"model_name": MODEL, "engine": str(engine), **labels}
        return self[f"vllm:{name}", frozenset(given.items())]


def scrape(http: FlaskClient) -> Scraped:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(answer.text)


class Served:
    """A whole server around a real core whose tokens are given, and its trace."""

    def __init__(self, say: Callable[[int], int] = lambda index: 65 + index % 26, **knobs: Any):
        config = make_config(**{**SMALL, **knobs})
        self.trace = recorder()
        executor = ScriptedExecutor(config, lambda _req, index: say(index))
        self.core = EngineCore(config, executor, self.trace)
        self.client = InprocClient(self.core)
        self.llm = AsyncLLM.from_parts(self.client, FakeTokenizer())
        self.http = create_app(self.llm, served_model_name=MODEL).test_client()

    def post(self, **body: Any) -> None:
        answer = self.http.post("/v1/completions", json={"model": MODEL, "max_tokens": 5, **body})
        assert answer.status_code == 200, answer.text

    def all_at_once(self, *bodies: dict[str, Any]) -> None:
        """No step begins before all of them wait."""
        self.client.gate.pause()
        threads = [threading.Thread(target=self.post, kwargs=body) for body in bodies]
        for thread in threads:
            thread.start()
        samples = sum(body.get("n", 1) for body in bodies)
        until(lambda: self.llm.stats()[0].num_waiting_reqs == samples)
        self.client.gate.resume()
        for thread in threads:
            thread.join()

    def ended(self) -> Scraped:
        """What is shown when all that came out has been told of."""
        self.llm.close()
        return scrape(self.http)

    def told(self) -> Trace:
        return Trace(HEADER, events_of(self.trace))


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(**given: Any) -> Served:
        made.append(Served(**given))
        return made[-1]

    yield make
    for served in made:
        served.llm.close()


Serve = Callable[..., Served]

# --- the names -----------------------------------------------------------------------------------


def test_after_one_request_there_is_all_that_vllms_dashboards_ask_for(serve: Serve) -> None:
    served = serve()
    served.post(prompt="one two")
    shown = served.ended().names
    assert {f"vllm:{name}" for name in VLLM_DASHBOARD} <= shown
    assert {f"vllm:{name}" for name in MORE_OF_VLLM} <= shown


def test_series_stand_at_zero_before_the_first_request(serve: Serve) -> None:
    shown = scrape(serve().http)
    assert {f"vllm:{name}" for name in VLLM_DASHBOARD | MORE_OF_VLLM} <= shown.names
    assert shown.of("request_success_total", finished_reason="stop") == 0
    assert shown.of("e2e_request_latency_seconds_count") == 0
    assert shown.of("engine_sleep_state", sleep_state="awake") == 1


def test_types_and_buckets_are_vllms(serve: Serve) -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(serve().http.get("/metrics").text)
    }
    for metric in engine_metrics(64):
        family = families[f"vllm:{metric.name}"]
        assert family.type == metric.kind
        edges = {s.labels["le"] for s in family.samples if s.name.endswith("_bucket")}
        assert edges == ({*map(str, map(float, metric.buckets)), "+Inf"} if edges else set())
    buckets = {metric.name: metric.buckets for metric in engine_metrics(64)}
    assert buckets["request_prompt_tokens"] == (1, 2, 5, 10, 20, 50)
    assert buckets["iteration_tokens_total"][:3] == (1, 8, 16)
    assert buckets["iteration_tokens_total"][-1] == 16384
    assert len(buckets["e2e_request_latency_seconds"]) == 21
    assert len(buckets["time_to_first_token_seconds"]) == 22
    assert len(buckets["inter_token_latency_seconds"]) == 19


def test_metrics_need_no_key_and_two_servers_do_not_add_up() -> None:
    llms = [AsyncLLM.from_parts(FakeClient("Hello world"), FakeTokenizer()) for _ in range(2)]
    apps = [create_app(llm, served_model_name=MODEL, api_keys=["secret"]) for llm in llms]
    list(llms[0].stream("a", SamplingParams(max_tokens=2)))
    for llm in llms:
        llm.close()
    ended = [
        scrape(app.test_client()).of("request_success_total", finished_reason="length")
        for app in apps
    ]
    assert ended == [1, 0]


# --- the numbers: the trace tells the same -------------------------------------------------------

PROMPT = "a long prompt that others share "
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "preemption": (
        {"num_kv_blocks": 11, "max_num_seqs": 4},
        [{"prompt": f"{i} and more", "max_tokens": 14} for i in range(4)],
    ),
    "chunked prefill": (
        {"max_num_batched_tokens": 6},
        [{"prompt": f"{i}{PROMPT}"} for i in range(3)],
    ),
    "prefix hits": ({}, [{"prompt": PROMPT + str(i)} for i in range(4)]),
    "drafts": (
        {"say": lambda index: b"abcabcabx"[index % 9], "speculative_ngram": 3},
        [{"prompt": f"{i}abcabc", "max_tokens": 20} for i in range(2)],
    ),
    "samples and stop strings": (
        {},
        [{"prompt": "x", "n": 3, "temperature": 1}, {"prompt": "y", "stop": ["C"]}],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_counters_are_those_of_the_trace(serve: Serve, case: str) -> None:
    given, bodies = CASES[case]
    served = serve(**given)
    served.post(**bodies[0])  # a prefix that others find
    served.all_at_once(*bodies)
    shown, trace = served.ended(), served.told()
    metrics = measure(trace)
    events = trace.engine_events

    assert shown.of("generation_tokens_total") == metrics.output_tokens
    assert shown.of("num_preemptions_total") == len(metrics.preemptions)
    assert shown.of("iteration_tokens_total_sum") == metrics.tokens_run
    assert shown.of("spec_decode_num_draft_tokens_total") == metrics.drafts_run
    assert shown.of("spec_decode_num_accepted_tokens_total") == metrics.drafts_accepted
    admitted = [e.data for e in events if e.kind == "req.admit"]
    assert shown.of("prefix_cache_queries_total") == sum(data.tokens for data in admitted)
    assert shown.of("prefix_cache_hits_total") == sum(data.hit for data in admitted)
    assert shown.of("prompt_tokens_total") == sum(data.tokens for data in admitted)
    assert shown.of("prompt_tokens_cached_total") == sum(data.hit for data in admitted)
    assert shown.of("time_to_first_token_seconds_count") == metrics.requests
    assert shown.of("request_num_preemptions_sum") == len(metrics.preemptions)
    assert shown.of("request_queue_time_seconds_count") == metrics.requests

    ended = Counter(metrics.ended)
    if case == "samples and stop strings":  # which the core knows as aborted, if it was not faster
        ended = Counter(length=6, stop=1)
    for reason in ("stop", "length", "abort", "error"):
        assert shown.of("request_success_total", finished_reason=reason) == ended[reason], reason

    happened = {
        "preemption": metrics.preemptions,
        "chunked prefill": [e for e in events if e.kind == "sched.chunk"],
        "prefix hits": metrics.prefix_hits,
        "drafts": metrics.drafts_accepted,
        "samples and stop strings": metrics.requests == 7,
    }
    assert happened[case], "the case does not show what it is for"


def test_gauges_follow_the_queue_and_come_back_to_zero(serve: Serve) -> None:
    served = serve(max_num_seqs=1)
    gate = served.client.gate
    gate.pause()
    streams = [served.llm.stream(f"{i}", SamplingParams(max_tokens=40)) for i in range(3)]
    until(lambda: scrape(served.http).of("num_requests_waiting") == 3)
    gate.step()
    until(lambda: scrape(served.http).of("num_requests_running") == 1)
    shown = scrape(served.http)
    assert shown.of("num_requests_waiting") == 2
    assert shown.of("num_requests_waiting_by_reason", reason="capacity") == 2
    assert shown.of("num_requests_waiting_by_reason", reason="deferred") == 0
    assert shown.of("kv_cache_usage_perc") == pytest.approx(1 / 16)
    for stream in streams:  # no step follows: the engine is held
        stream.close()
    until(lambda: scrape(served.http).of("num_requests_waiting") == 0)
    shown = scrape(served.http)
    assert (shown.of("num_requests_running"), shown.of("kv_cache_usage_perc")) == (0, 0)
    assert shown.of("request_success_total", finished_reason="abort") == 3


# --- several engines -----------------------------------------------------------------------------


class TwoEngines(FakeClient):
    """Their outputs as they would come."""

    def engines(self) -> list[EngineStatus]:
        dead = EngineStatus(engine=1, state="dead", epoch=3, stalled_s=2.5)
        return [EngineStatus(engine=0, state="ready"), dead]

    def say(self, engine: int, request_id: str, running: int, last: bool) -> None:
        stats = SchedulerStats(
            engine=engine,
            step=1,
            num_running_reqs=running,
            num_waiting_reqs=engine,
            num_skipped_waiting_reqs=0,
            kv_cache_usage=0.25,
            num_decode_tokens=1,
            num_generation_tokens=1,
        )
        output = EngineCoreOutput(
            request_id=request_id,
            new_token_ids=[65],
            finish_reason="length" if last else None,
            events=[EngineCoreEvent(EngineCoreEventType.QUEUED, 1)],
        )
        self._outputs.put(EngineCoreOutputs(step=1, outputs=[output], engine=engine, stats=stats))


def test_each_engine_has_series_of_its_own() -> None:
    client = TwoEngines(paused=True)
    llm = AsyncLLM.from_parts(client, FakeTokenizer())
    http = create_app(llm, served_model_name=MODEL).test_client()
    streams = [llm.stream("a", SamplingParams(max_tokens=2), name) for name in ("x", "y", "z")]
    client.say(0, "x", running=4, last=True)
    client.say(1, "y", running=7, last=False)
    client.say(1, "z", running=7, last=True)
    client.say(2, "unknown", running=1, last=True)  # one that was not there from the start
    until(lambda: 2 in llm.stats())
    shown = scrape(http)
    assert [shown.of("num_requests_running", engine) for engine in range(3)] == [4, 7, 1]
    assert [shown.of("num_requests_waiting", engine) for engine in range(3)] == [0, 1, 2]
    assert [shown.of("generation_tokens_total", engine) for engine in range(3)] == [1, 2, 1]
    assert [shown.of("time_to_first_token_seconds_count", engine) for engine in (0, 1)] == [1, 2]
    streams[1].close()  # its engine is known by what it has said
    ends = [
        shown.of("request_success_total", engine, finished_reason=reason)
        for shown in [scrape(http)]
        for engine in (0, 1)
        for reason in ("length", "abort")
    ]
    assert ends == [1, 0, 1, 1]
    label = frozenset({"model_name": MODEL, "engine": "1"}.items())
    assert shown["minivllm:engine_up", label] == 0
    assert shown["minivllm:engine_restarts_total", label] == 2
    assert shown["minivllm:engine_stalled_seconds", label] == 2.5
    llm.close()
    assert [scrape(http).of("num_requests_running", engine) for engine in range(3)] == [0, 0, 0]


def test_the_server_counts_what_it_refuses_and_cuts_off() -> None:
    llm = AsyncLLM.from_parts(FakeClient(), FakeTokenizer())
    metrics = ServerMetrics(llm, MODEL)
    http = create_app(llm, served_model_name=MODEL, metrics=metrics).test_client()
    metrics.rejected("max_num_queued_reqs")
    metrics.rejected("max_num_queued_reqs")
    for happened in (metrics.timed_out, metrics.disconnected, metrics.slow_reader):
        happened()
    metrics.answered(503)
    shown = scrape(http)
    llm.close()

    def of(name: str, **labels: str) -> float:
        return shown[name, frozenset({"model_name": MODEL, **labels}.items())]

    assert of("vllm:admission_rejections_total", reason="max_num_queued_reqs") == 2
    assert of("vllm:admission_rejections_total", reason="max_num_queued_tokens") == 0
    assert of("minivllm:http_responses_total", status="503") == 1
    for name in ("request_timeouts", "client_disconnects", "slow_readers"):
        assert of(f"minivllm:{name}_total") == 1


# --- our own dashboard ---------------------------------------------------------------------------

GRAFANA = Path(ROOT) / "grafana"


def test_the_dashboard_in_the_repository_is_what_the_table_says() -> None:
    assert (GRAFANA / "minivllm.json").read_text() == dashboard.text()


def test_every_query_of_the_dashboard_names_a_metric_that_is_there(serve: Serve) -> None:
    served = serve()
    served.post(prompt="one two")
    made = json.loads((GRAFANA / "minivllm.json").read_text())
    queries = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    queries += [v["definition"] for v in made["templating"]["list"] if "definition" in v]
    names: set[str] = set()
    for family in text_string_to_metric_families(served.http.get("/metrics").text):
        names |= {sample.name for sample in family.samples}
        if family.type == "counter":  # one without a value for its label shows its type only
            names.add(f"{family.name}_total")
    assert len(queries) >= len(dashboard.PANELS)
    for query in queries:
        asked = re.findall(r"\b(?:mini)?vllm:\w+", query)
        assert asked and set(asked) <= names, query
        assert query.count("(") == query.count(")")
