"""A trace, run again, is the same to the last event; where it is not, the first one is named."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from minivllm.core.scheduler import Scheduler
from minivllm.core.scheduler_output import (
    ModelRunnerOutput,
    ProcessorEffect,
    SampleDetail,
    SchedulerOutput,
    TokenLogprobs,
)
from minivllm.engine.engine_core import EngineCore
from minivllm.errors import ModelError, ReplayError
from minivllm.executor.scripted import ScriptedExecutor
from minivllm.replay.executors import RecordedExecutor
from minivllm.replay.model import with_model
from minivllm.replay.recording import read_recording
from minivllm.replay.verify import verify
from minivllm.trace.events import Event, RunError
from minivllm.trace.file import Trace, read_trace
from minivllm.trace.gallery import gallery
from minivllm.trace.structural import structural
from tests.conftest import RunPython
from tests.core.builders import HEADER, Engine
from tests.helpers import events_of
from tests.replay.builders import (
    changed,
    end_of,
    forked,
    of_kind,
    recording_of,
    served_run,
    tiny_pressure,
    verified,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return served_run(tmp_path_factory.mktemp("served") / "served.jsonl")


# --- what goes wrong in a served run -----------------------------------------------------------


def test_served_run_has_all_the_accidents(served: Trace) -> None:
    ends = {req: end_of(served, req)[:2] for req in ("r1", "r2", "r3", "r4", "r5", "r6", "r7")}
    assert ends == {
        "r1": ("abort", "stop_string"),
        "r2": ("abort", "stop_string"),
        "r3": ("error", None),
        "r4": ("abort", "client"),
        "r5": ("length", None),
        "r6": ("error", None),
        "r7": ("length", None),
    }
    assert of_kind(served, "run.error") and of_kind(served, "kv.reset")
    assert of_kind(served, "run.end") and any(e.stream == "api" for e in served.events)


def test_aborts_stop_strings_errors_and_a_reset_verify(served: Trace) -> None:
    verdict = verified(served)
    assert verdict.num_events == len(structural(served.events))
    assert verdict.notes == []


def test_other_text_is_named_too(served: Trace) -> None:
    altered = changed(served, "req.token", text="?")
    difference = verify(recording_of(altered)).difference
    assert difference is not None and difference.recorded is not None
    assert difference.recorded.data.text == "?"
    assert difference.source is not None and "Scheduler._append_token" in difference.source


# --- the first difference ------------------------------------------------------------------------


def test_other_decision_is_named_with_both_sides_in_words_and_its_place() -> None:
    altered = changed(tiny_pressure(), "sched.grant", n=9)
    verdict = verify(recording_of(altered))
    assert verdict.difference is not None
    recorded, now, fields, told_by = verdict.difference.lines()
    assert recorded == "recorded: r1 runs tokens 1–9 (chunk)"
    assert now == "now:      r1 runs tokens 1–12 (chunk)"
    assert fields == "fields:   n: 9 | 12"
    assert "minivllm/core/scheduler.py:" in told_by and "_grant" in told_by


def test_missing_decision_is_named_with_what_comes_in_its_place() -> None:
    trace = tiny_pressure()
    trace = Trace(trace.header, [e for e in trace.events if e.kind != "kv.evict"])
    difference = verify(recording_of(trace)).difference
    assert difference is not None and difference.step == 6
    assert "block 6 is evicted for r4" in difference.lines()[1]


def test_event_that_does_not_come_again_is_named_with_where_it_came_from() -> None:
    trace = tiny_pressure()
    verdict = verify(recording_of(Trace(trace.header, [*trace.events, trace.events[-1]])))
    assert verdict.difference is not None and verdict.difference.step == 17
    recorded, now, told_by = verdict.difference.lines()
    assert (recorded, now) == ("recorded: the step ends", "now:      nothing more in this step")
    assert "EngineCore.step" in told_by


def test_defect_that_came_since_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recording_of(tiny_pressure())

    def broken(*_: object) -> None:
        raise RuntimeError("no victim")

    monkeypatch.setattr(Scheduler, "_preempt", broken)
    difference = verify(recorded).difference
    assert difference is not None and difference.step == 8 and difference.now is None
    assert "now:      the engine fails with RuntimeError: no victim" in difference.lines()


def test_other_token_is_told_as_a_token() -> None:
    """What ``recompute`` reports when the model says something else."""
    trace = tiny_pressure()
    sample = next(e for e in of_kind(trace, "sample") if e.step == 4)
    events = [_say_42(e) if e is sample else e for e in trace.events]
    recording = recording_of(trace)
    recording.steps = recording_of(Trace(trace.header, events)).steps
    honest = recording_of(trace)
    verdict = verify(recording, lambda config: RecordedExecutor(config, honest))
    assert verdict.difference is not None and verdict.difference.token is not None
    assert verdict.difference.token.startswith("output token 3 of r1 was '?' (42) and is now ")


def _say_42(event: Event) -> Event:
    first, *rest = event.data.rows
    rows = [msgspec.structs.replace(first, token_id=42, text="?"), *rest]
    return msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, rows=rows))


# --- what is not whole ---------------------------------------------------------------------------


def test_killed_in_a_step_verifies_up_to_the_last_whole_one() -> None:
    trace = tiny_pressure()
    torn = [e for e in trace.events if e.step < 9 or (e.step == 9 and e.phase != "update")]
    verdict = verified(Trace(trace.header, torn))
    assert verdict.recording.last_step == 8
    assert "step 9 was begun and not ended" in verdict.notes[0]
    assert "r1, r3 and r4 have no end" in verdict.notes[1]


def test_killed_between_steps_says_who_was_open() -> None:
    trace = tiny_pressure()
    verdict = verified(Trace(trace.header, [e for e in trace.events if e.step < 9]))
    assert verdict.recording.torn_step is None
    assert verdict.notes == [
        "the recording ends before its requests do: r1, r3 and r4 have no end (3 requests)"
    ]


def test_inputs_after_the_last_step_verify() -> None:
    trace = tiny_pressure()
    events = [e for e in trace.events if e.step < 9 or (e.step == 9 and e.phase == "input")]
    assert any(e.kind == "req.arrive" and e.step == 9 for e in events)
    assert verified(Trace(trace.header, events)).recording.last_step == 8


def test_engine_that_died_verifies_up_to_its_death() -> None:
    trace = tiny_pressure()
    whole = [e for e in trace.events if e.step < 9]
    death = RunError(error="MemoryError", message="")
    died = msgspec.structs.replace(whole[-1], kind="run.error", data=death)
    assert verified(Trace(trace.header, [*whole, died])).recording.last_step == 8


def test_cut_at_the_front_says_that_it_cannot_be_verified() -> None:
    trace = tiny_pressure()
    ring = Trace(trace.header, [e for e in trace.events if e.step >= 5], "ring.jsonl")
    with pytest.raises(ReplayError, match=r"ring\.jsonl cannot .*beginning was cut .*in step 5"):
        recording_of(ring)


def test_ring_says_that_it_cannot_be_verified() -> None:
    with pytest.raises(
        ReplayError, match=r"beginning was cut .*in step 11.*Record without a limit"
    ):
        recording_of(tiny_pressure(retention=5))


def test_redacted_says_that_it_cannot_be_verified() -> None:
    with pytest.raises(ReplayError, match="it was redacted, so what was said is not in it"):
        recording_of(tiny_pressure(redact=True))


def test_trace_without_an_engine_says_so() -> None:
    trace = tiny_pressure()
    with pytest.raises(ReplayError, match="no engine's events"):
        read_recording(Trace(trace.header, [], "empty.jsonl"), "engine0")


def test_parameters_that_were_altered_are_the_traces_fault() -> None:
    trace = changed(tiny_pressure(), "req.arrive", params={"temperature": "hot"})
    with pytest.raises(ReplayError, match=r"r1 arrives with parameters .*\$\.temperature"):
        recording_of(trace)


def test_kind_of_a_later_version_is_noted_and_not_compared() -> None:
    trace = tiny_pressure()
    at = next(i for i, event in enumerate(trace.events) if event.kind == "sched.skip")
    dream = msgspec.structs.replace(trace.events[at], kind="x.dream", data={"of": ["r1"]})
    header = msgspec.structs.replace(trace.header, schema="minivllm.trace/1.7")
    verdict = verified(Trace(header, [*trace.events[:at], dream, *trace.events[at:]]))
    assert verdict.num_events == len(structural(trace.events))
    assert verdict.notes == [
        "not compared, as this version does not know it: x.dream (the trace is minivllm.trace/1.7)"
    ]


def test_input_of_a_later_version_is_an_answer() -> None:
    trace = changed(tiny_pressure(), "core.input", op="add")
    events = [
        msgspec.structs.replace(e, data=msgspec.structs.replace(e.data, op="teleport"))
        if e.kind == "core.input" and e.req == "r2"
        else e
        for e in trace.events
        if not (e.kind == "req.arrive" and e.req == "r2")
    ]
    difference = verify(recording_of(Trace(trace.header, events))).difference
    assert difference is not None and difference.step == 2
    assert difference.failure is not None and "of a later version" in difference.failure


# --- more than a token ---------------------------------------------------------------------------


class Detailed(ScriptedExecutor):
    """Tells of each token what trace level ``sampling`` does."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        result = super().execute_model(scheduler_output)
        for req, (token_id,) in result.sampled_token_ids.items():
            result.logprobs[req] = [TokenLogprobs(token_id, -0.25, 1)]
            masked = ProcessorEffect("bad_words", True, 1, [7])
            detail = SampleDetail([(token_id, -0.25), (7, -1.5)], [(token_id, 1.0)], [masked])
            result.details[req] = [detail]
        return result


def test_what_the_sampler_did_verifies_and_goes_into_a_fork() -> None:
    engine = Engine(executor=Detailed)
    engine.add("a", 6, max_tokens=4, logit_bias={7: 1.5})
    engine.add("b", 8, max_tokens=4)
    trace = Trace(HEADER, events_of(engine.run().trace))
    rows = [row for event in of_kind(trace, "sample") for row in event.data.rows]
    assert rows[0].before[1].token_id == 7 and rows[0].processors[0].name == "bad_words"
    verified(trace)
    made = forked(trace, at_step=2, max_num_seqs=1)
    assert [row for event in of_kind(made, "sample") for row in event.data.rows] == rows


# --- several engines -----------------------------------------------------------------------------


def two_engines() -> Trace:
    first, second = tiny_pressure(), tiny_pressure(num_kv_blocks=24)
    moved = [msgspec.structs.replace(e, stream="engine1") for e in second.events]
    mixed = [e for pair in zip(first.events, moved, strict=False) for e in pair]
    tail = [*first.events[len(moved) :], *moved[len(first.events) :]]
    return Trace(first.header, mixed + tail, "two.jsonl")


def test_each_engine_is_verified_by_itself() -> None:
    trace = two_engines()
    assert trace.engines == ["engine0", "engine1"]
    verdicts = [verify(read_recording(trace, stream)) for stream in trace.engines]
    assert [v.difference for v in verdicts] == [None, None]
    assert [v.recording.last_step for v in verdicts] == [17, 13]


def test_each_life_of_an_engine_is_verified_by_itself() -> None:
    first, second = tiny_pressure(), tiny_pressure(num_kv_blocks=24)
    trace = Trace(first.header, [*first.events, *second.events])
    lives = trace.lives()
    assert list(lives) == ["engine0", "engine0, life 2"]
    assert [verified(life).recording.last_step for life in lives.values()] == [17, 13]


# --- the same bytes in another process -----------------------------------------------------------

DIGEST = """
import hashlib
from minivllm.scenario import load_scenario, start
from minivllm.trace.file import decode_event
from minivllm.trace.structural import structural
run = start(load_scenario("tiny-pressure"), enable_prefix_caching=True).run()
lines = run.recorder.log.lines("engine0", 1, run.recorder.seq)
print(hashlib.sha256(b"\\n".join(structural(map(decode_event, lines)))).hexdigest())
"""


def test_two_processes_give_the_same_bytes_whatever_the_hash_seed(
    python_without: RunPython,
) -> None:
    digests = set()
    for seed in ("1", "4711"):
        run = python_without(DIGEST, env={"PYTHONHASHSEED": seed})
        assert run.returncode == 0, run.stderr
        digests.add(run.stdout.strip())
    here = hashlib.sha256(b"\n".join(structural(tiny_pressure().events))).hexdigest()
    assert digests == {here}


# --- with the model ------------------------------------------------------------------------------


def test_recorded_demo_is_what_the_model_says_today(smollm2: object) -> None:
    recording = recording_of(read_trace(gallery()["tiny-pressure"]))
    executor, text = with_model(recording, None)
    verdict = verify(recording, executor, text, with_logprobs=False)
    assert verdict.difference is None, verdict.difference.lines()


def test_given_tokens_cannot_be_recomputed() -> None:
    with pytest.raises(ReplayError, match="nothing to recompute"):
        with_model(recording_of(tiny_pressure()), None)


def test_model_that_is_nowhere_is_named_with_what_to_do() -> None:
    trace = tiny_pressure()
    header = msgspec.structs.replace(trace.header, fidelity="live", model="gone-7b")
    with pytest.raises(ModelError, match=r"gone-7b.*say with --model where it is"):
        with_model(recording_of(Trace(header, trace.events)), None)


def test_failure_behind_the_last_event_of_a_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recording_of(tiny_pressure())

    whole = EngineCore.step

    def broken(core: EngineCore) -> None:
        whole(core)
        raise OSError("too late")

    monkeypatch.setattr(EngineCore, "step", broken)
    difference = verify(recorded).difference
    assert difference is not None and difference.step == 1 and difference.recorded is None
    assert difference.lines()[1] == "now:      the engine fails with OSError: too late"
