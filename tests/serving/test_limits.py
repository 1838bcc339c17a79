"""The limits one by one, in this process: the queue, the time, what may be open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from minivllm.api.errors import ApiError
from minivllm.api.limits import OpenRequests, RunningClock
from minivllm.config import make_config
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.messages import SchedulerStats
from minivllm.engine.queue_limit import QueueLimit
from minivllm.errors import ConfigError, QueueFullError
from minivllm.sampling_params import SamplingParams
from minivllm.serving.settings import ServeSettings, given_keys, split_list
from minivllm.trace.gate import Gate
from tests.serving.conftest import RunningServer, until
from tests.serving.scripted_server import start_scripted

PARAMS = SamplingParams(max_tokens=4, ignore_eos=True)


@pytest.fixture
def held() -> Iterator[Callable[..., tuple[AsyncLLM, Gate]]]:
    """Engines that are held by their gate."""
    running: list[AsyncLLM] = []

    def start(**knobs: int) -> tuple[AsyncLLM, Gate]:
        gate = Gate(paused=True)
        running.append(start_scripted(make_config(live=True, num_kv_blocks=65, **knobs), gate))
        return running[-1], gate

    yield start
    for llm in running:
        llm.close()


def test_while_as_many_wait_as_may_nobody_else_is_let_in(held) -> None:
    llm, gate = held(max_num_seqs=1)
    llm.queue.limit = 2
    streams = [llm.stream("ab", PARAMS) for _ in range(3)]  # a free seat, and two that wait
    with pytest.raises(QueueFullError, match="as many requests wait as may, 2"):
        llm.stream("ab", PARAMS)
    assert llm.queue.refused == 1 and llm.num_open == 3
    streams[0].close()
    streams.append(llm.stream("ab", PARAMS))
    gate.resume()
    for stream in streams[1:]:
        assert list(stream)[-1].finished
    assert list(llm.stream("ab", PARAMS))[-1].finished


def stats(engine: int, running: int, waiting: int) -> SchedulerStats:
    return SchedulerStats(
        engine=engine,
        step=1,
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=0,
        kv_cache_usage=0.0,
    )


@pytest.mark.parametrize(
    ("num_open", "told", "ready", "waiting"),
    [
        (0, [], [0], 0),
        (4, [], [0], 0),  # four seats are free for them
        (6, [], [0], 2),
        (6, [], [0, 1], 0),
        (6, [], [], 6),  # nobody is there to begin them
        (6, [(0, 2, 4)], [0], 4),  # four wait though seats are free: for blocks
        (7, [(0, 2, 4)], [0], 5),  # and so does who came since
        (6, [(0, 4, 0)], [0], 2),
        (6, [(0, 4, 0)], [0, 1], 0),
        (3, [(0, 0, 9), (1, 3, 0)], [1], 0),  # engine 0 is down: what it said is no longer so
        (2, [(0, 4, 9)], [0], 2),  # most of them have been ended meanwhile
    ],
)
def test_who_waits_is_known_from_the_last_statistics_and_what_was_sent_since(
    num_open: int, told: list[tuple[int, int, int]], ready: list[int], waiting: int
) -> None:
    queue = QueueLimit(seats=4)
    for i in range(num_open):
        queue.sent(f"r{i}")
    for each in told:
        queue.told(stats(*each))
    assert queue.num_waiting(ready) == waiting


def test_who_came_between_two_steps_may_find_a_seat_in_the_next() -> None:
    queue = QueueLimit(seats=4)
    for name in "abc":
        queue.sent(name)
    queue.told(replace(stats(0, 0, 3), step=0))  # taken in, and no step has looked at them
    assert queue.num_waiting([0]) == 0
    queue.told(stats(0, 1, 2))  # one has, and found no room for two
    assert queue.num_waiting([0]) == 2


def test_what_has_ended_waits_no_longer() -> None:
    queue = QueueLimit(limit=1)
    queue.sent("a")
    with pytest.raises(QueueFullError):
        queue.check([0])
    queue.ended(["a", "unknown"])
    queue.check([0])


def test_the_clock_stands_still_while_the_gate_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = RunningClock()
    begun = clock.now()
    for mode, seconds in (("run", 2), ("pause", 50), ("pause", 50), ("run", 3), ("run", 1)):
        clock.on_gate(mode, 0.0)
        now[0] += seconds
    assert clock.now() - begun == 2 + 3 + 1


def test_open_requests_are_counted_and_the_end_takes_nobody() -> None:
    requests = OpenRequests(limit=2)
    leave, leave_too = requests.enter(), requests.enter()
    for ending, code in ((False, "too_many_requests_open"), (True, "ending")):
        if ending:
            requests.refuse_new()
        with pytest.raises(ApiError) as refused:
            requests.enter()
        assert (refused.value.status, refused.value.code) == (503, code)
        assert refused.value.headers["Retry-After"]
    assert not requests.wait_for_none(0.0)
    leave()
    leave()  # as often as one likes
    assert requests.count == 1
    leave_too()
    assert requests.wait_for_none(0.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_streams": 0}, "--max-streams"),
        ({"max_queue_size": 0}, "--max-queue-size"),
        ({"request_timeout_s": 0.0}, "--request-timeout"),
        ({"request_timeout_s": float("nan")}, "--request-timeout"),
        ({"request_timeout_s": float("inf")}, "--request-timeout"),
        ({"shutdown_timeout_s": -1.0}, "--shutdown-timeout"),
        ({"shutdown_timeout_s": float("nan")}, "--shutdown-timeout"),
        ({"send_timeout_s": float("nan")}, "send_timeout_s"),
        ({"rate": float("nan")}, "--rate"),
        ({"rate": float("inf")}, "--rate"),
        ({"api_keys": ("a", "")}, "--api-key"),
        ({"http_server": "nginx"}, "--http-server"),
        ({"log_format": "xml"}, "--log-format"),
        ({"log_level": "all"}, "--log-level"),
        ({"max_streams": 64, "max_viewers": 30, "threads": 64 + 30 + 16}, "--threads"),
    ],
)
def test_settings_that_cannot_work_are_named(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ServeSettings(**wrong)


def test_threads_suffice_for_all_streams_and_viewers_and_some_more() -> None:
    settings = ServeSettings(max_streams=64, max_viewers=30)
    assert settings.num_threads >= 64 + 30 + 16


def test_keys_come_one_by_one_or_with_commas() -> None:
    assert split_list(["a", "b, c,", ""]) == ("a", "b", "c")
    assert given_keys(["a", "b, c,"], {}) == ("a", "b", "c")
    assert given_keys(None, {}) == ()


@pytest.mark.parametrize("given", [[""], [","], ["a", " "]])
def test_a_key_that_is_given_and_empty_does_not_open_the_server(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        given_keys(given, {})


@pytest.mark.parametrize("value", ["", " ", ","])
def test_a_variable_for_keys_that_is_empty_does_not_open_the_server(
    command: Callable[..., RunningServer], value: str
) -> None:
    server = command("--port", "0", MINIVLLM_API_KEY=value)
    assert server.process.wait(30) == 2
    until(lambda: "minivllm: " in server.log, "the error is told")
