"""What the front end makes of the core's events and of its own clock, and who hears of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from minivllm import LLM, AsyncLLM, SamplingParams
from minivllm.config import make_config
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    SchedulerStats,
)
from minivllm.engine.stats import IterationStats, RequestStateStats, StatLoggerManager
from minivllm.errors import EngineDeadError
from minivllm.executor.scripted import ScriptedExecutor
from tests.core.builders import SMALL
from tests.serve.fakes import FakeClient, FakeTokenizer

S = 10**9  # ns
QUEUED, SCHEDULED, PREEMPTED = EngineCoreEventType


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.steps: list[SchedulerStats] = []
        self.iterations: list[IterationStats] = []

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None
    ) -> None:
        if scheduler_stats is not None:
            self.steps.append(scheduler_stats)
        if iteration_stats is not None:
            self.iterations.append(iteration_stats)

    def ends(self) -> list[str]:
        return [f.finish_reason for i in self.iterations for f in i.finished_requests]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


class Fails:
    def __init__(self) -> None:
        self.times = 0

    def record(self, *stats: object) -> None:
        self.times += 1
        raise RuntimeError("the listener broke")


def said(*token_ids: int, events: tuple[tuple[EngineCoreEventType, int], ...] = ()):
    return EngineCoreOutput(
        request_id="q",
        new_token_ids=list(token_ids),
        num_cached_tokens=4,
        events=[EngineCoreEvent(*event) for event in events],
    )


# --- the arithmetic ------------------------------------------------------------------------------


def test_the_intervals_of_a_request_that_was_preempted() -> None:
    stats = RequestStateStats(arrival_ns=1 * S, num_prompt_tokens=10, max_tokens=5)
    first = IterationStats(engine=2, core_ns=6 * S, now_ns=7 * S)
    first.take_in(stats, said(1, events=((QUEUED, 2 * S), (SCHEDULED, 4 * S))))
    assert first.time_to_first_tokens == [6.0] and first.inter_token_latencies == []
    assert (first.num_prompt_tokens, first.num_cached_tokens) == (10, 4)

    second = IterationStats(engine=2, core_ns=16 * S, now_ns=17 * S)
    second.take_in(stats, said(2, 3, events=((PREEMPTED, 8 * S), (SCHEDULED, 12 * S))))
    assert second.inter_token_latencies == [10.0] and second.num_prompt_tokens == 0
    second.finish(stats, "length")
    (done,) = second.finished_requests
    assert (done.engine, done.finish_reason, done.num_preemptions) == (2, "length", 1)
    assert (done.num_prompt_tokens, done.num_generation_tokens) == (10, 3)
    assert (done.num_cached_tokens, done.max_tokens) == (4, 5)
    assert done.e2e_latency == 16.0
    assert done.queued_time == 2.0  # to the first admission; the return is no start
    assert (done.prefill_time, done.decode_time, done.inference_time) == (2.0, 10.0, 12.0)
    assert done.mean_time_per_output_token == 5.0  # two tokens after the first


def test_what_a_request_never_entered_has_no_time() -> None:
    stats = RequestStateStats(arrival_ns=1 * S, num_prompt_tokens=10, max_tokens=5)
    iteration = IterationStats(core_ns=3 * S, now_ns=4 * S)
    iteration.take_in(stats, said(events=((QUEUED, 2 * S),)))
    iteration.finish(stats, "abort")
    (done,) = iteration.finished_requests
    assert done.e2e_latency == 3.0
    assert done.queued_time is None and done.prefill_time is None and done.decode_time is None
    assert done.inference_time is None and done.mean_time_per_output_token is None
    assert iteration.time_to_first_tokens == [] and iteration.num_prompt_tokens == 0


def test_of_n_samples_the_longest_counts_once_when_all_have_ended(
    serve_stats: tuple[AsyncLLM, FakeClient, Heard],
) -> None:
    llm, client, heard = serve_stats
    client.script = lambda request: [65] * (2 if request.request_id.startswith("0_") else 5)
    for _ in llm.stream("a", SamplingParams(n=2, temperature=1, max_tokens=9)):
        pass
    llm.close()  # all that came out has been told of
    parents = [parent for i in heard.iterations for parent in i.finished_parents]
    assert [(p.n, p.max_num_generation_tokens) for p in parents] == [(2, 6)]  # and EOS
    assert heard.ends() == ["stop", "stop"]


# --- who ends how --------------------------------------------------------------------------------


@pytest.fixture
def serve_stats():
    client, heard = FakeClient("Hello world"), Heard()
    llm = AsyncLLM.from_parts(client, FakeTokenizer())
    llm.add_stat_logger(heard)
    yield llm, client, heard
    llm.close()


def test_every_end_is_counted_once(serve_stats: tuple[AsyncLLM, FakeClient, Heard]) -> None:
    llm, client, heard = serve_stats
    for params in ({"max_tokens": 2}, {"max_tokens": 9, "stop": ["world"]}, {"max_tokens": 30}):
        for _ in llm.stream("a", SamplingParams(**params)):
            pass
    client.pause()
    llm.stream("a", SamplingParams(max_tokens=30)).close()  # the client goes away
    llm.close()
    assert sorted(heard.ends()) == ["abort", "length", "stop", "stop"]


def test_requests_that_the_engine_takes_along_end_by_error(
    serve_stats: tuple[AsyncLLM, FakeClient, Heard],
) -> None:
    llm, client, heard = serve_stats
    client.pause()
    stream = llm.stream("a", SamplingParams(max_tokens=30))
    client.die("struck")
    with pytest.raises(EngineDeadError):
        for _ in stream:
            pass
    llm.close()
    assert heard.ends() == ["error"]


# --- listeners -----------------------------------------------------------------------------------


def real(**knobs: object) -> tuple[AsyncLLM, InprocClient]:
    config = make_config(**{**SMALL, **knobs})
    core = EngineCore(config, ScriptedExecutor(config, lambda _req, index: 65 + index % 26))
    client = InprocClient(core)
    return AsyncLLM.from_parts(client, FakeTokenizer()), client


def test_a_listener_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    llm, _ = real()
    fails, heard = Fails(), Heard()
    llm.add_stat_logger(fails)
    llm.add_stat_logger(heard)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            outputs = list(llm.stream("a", SamplingParams(max_tokens=4)))
            assert outputs[-1].finished
    llm.close()
    assert fails.times > 1 and heard.ends() == ["length", "length"]
    assert len([r for r in caplog.records if "a listener for statistics failed" in r.message]) == 1


def test_the_newest_of_each_engine_is_at_hand_and_at_the_end_nothing_runs() -> None:
    llm, _ = real()
    assert llm.stats() == {}
    heard = Heard()
    llm.add_stat_logger(heard)
    list(llm.stream("a", SamplingParams(max_tokens=4)))
    until(lambda: llm.stats()[0].num_open_reqs == 0)
    assert max(s.num_running_reqs for s in heard.steps) == 1
    assert llm.stats()[0].kv_cache_usage == 0
    stream = llm.stream("a", SamplingParams(max_tokens=40))
    next(stream)
    llm.close()
    assert llm.stats()[0].num_open_reqs == 0
    assert heard.steps[-1].num_open_reqs == 0


def test_several_engines_are_kept_apart() -> None:
    manager, heard = StatLoggerManager(), Heard()
    manager.add(heard)
    for engine, running in ((0, 1), (1, 5), (0, 2)):
        stats = SchedulerStats(
            engine=engine,
            step=1,
            num_running_reqs=running,
            num_waiting_reqs=0,
            num_skipped_waiting_reqs=0,
            kv_cache_usage=0.5,
        )
        manager.record(stats, None)
    assert {e: s.num_running_reqs for e, s in manager.newest().items()} == {0: 2, 1: 5}
    manager.engines_ended()
    assert [(s.engine, s.num_running_reqs) for s in heard.steps[-2:]] == [(0, 0), (1, 0)]


def test_offline_and_asyncio_callers_are_heard_of_too() -> None:
    config = make_config(**SMALL)
    core = EngineCore(config, ScriptedExecutor(config, lambda _req, index: 65 + index % 26))
    llm, heard = LLM.from_parts(InprocClient(core, lockstep=True), FakeTokenizer()), Heard()
    llm.add_stat_logger(heard)
    llm.generate(["one", "two"], SamplingParams(max_tokens=4), use_tqdm=False)
    assert heard.ends() == ["length", "length"]
    assert sum(s.num_generation_tokens for s in heard.steps) == 8
    assert llm.stats()[0].num_open_reqs == 0
    llm.shutdown()

    served, _ = real()
    served.add_stat_logger(heard)

    async def one() -> None:
        async for _ in served.generate("a", SamplingParams(max_tokens=2)):
            pass

    asyncio.run(one())
    served.close()
    assert heard.ends() == ["length"] * 3
