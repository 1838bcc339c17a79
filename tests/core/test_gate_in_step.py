"""The gate in the middle of a step: phase by phase, event by event, until something happens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from minivllm.config import make_config
from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput
from minivllm.engine import engine_core
from minivllm.engine.engine_core import EngineCore
from minivllm.engine.inproc_client import InprocClient
from minivllm.errors import ConfigError, EngineDeadError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.trace.events import Event
from minivllm.trace.file import decode_event
from minivllm.trace.gate import Gate, Held
from minivllm.trace.structural import structural
from tests.core.builders import SMALL, Engine, message
from tests.core.test_inproc_client import PATIENCE, Client, client
from tests.helpers import events_of


def held(c: Client) -> Held:
    where = c.gate.wait_held(PATIENCE)
    assert where is not None, "the engine is not held"
    return where


def visible(c: Client) -> list[Event]:
    """What a viewer has been given so far; nothing is flushed for it."""
    log = c.trace.log
    return [decode_event(line) for line in log.lines("engine0", 1, 2**62)]


def paused_with(c: Client, *requests: str, **fields: object) -> None:
    """Requests that wait behind a gate which holds before the first step."""
    for request_id in requests:
        c.add(request_id, **{"max_tokens": 3, **fields})
    c.until(lambda: len(c.told("req.arrive")) == len(requests))
    assert held(c) == Held("step")


def test_phase_by_phase_through_a_step() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        places = []
        for _ in range(4):
            c.gate.next_phase()
            places.append((held(c).at, held(c).phase, len(c.told("step.end"))))
        assert places == [
            ("phase", "execute", 0),
            ("phase", "update", 0),
            ("step", "", 1),
            ("phase", "execute", 1),
        ]
        assert c.gate.mode == "pause"


def test_what_was_told_so_far_is_visible_while_held() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        c.gate.next_phase()
        held(c)
        kinds = [event.kind for event in visible(c)]
        assert "sched.ledger" in kinds and "exec.forward" not in kinds


def test_event_by_event_through_a_whole_step() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        seen: list[str] = []
        while not seen or seen[-1] != "step.end":
            c.gate.next_event()
            where = held(c)
            assert where.at == "event" and where.event is not None
            shown = [e for e in visible(c) if e.kind != "run.source"]
            assert shown[-1].seq == where.event.seq, "a viewer sees what it is held at, no more"
            seen.append(where.event.kind)
        told = [e.kind for e in events_of(c.trace) if e.step == 1 and e.phase != "input"]
        assert seen == [kind for kind in told if kind != "run.source"]


def test_several_phases_and_events_at_once() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        c.gate.next_phase(2)
        assert held(c).phase == "update"
        c.gate.next_event(2)
        first = held(c).event
        assert first is not None and first.kind == "req.first_token"
        c.gate.next_phase(3)  # the end of this step, then two of the next one
        assert held(c) == Held("phase", "update") and len(c.told("step.end")) == 1


def test_step_finishes_the_one_in_which_it_is_held() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a", max_tokens=9)
        c.gate.next_event(3)
        held(c)
        c.gate.step()
        assert held(c) == Held("step") and c.step == 1
        c.gate.next_phase()
        held(c)
        c.gate.step(3)
        assert held(c) == Held("step") and c.step == 4
        c.gate.step(2)
        assert held(c) == Held("step") and c.step == 6


def test_resume_lets_a_held_engine_run_on() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        c.gate.next_event(4)
        held(c)
        c.gate.resume()
        c.wait("a")
        assert c.gate.held is None or c.gate.mode == "run"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("finish", "req.finish"),
        ("finish r2", "req.finish"),
        ("req.first_token", "req.first_token"),
        ("batch", "batch.compose"),
        ("r2", "kv.miss"),
        ("step 2", "step.begin"),
        ("nothing_waits", "sched.ledger"),
        ("preempt or finish r1", "req.finish"),
    ],
)
def test_until_runs_to_the_event_that_is_named(words: str, kind: str | None) -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a", "b")
        if kind is None:
            c.gate.until("not_cached")
            kind = "kv.miss"
        else:
            c.gate.until(words)
        where = held(c)
        assert (where.event is not None and where.event.kind == kind) or words == "r2"
        assert c.gate.mode == "pause"
        if words.endswith("r2"):
            assert where.event is not None and where.event.req == "r2"
        if words == "step 2":
            assert c.step == 1, "step 2 has begun and has not been scheduled"


def test_held_it_says_how_much_was_told_by_then() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        for verb in (c.gate.step, c.gate.next_phase, c.gate.next_event):
            verb()
            assert held(c).seq == visible(c)[-1].seq == c.gate.state().held_seq


def test_the_engines_own_code_can_ask_to_be_held() -> None:
    with client() as c:
        asked = []

        def ask(phase: str) -> None:
            if phase == "execute" and not asked:
                asked.append(phase)
                c.gate.hold_here(then=lambda: asked.append("seen"))

        c.core.at_phase = ask
        c.add("a", max_tokens=3)
        where = held(c)
        assert (where.at, where.phase, where.seq) == ("code", "schedule", visible(c)[-1].seq)
        assert asked == ["execute", "seen"] and c.gate.is_steered
        c.gate.resume()
        c.wait("a")
        assert not c.gate.is_steered


def test_until_a_source_line_is_a_breakpoint() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        c.gate.step()
        assert held(c) == Held("step")
        sources = [e.data for e in events_of(c.trace) if e.kind == "run.source"]
        grant = next(s for s in sources if s.function.endswith("_grant"))
        c.gate.until(f"line scheduler.py:{grant.line}")
        where = held(c)
        assert where.event is not None
        assert (where.event.kind, where.event.step) == ("sched.grant", 2)


def test_listeners_hear_that_until_has_paused() -> None:
    with client(Gate(paused=True)) as c:
        heard: list[str] = []
        c.gate.on_change(lambda mode, rate: heard.append(mode))
        paused_with(c, "a")
        c.gate.until("finish")
        held(c)
        assert heard == ["run", "pause"]


def test_abort_and_new_request_are_applied_at_the_next_boundary() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a", max_tokens=9)
        c.gate.next_phase()
        held(c)
        c.client.abort_requests(["a"])
        c.add("b", max_tokens=1)
        assert [e.kind for e in visible(c) if e.kind == "core.input"] == ["core.input"]
        c.gate.step()
        c.wait("a")
        c.until(lambda: len(c.told("core.input")) == 3)
        assert c.ended("a") == "abort" and c.step == 1
        inputs = [(e.step, e.data.op) for e in c.told("core.input")]
        assert inputs == [(1, "add"), (2, "abort"), (2, "add")]


@pytest.mark.parametrize("hold", [Gate.next_phase, Gate.next_event])
def test_shutdown_frees_a_held_engine(hold: Callable[[Gate], None]) -> None:
    c = Client(Gate(paused=True))
    paused_with(c, "a", max_tokens=9)
    hold(c.gate)
    held(c)
    c.client.shutdown()  # returns: the step was finished, and the loop has ended
    kinds = [e.kind for e in events_of(c.trace) if e.kind != "run.source"]
    after = kinds[kinds.index("step.end") + 1 :]
    assert after[:2] == ["core.input", "req.abort"] and after[-2:] == ["req.finish", "run.end"]


def test_engine_that_dies_is_not_held_over_its_death() -> None:
    with client(Gate(paused=True)) as c:
        paused_with(c, "a")
        c.gate.until("run.error")
        broken = RuntimeError("the scheduler broke")

        def schedule() -> SchedulerOutput:
            raise broken

        c.core.scheduler.schedule = schedule  # type: ignore[method-assign]
        with pytest.raises(EngineDeadError, match="the scheduler broke"):
            c.wait("a")


def test_holding_changes_when_and_never_what() -> None:
    runs: list[list[bytes]] = []
    for stepwise in (False, True):
        with client(Gate(paused=True)) as c:
            paused_with(c, "a", "b", "d", max_tokens=5)
            if stepwise:
                while not c.told("req.finish"):
                    c.gate.next_event()
                    held(c)
            c.gate.resume()
            c.wait("a", "b", "d")
            c.until(lambda c=c: c.told("run.idle"))  # type: ignore[misc]
            runs.append(structural(events_of(c.trace)))
    assert runs[0] == runs[1]


def test_times_of_a_step_leave_out_what_the_gate_took_between_phases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(step=1000)  # each look at it takes a microsecond
    held_ns: list[int] = []

    def now() -> int:
        return next(clock) + sum(held_ns)

    monkeypatch.setattr(engine_core, "time", SimpleNamespace(perf_counter_ns=now))
    engine = Engine()
    engine.core.at_phase = lambda phase: held_ns.append(10**12)
    engine.add("a", 4)
    engine.step()
    times = engine.events("step.end")[0].data
    assert len(held_ns) == 2
    assert max(times.schedule_ns, times.execute_ns, times.update_ns) < 10**5


def test_event_costs_nothing_more_while_nobody_asks() -> None:
    with client(Gate(paused=True)) as c:
        assert c.trace.on_event is None
        paused_with(c, "a")
        c.gate.next_event()
        held(c)
        assert c.trace.on_event is None, "reached: nobody asks any more"
        c.gate.until("run.end")
        assert c.trace.on_event is not None
        c.gate.pause()
        assert c.trace.on_event is None


def test_without_a_trace_there_are_phases_and_no_events() -> None:
    config = make_config(**SMALL)
    gate = Gate(paused=True)
    engine = InprocClient(EngineCore(config, ScriptedExecutor(config)), gate)
    try:
        engine.add_request(message("a", 4, max_tokens=2))
        assert gate.wait_held(PATIENCE) == Held("step")
        gate.next_phase()
        assert gate.wait_held(PATIENCE) == Held("phase", "execute")
        for ask in (gate.next_event, lambda: gate.until("finish")):
            with pytest.raises(ConfigError, match="no event is told without a trace"):
                ask()
    finally:
        engine.shutdown()


class SlowExecutor(ScriptedExecutor):
    """Executes only after it was let."""

    let = threading.Event()
    entered = threading.Event()

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        self.entered.set()
        assert self.let.wait(PATIENCE)
        return super().execute_model(scheduler_output)


def test_verb_that_comes_while_the_engine_runs_is_not_lost() -> None:
    SlowExecutor.let.clear()
    SlowExecutor.entered.clear()
    with client(Gate(), SlowExecutor) as c:
        c.add("a", max_tokens=9)
        assert SlowExecutor.entered.wait(PATIENCE)
        c.gate.next_phase()
        SlowExecutor.let.set()
        assert held(c) == Held("phase", "update") and c.step == 1
