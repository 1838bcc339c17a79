"""Which steps are captured: all at level ``tensors``, else those that were armed."""

from __future__ import annotations

from typing import Any

import pytest

from minivllm.config import make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine.async_llm import AsyncLLM
from minivllm.engine.engine_core import EngineCore
from minivllm.errors import ConfigError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.events import Reason
from minivllm.trace.gate import Gate
from minivllm.trace.structural import structural
from minivllm.trace.tracer import OFF
from tests.core.builders import SMALL, Engine
from tests.core.tensors import TensorExecutor
from tests.core.test_inproc_client import client
from tests.helpers import events_of
from tests.serve.fakes import FakeTokenizer


def engine(**knobs: Any) -> Engine:
    e = Engine(executor=TensorExecutor, **knobs)
    e.add("a", 6, max_tokens=5)
    return e


def captured(e: Engine) -> list[int]:
    return [event.step for event in e.events("exec.tensors")]


def reasons(e: Engine) -> list[Reason]:
    return [event.data.reason for event in e.events("trace.left_out")]


def test_every_step_is_captured_at_level_tensors() -> None:
    e = engine(level="tensors").run()
    assert captured(e) == [1, 2, 3, 4, 5]
    event = e.events("exec.tensors")[2]
    assert event.data.requests == ["r1"] and event.data.file == "step-000003.safetensors"
    assert [info.name for info in event.data.arrays] == ["seq_lens", "attention.r1"]


@pytest.mark.parametrize("level", ["structure", "sampling"])
def test_below_it_none_is(level: str) -> None:
    assert captured(engine(level=level).run()) == []


def test_an_armed_step_is_captured_and_no_other() -> None:
    e = engine()
    e.step()
    e.core.arm("next")
    e.core.arm(4)
    e.run()
    assert captured(e) == [2, 4]
    assert [event.data.armed_step for event in e.events("trace.arm")] == [None, 4]


def test_what_was_armed_can_be_called_back() -> None:
    e = engine()
    e.core.arm("next")
    e.core.arm(3)
    e.core.arm("none")
    e.core.arm(4)
    e.run()
    assert captured(e) == [4]
    assert [event.data.called_back for event in e.events("trace.arm")] == [
        False,
        False,
        True,
        False,
    ]


def test_next_is_the_next_step_that_runs_tokens() -> None:
    e = Engine(executor=TensorExecutor)
    e.core.arm()
    e.core.step()  # nobody is there
    assert captured(e) == []
    e.add("a", 6, max_tokens=3)
    e.run()
    assert captured(e) == [2]


def test_armed_step_in_which_nothing_runs_is_told_of() -> None:
    e = Engine(executor=TensorExecutor)
    e.core.arm(1)
    e.core.step()
    assert reasons(e) == [Reason.NOTHING_RAN]


def test_armed_step_that_fails_is_told_of() -> None:
    class Failing(TensorExecutor):
        def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
            raise ValueError("no luck")

    e = Engine(executor=Failing)
    e.add("a", 6, max_tokens=3)
    e.core.arm()
    e.run()
    assert captured(e) == [] and reasons(e) == [Reason.NOTHING_RAN]


def test_step_that_began_while_the_wish_was_on_its_way_is_told_of() -> None:
    e = engine()
    e.core.check_arm(1)
    e.step()
    e.core.apply_arm(1)
    e.run()
    assert captured(e) == [] and reasons(e) == [Reason.STEP_PASSED]


def test_run_without_a_model_says_once_that_there_are_no_arrays() -> None:
    e = Engine(executor=ScriptedExecutor, level="tensors")
    e.add("a", 6, max_tokens=3)
    e.run()
    assert captured(e) == [] and reasons(e) == [Reason.NO_MODEL]


def test_what_the_limit_had_no_room_for_is_named() -> None:
    class Small(TensorExecutor):
        left_out = (("attention.r1", 4000), ("k", 70))

    e = Engine(executor=Small, level="tensors", tensors_limit=2**16)
    e.add("a", 6, max_tokens=1)
    e.run()
    (event,) = e.events("trace.left_out")
    assert event.data.arrays == ["attention.r1", "k"] and event.data.reason is Reason.TENSORS_LIMIT
    assert (event.data.need, event.data.limit) == (4070, 2**16)
    assert captured(e) == [1]


def test_capture_changes_nothing_structural() -> None:
    plain, all_steps, armed = engine().run(), engine(level="tensors").run(), engine()
    armed.core.arm(3)
    armed.run()
    forms = [structural(events_of(e.trace)) for e in (plain, all_steps, armed)]
    assert captured(all_steps) and captured(armed) == [3]
    assert forms[0] == forms[1] == forms[2]


@pytest.mark.parametrize("step", [0, 2, -1, True, "last", None, 2.5])
def test_step_that_cannot_be_armed_is_refused(step: Any) -> None:
    e = engine()
    e.step()
    e.step()
    with pytest.raises(ConfigError, match="allowed: next, none, or the number of a step after 2"):
        e.core.arm(step)
    assert e.events("trace.arm") == []


def test_so_many_steps_may_be_armed_and_no_more() -> None:
    e = engine()
    for step in range(1, 65):
        e.core.arm(step)
    with pytest.raises(ConfigError, match="at most 64 steps"):
        e.core.arm(65)


def test_run_that_is_not_traced_cannot_be_armed() -> None:
    config = make_config(**SMALL)
    core = EngineCore(config, TensorExecutor(config), OFF)
    with pytest.raises(ConfigError, match="traced"):
        core.arm()


def test_redacted_run_cannot_be_armed_or_have_the_level() -> None:
    with pytest.raises(ConfigError, match="without redact"):
        Engine(executor=TensorExecutor, redact=True).core.arm()
    with pytest.raises(ConfigError, match="what was said"):
        make_config(redact=True, level="tensors")


def test_run_whose_artifacts_have_ended_cannot_be_armed() -> None:
    e = engine()
    e.trace.log.artifacts.is_open = False
    with pytest.raises(ConfigError, match="limit, or the disk, is full"):
        e.core.arm()


def test_client_arms_from_any_thread_at_the_next_boundary() -> None:
    with client(Gate(paused=True), TensorExecutor) as c:
        c.add("a", max_tokens=6)
        c.gate.step(2)
        c.until(lambda: len(c.told("step.end")) == 2)
        c.client.arm()
        c.client.arm(5)
        with pytest.raises(ConfigError, match="after 2"):
            c.client.arm(2)
        c.gate.resume()
        c.wait("a")
        c.until(lambda: len(c.told("step.end")) == 6)
        assert [event.step for event in c.told("exec.tensors")] == [3, 5]
        assert c.core.trace.log.artifacts.read("engine0", 5).requests == ["r1"]  # type: ignore[attr-defined]


def test_async_llm_arms_the_engine_behind_it() -> None:
    with client(Gate(paused=True), TensorExecutor) as c:
        llm = AsyncLLM.from_parts(c.client, FakeTokenizer())
        try:
            c.add("a", max_tokens=3)
            llm.arm()
            llm.arm(3)
            with pytest.raises(ConfigError):
                llm.arm(0)
            c.gate.resume()
            c.until(lambda: len(c.told("step.end")) == 3)
            assert [event.step for event in c.told("exec.tensors")] == [1, 3]
        finally:
            llm.close()
