"""InprocClient: the core on its own thread, behind the gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from minivllm.config import make_config
from minivllm.core.interfaces import Shortage
from minivllm.core.kv_cache_manager import KVCacheManager
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.engine.messages import EngineCoreOutput
from minivllm.errors import DuplicateRequestError, EngineDeadError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.trace.events import Event, Reason
from minivllm.trace.fold import fold
from minivllm.trace.gate import Gate
from minivllm.trace.recorder import Recorder
from tests.core.builders import SMALL, message, recorder
from tests.helpers import events_of

PATIENCE = 60.0  # seconds until a test that waits for something gives up


class Client:
    """A client with what the tests ask of it."""

    def __init__(
        self, gate: Gate | None = None, executor: type = ScriptedExecutor, **knobs: Any
    ) -> None:
        config = make_config(**SMALL, **knobs)
        self.trace: Recorder = recorder()
        self.core = EngineCore(config, executor(config), self.trace)
        self.client = InprocClient(self.core, gate)
        self.gate = self.client.gate
        self.got: list[EngineCoreOutput] = []

    def add(self, request_id: str, num_prompt: int = 4, **fields: object) -> None:
        self.client.add_request(message(request_id, num_prompt, **fields))

    def wait(self, *request_ids: str) -> None:
        """Take outputs until these have ended."""
        deadline = time.monotonic() + PATIENCE
        while not all(self.ended(request_id) for request_id in request_ids):
            outputs = self.client.get_output(timeout=0.5)
            if outputs is not None:
                assert outputs.has_news, "an output without content"
                self.got += outputs.outputs
            assert time.monotonic() < deadline, f"no end; got {self.got}"

    def until(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.002)

    def ended(self, request_id: str) -> str | None:
        reasons = [o.finish_reason for o in self.got if o.request_id == request_id]
        return reasons[-1] if reasons else None

    def said(self, request_id: str) -> list[int]:
        return [t for o in self.got if o.request_id == request_id for t in o.new_token_ids]

    @property
    def step(self) -> int:
        return self.core.scheduler.current_step

    def told(self, kind: str) -> list[Event]:
        return [event for event in events_of(self.trace) if event.kind == kind]


@contextmanager
def client(
    gate: Gate | None = None, executor: type = ScriptedExecutor, **knobs: Any
) -> Iterator[Client]:
    one = Client(gate, executor, **knobs)
    try:
        yield one
    finally:
        one.client.shutdown()


def test_outputs_come_step_by_step() -> None:
    with client() as c:
        c.add("a", max_tokens=3)
        c.wait("a")
        assert c.said("a") == [counting_tokens("r1", i) for i in range(3)]
        assert [len(o.new_token_ids) for o in c.got] == [1, 1, 1]


def test_no_output_is_none_after_the_timeout() -> None:
    with client() as c:
        assert c.client.get_output(timeout=0.01) is None


def test_id_of_an_open_request_is_refused_at_once() -> None:
    with client(Gate(paused=True)) as c:
        c.add("a", max_tokens=1)
        with pytest.raises(DuplicateRequestError, match="'a' is already in use"):
            c.add("a")
        c.gate.resume()
        c.wait("a")
        c.add("a", max_tokens=2)
        c.until(lambda: len(c.told("req.arrive")) == 2)


def test_paused_engine_takes_requests_in_and_runs_no_step() -> None:
    with client(Gate(paused=True)) as c:
        c.add("a", max_tokens=2)
        c.until(lambda: c.told("req.arrive"))
        assert c.step == 0 and c.gate.mode == "pause"
        c.gate.resume()
        c.wait("a")
        assert c.step == 2 and c.gate.mode == "run"


def test_gate_lets_as_many_steps_pass_as_were_asked_for() -> None:
    with client(Gate(paused=True)) as c:
        c.add("a", max_tokens=9)
        c.gate.step()
        c.until(lambda: c.step == 1)
        c.gate.step(3)
        c.until(lambda: c.step == 4)
        c.add("b", max_tokens=1)  # taken in while the gate is shut again
        c.until(lambda: len(c.told("req.arrive")) == 2)
        assert c.step == 4 and len(c.told("step.end")) == 4


def test_request_that_came_while_the_gate_held_is_in_the_step_that_follows() -> None:
    with client(Gate(paused=True)) as c:
        c.add("a", max_tokens=9)
        c.gate.step()
        c.until(lambda: c.told("step.end"))
        c.add("b", max_tokens=9)
        c.gate.step()
        c.until(lambda: len(c.told("step.end")) == 2)
        (_, second) = c.told("batch.compose")
        assert [row.req for row in second.data.rows] == ["r1", "r2"]


def test_abort_works_while_paused() -> None:
    with client(Gate(paused=True)) as c:
        c.add("a")
        c.client.abort_requests(["a", "nobody"])
        c.wait("a")
        assert c.ended("a") == "abort" and c.step == 0
        assert c.told("step.begin") == []


def test_abort_of_a_running_request_ends_it() -> None:
    with client(Gate(rate=50)) as c:
        c.add("a", max_tokens=None)
        c.until(lambda: c.step >= 2)
        c.client.abort_requests(["a"])
        c.wait("a")
        assert c.ended("a") == "abort"
        pool = c.core.kv.pool
        assert pool.num_free_blocks == pool.num_usable_blocks


def test_engine_sleeps_when_nothing_is_left_and_wakes_for_the_next() -> None:
    with client() as c:
        c.add("a", max_tokens=1)
        c.wait("a")
        c.until(lambda: any(event.step == 1 for event in c.told("run.idle")))
        c.add("b", max_tokens=1)
        c.wait("b")
        assert c.step == 2


def test_gate_changes_stand_in_the_trace() -> None:
    with client() as c:
        c.gate.rate = 100
        c.gate.pause()
        c.gate.pause()  # no change
        c.until(lambda: len(c.told("gate.change")) == 2)
        changes = [(e.data.mode, e.data.rate) for e in c.told("gate.change")]
        assert changes == [("run", 100), ("pause", 100)]


def test_reset_of_the_prefix_cache_reaches_the_core() -> None:
    with client() as c:
        c.add("a", 9, max_tokens=1)
        c.wait("a")
        c.client.reset_prefix_cache()
        c.until(lambda: c.told("kv.reset"))
        assert c.core.kv.pool.cached == {}


def test_step_that_fails_ends_its_requests_and_not_the_engine() -> None:
    class FailsOnce(ScriptedExecutor):
        failed = False

        def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
            if not self.failed:
                self.failed = True
                raise ValueError("once")
            return super().execute_model(scheduler_output)

    with client(executor=FailsOnce) as c:
        c.add("a")
        c.wait("a")
        assert c.ended("a") == "error"
        c.add("b", max_tokens=1)
        c.wait("b")
        assert c.ended("b") == "length"


@pytest.mark.parametrize("bad", [{"priority": "high"}, {"prompt_token_ids": None}])
def test_request_that_cannot_be_taken_in_ends_alone(bad: dict[str, Any]) -> None:
    with client(Gate(paused=True)) as c:
        c.add("a", max_tokens=2)
        c.client.add_request(replace(message("b", 4), **bad))
        c.add("c", max_tokens=2)
        c.gate.resume()
        c.wait("a", "b", "c")
        assert (c.ended("a"), c.ended("b"), c.ended("c")) == ("length", "error", "length")
        (error,) = [o.stop_reason for o in c.got if o.request_id == "b"]
        assert "could not be taken in (" in str(error)
        assert [event.req for event in c.told("req.arrive")] == ["r1", "r2"]
        c.add("b", max_tokens=1)  # its id is free again
        c.until(lambda: len(c.told("req.arrive")) == 3)


def test_abort_or_reset_that_fails_is_logged_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no")

    with client() as c:
        monkeypatch.setattr(c.core, "abort_request", fail)
        monkeypatch.setattr(c.core, "reset_prefix_cache", fail)
        c.client.abort_requests(["a"])
        c.client.reset_prefix_cache()
        c.add("a", max_tokens=1)
        c.wait("a")
        assert [r.getMessage() for r in caplog.records] == [
            "the engine could not apply a message"
        ] * 2


def test_shutdown_ends_the_loop_and_the_trace() -> None:
    one = Client(Gate(paused=True))
    one.add("a")
    one.client.shutdown()
    one.client.shutdown()  # a second time does nothing
    assert not one.client._thread.is_alive()
    events = events_of(one.trace)
    assert events[-1].kind == "run.end" and not one.told("run.error")


def test_shutdown_ends_each_open_request_in_the_trace_with_its_reason() -> None:
    one = Client(Gate(paused=True))
    one.add("runs", max_tokens=50)
    one.add("waits", num_prompt=30)  # SMALL's budget holds it back at first
    one.gate.step(1)
    one.until(lambda: len(one.told("step.end")) == 1)
    one.add("comes late")
    one.client.abort_requests(["runs"], Reason.SHUTDOWN)  # as AsyncLLM does
    one.client.shutdown()
    ended = [(e.req, e.data.why) for e in one.told("req.abort")]
    assert sorted(ended) == [(f"r{i}", Reason.SHUTDOWN) for i in (1, 2, 3)]
    assert [e.req for e in one.told("req.finish")] == [req for req, _ in ended]
    state = fold(events_of(one.trace))
    assert not state.running and not state.waiting and len(state.free) == len(state.blocks) - 1
    outputs = one.client.get_output(timeout=PATIENCE)
    while outputs is not None:  # whoever waits for an output gets the end
        one.got += outputs.outputs
        outputs = one.client.get_output(timeout=0.05)
    assert {one.ended(name) for name in ("runs", "waits", "comes late")} == {"abort"}


def test_after_shutdown_a_request_is_refused_rather_than_never_answered() -> None:
    one = Client()
    one.client.shutdown()
    with pytest.raises(EngineDeadError, match="was shut down"):
        one.add("a")
    (status,) = one.client.engines()
    assert (status.state, status.message) == ("dead", "the engine was shut down")


class Dies(ScriptedExecutor):
    """Breaks the loop itself: a result that makes no sense to whoever takes it."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        return ModelRunnerOutput(sampled_token_ids={}, errors=None)  # type: ignore[arg-type]


class NeverHasRoom(KVCacheManager):
    def shortage(self, *_: Any) -> Shortage:
        return Shortage(1, 0)


def test_engine_of_an_own_class_that_gets_stuck_ends_and_names_it_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with client(kv_manager_cls=NeverHasRoom) as c:
        c.add("a")
        with pytest.raises(EngineDeadError, match=r"NeverHasRoom let no token run for 1000 steps"):
            c.wait("a")
        (record,) = caplog.records
        assert not record.exc_info


def test_dead_engine_raises_and_names_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    with client(executor=Dies) as c:
        c.add("a")
        with pytest.raises(EngineDeadError) as caught:
            c.wait("a")
        cause = caught.value.__cause__
        assert cause is not None
        told = f"the engine's loop has ended by an error: {type(cause).__name__}: {cause}"
        assert str(caught.value) == told
        (record,) = caplog.records
        assert record.name == "minivllm.engine.core_loop"
        assert record.exc_info is not None and record.exc_info[1] is cause
        # And so for everybody who asks from now on.
        for _ in range(2):
            with pytest.raises(EngineDeadError):
                c.client.get_output(timeout=PATIENCE)
        with pytest.raises(EngineDeadError):
            c.add("b")
        with pytest.raises(EngineDeadError):
            c.client.abort_requests(["a"])


def test_dying_engine_tells_its_error_and_the_end_of_the_run() -> None:
    with client(executor=Dies) as c:
        c.add("a")
        c.until(lambda: c.told("run.end"))
        error, end = [e for e in events_of(c.trace) if e.kind != "run.source"][-2:]
        assert (error.kind, end.kind) == ("run.error", "run.end")
        assert error.data.error and error.data.message
