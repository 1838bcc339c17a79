"""An engine that is started anew in a run that goes on: in memory, in the ring, in the file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from minivllm.core.scheduler_output import StepTensors
from minivllm.trace import front
from minivllm.trace.artifact_store import ArtifactStore
from minivllm.trace.events import EngineWhy, Header, RoutePick, RouteWhy
from minivllm.trace.file import decode_event, read_trace, split_lives
from minivllm.trace.fold import fold
from minivllm.trace.invariants import violations
from minivllm.trace.log import TraceLog
from tests.two_engines import TwoEngines, write_two_engines


def test_each_life_of_a_stream_has_its_own_numbers() -> None:
    log = TwoEngines().run().log
    lives = {(life.stream, life.epoch): life for life in log.lives()}
    assert set(lives) == {("api", 1), ("engine0", 1), ("engine1", 1), ("engine1", 2)}
    for (stream, epoch), life in lives.items():
        events = [decode_event(line) for line in log.lines(stream, 1, life.head, epoch)]
        assert [event.seq for event in events] == list(range(1, life.head + 1))
        assert events[0].kind == "run.start" and events[0].data.epoch == epoch
    assert log.head_seq("engine1") == lives["engine1", 2].head
    assert log.lines("engine1", 1, 1) == log.lines("engine1", 1, 1, epoch=2)
    assert log.lines("engine1", 1, 1) != log.lines("engine1", 1, 1, epoch=1)


def test_only_the_newest_lives_stay_in_memory_and_all_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    server = TwoEngines(path)
    for epoch in range(1, 5):
        server.start(1, epoch, EngineWhy.ADMIN)
        server.ask(f"q{epoch}", [1, 2, 3], engine=1)
        server.step(1, 2)
    assert [life.epoch for life in server.log.lives() if life.stream == "engine1"] == [3, 4]
    assert list(read_trace(path).lives()) == [
        "engine1",
        *(f"engine1, life {epoch}" for epoch in (2, 3, 4)),
    ]


def test_what_a_dead_engine_still_said_after_its_next_life_began_is_not_mixed_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = TraceLog(Header(run_id="t", created="", engine_version=""))
    log.append("engine0", [b"{}"], 0, epoch=2)
    log.append("engine0", [b"{}", b"{}"], 0, epoch=1)
    assert log.head_seq("engine0") == 1 and log.head_seq("engine0", 1) == 0
    assert "too late" in caplog.text


def test_ring_keeps_the_last_steps_of_each_engine_through_its_lives(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    server = TwoEngines(path, steps=4)
    server.start(0)
    server.ask("idle", [1, 2, 3], engine=0, max_tokens=2)
    server.step(0, 2)
    for epoch in (1, 2, 3):
        server.start(1, epoch, EngineWhy.DEATH)
        for i in range(5):
            server.ask(f"q{epoch}-{i}", list(range(10 * i, 10 * i + 6)), engine=1, max_tokens=4)
            server.step(1, 3)
            trace = read_trace(path)
            kept = [
                life.last_step - life.first_step + 1
                for name, life in trace.lives().items()
                if name.startswith("engine1")
            ]
            assert sum(kept) <= 3 * 4 + 2
            for life in trace.lives().values():
                assert violations(fold(life.events)) == []
    lives = trace.lives()
    assert lives["engine0"].last_step == 2  # nobody else's steps have pushed it out
    last = [event for event in trace.events if event.stream == "engine1"]
    assert max(split_lives(last)) == 3
    states = server.log.lines("engine1", 1, 2**62)
    assert fold(decode_event(line) for line in states) == fold(split_lives(last)[3])


def test_ring_of_a_busy_engine_drops_the_front_ends_words_and_keeps_how_it_stands(
    tmp_path: Path,
) -> None:
    short, whole = TwoEngines(tmp_path / "short.jsonl", steps=4), TwoEngines(tmp_path / "all.jsonl")
    for server in (short, whole):
        server.run()
        for i in range(6):
            server.ask(f"more-{i}", [i, 1, 2], engine=0, max_tokens=3)
            server.step(0, 3)
    kept, told = (read_trace(tmp_path / name).events for name in ("short.jsonl", "all.jsonl"))
    assert sum(e.stream == "api" for e in kept) < sum(e.stream == "api" for e in told) / 2
    assert front.fold(kept) == front.fold(told)
    sources = {e.data.src for e in told if e.stream == "api" and e.kind == "run.source"}
    snapshot = next(e for e in kept if e.stream == "api")
    assert snapshot.kind == "run.snapshot" and {s.src for s in snapshot.data.sources} <= sources


def test_arrays_of_one_life_are_not_those_of_the_next() -> None:
    store = ArtifactStore()
    for epoch in (1, 2):
        store.put("engine1", epoch, 5, StepTensors([f"r{epoch}"], [], []))
    assert store.of_stream("engine1")[5].requests == ["r2"]
    assert store.of_stream("engine1", 1)[5].requests == ["r1"]
    store.forget_before("engine1", 2, 1)
    assert store.of_stream("engine1", 1) == {} and 5 in store.of_stream("engine1", 2)


def test_front_end_knows_its_engines_and_where_each_request_went(tmp_path: Path) -> None:
    events = read_trace(write_two_engines(tmp_path / "two.jsonl")).events
    died = next(i for i, event in enumerate(events) if event.kind == "engine.dead")
    then = front.fold(events[: died + 1])
    (death,) = then.deaths
    assert then.engines["1"].state == "dead" and "signal 9" in death["message"]
    assert (death["engine"], death["epoch"], death["retried"], death["failed"]) == (1, 1, 1, 1)
    now = front.fold(events)
    assert {n: (e.state, e.epoch) for n, e in now.engines.items()} == {
        "0": ("ready", 1),
        "1": ("ready", 2),
    }
    assert now.routes["cmpl-d"].engine == 0 and now.routes["cmpl-d"].tried == [1]
    assert now.routes["cmpl-c"].why == "cached_prefix"
    assert front.from_json(msgspec.to_builtins(now)) == now


def test_front_end_forgets_old_routes_and_not_its_engines() -> None:
    server = TwoEngines()
    server.start(0)
    begun = front.fold(server.trace().events)
    for i in range(front.ROUTES_KEPT + 3):
        server.api.emit(
            RoutePick, None, request_id=f"q{i}", engine=0, policy="round_robin",
            why=RouteWhy.ROUND_ROBIN, candidates=[],
        )  # fmt: skip
    server.api.flush()
    now = front.fold(server.trace().events)
    assert next(iter(now.routes)) == "q3" and len(now.routes) == front.ROUTES_KEPT
    assert now.engines == begun.engines
