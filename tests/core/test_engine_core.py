"""EngineCore: inputs between steps, failures within them, and the events of both."""

from __future__ import annotations

import pytest

from minivllm.core.scheduler_output import ModelRunnerOutput, SchedulerOutput, TokenLogprobs
from minivllm.engine.engine_core import EngineCore
from minivllm.errors import ConfigError, DuplicateRequestError
from minivllm.executor.scripted import ScriptedExecutor, counting_tokens
from minivllm.trace.events import Reason
from tests.core.builders import Engine, message, tokens
from tests.helpers import engine_view


class FailingExecutor(ScriptedExecutor):
    """``raises``: before anything has run. ``errors``: what single requests fail by."""

    raises: Exception | None = None
    errors: dict[str, str] = {}

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        result = super().execute_model(scheduler_output)
        errors, self.errors = self.errors, {}
        for req_id, sentence in errors.items():
            result.sampled_token_ids.pop(req_id, None)
            result.errors[req_id] = sentence
        return result


def failing_engine(**knobs: object) -> tuple[Engine, FailingExecutor]:
    engine = Engine(executor=FailingExecutor, **knobs)
    assert isinstance(engine.executor, FailingExecutor)
    return engine, engine.executor


def test_a_request_is_run_to_its_end() -> None:
    engine = Engine()
    assert engine.add("a", 6, max_tokens=3) == "r1"
    engine.run()
    assert engine.said("a") == [counting_tokens("r1", i) for i in range(3)]
    assert engine.ended("a") == "length"
    engine.assert_nothing_leaked()


def test_requests_are_named_in_order_of_arrival() -> None:
    engine = Engine(policy="priority")
    assert [engine.add("z", 2, priority=9), engine.add("a", 2, priority=0)] == ["r1", "r2"]


def test_id_of_an_open_request_is_refused() -> None:
    engine = Engine()
    engine.add("a", 6)
    before = engine_view(engine.core)
    with pytest.raises(DuplicateRequestError, match="'a' is already in use"):
        engine.add("a", 3)
    assert engine_view(engine.core) == before
    engine.check()


def test_id_may_be_used_again_after_the_end() -> None:
    engine = Engine()
    engine.add("a", 6, max_tokens=1)
    engine.run()
    assert engine.add("a", 6, max_tokens=1) == "r2"


def test_id_used_again_right_after_an_abort_belongs_to_the_new_request() -> None:
    engine = Engine()
    engine.add("a", 6)
    engine.core.abort_request("a", Reason.CLIENT)
    engine.add("a", 6)
    engine.step()  # brings the first one's last output
    with pytest.raises(DuplicateRequestError):
        engine.add("a", 6)
    engine.core.abort_request("a", Reason.CLIENT)
    engine.take()
    engine.assert_nothing_leaked()


def test_unknown_abort_is_ignored_without_a_trace() -> None:
    engine = Engine()
    engine.add("a", 6)
    num_events = engine.trace.seq
    engine.core.abort_request("nobody", Reason.CLIENT)
    assert engine.trace.seq == num_events and engine.take() == []


def test_abort_while_waiting() -> None:
    engine = Engine(max_num_seqs=1)
    engine.add("a", 6, max_tokens=2)
    engine.add("b", 6, max_tokens=2)
    engine.step()
    engine.core.abort_request("b", Reason.CLIENT)
    (output,) = engine.take()
    assert (output.request_id, output.finish_reason, output.new_token_ids) == ("b", "abort", [])
    engine.run()
    assert engine.said("a") == [counting_tokens("r1", i) for i in range(2)]
    engine.assert_nothing_leaked()


def test_abort_before_any_step() -> None:
    engine = Engine()
    engine.add("a", 6)
    engine.core.abort_request("a", Reason.CLIENT)
    assert [o.finish_reason for o in engine.take()] == ["abort"]
    engine.assert_nothing_leaked()


def test_abort_in_the_middle_of_a_prefill() -> None:
    engine = Engine(max_num_batched_tokens=4)
    engine.add("a", 10)
    engine.step()
    engine.core.abort_request("a", Reason.CLIENT)
    engine.take()
    engine.assert_nothing_leaked()
    engine.add("b", 10, max_tokens=1)
    engine.run()
    hits = [e.data.hit for e in engine.events("req.admit")]
    assert hits == [0, 4], "what was computed before the abort is good"


def test_abort_of_a_request_just_preempted() -> None:
    engine = Engine(num_kv_blocks=4)
    engine.add("a", tokens(4), max_tokens=6)
    engine.add("b", tokens(8, 500), max_tokens=6)
    engine.step()
    engine.step()
    assert engine_view(engine.core)["waiting"] == ["r2"]
    engine.core.abort_request("b", Reason.STOP_STRING)
    (output,) = engine.take()
    assert output.finish_reason == "abort"
    engine.run()
    assert len(engine.said("a")) == 6
    engine.assert_nothing_leaked()


def test_abort_of_a_finished_request_is_ignored() -> None:
    engine = Engine()
    engine.add("a", 6, max_tokens=1)
    engine.run()
    engine.core.abort_request("a", Reason.CLIENT)
    assert engine.take() == [] and engine.events("req.abort") == []


def test_abort_tells_why() -> None:
    engine = Engine()
    engine.add("a", 6)
    engine.core.abort_request("a", Reason.STOP_STRING)
    (abort,), (finish,) = engine.events("req.abort"), engine.events("req.finish")
    assert abort.data.why == finish.data.why == Reason.STOP_STRING
    assert abort.phase == finish.phase == "input" and abort.step == 1


def test_inputs_stand_in_the_step_that_follows() -> None:
    engine = Engine()
    engine.add("a", 6)
    engine.step()
    engine.add("b", 6)
    assert [e.step for e in engine.events("req.arrive")] == [1, 2]
    assert [(e.step, e.data.op) for e in engine.events("core.input")] == [(1, "add"), (2, "add")]
    assert [r.arrived_step for r in engine.state().requests.values()] == [1, 2]


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (0, "the prompt is empty"),
        (64, "the prompt has 64 tokens; max_model_len is 64"),
        (37, "the request needs 10 KV blocks to start; the whole pool has 9"),
    ],
)
def test_prompt_that_can_never_run_ends_at_once(prompt: int, sentence: str) -> None:
    engine = Engine(num_kv_blocks=10)
    engine.add("good", 4, max_tokens=1)
    engine.add("bad", prompt)
    (output,) = engine.take()
    assert (output.finish_reason, output.stop_reason) == ("error", sentence)
    engine.run()
    assert engine.ended("good") == "length"
    engine.assert_nothing_leaked()


def test_prompt_that_just_fits_runs() -> None:
    engine = Engine(num_kv_blocks=10)
    engine.add("a", 36, max_tokens=1)
    engine.run()
    assert engine.ended("a") == "length" and len(engine.said("a")) == 1


def test_max_tokens_none_is_what_the_context_leaves() -> None:
    engine = Engine(max_model_len=20)
    engine.add("a", 6, max_tokens=None)
    engine.add("b", 6, max_tokens=99)
    engine.run()
    assert len(engine.said("a")) == len(engine.said("b")) == 14
    assert engine.ended("a") == engine.ended("b") == "length"


def test_step_that_fails_ends_those_in_it_and_nobody_else() -> None:
    engine, executor = failing_engine(max_num_seqs=2)
    for name in "abc":
        engine.add(name, tokens(9), max_tokens=2)
    engine.step()
    executor.raises = ValueError("the device is gone")
    outputs = engine.step()
    assert {o.request_id: o.finish_reason for o in outputs} == {"a": "error", "b": "error"}
    assert outputs[0].stop_reason == "the step that ran it failed (ValueError)"
    (error,) = engine.events("run.error")
    assert (error.data.error, error.data.message) == ("ValueError", "the device is gone")
    engine.run()
    assert engine.ended("c") == "length" and len(engine.said("c")) == 2
    engine.assert_nothing_leaked()


def test_step_that_failed_leaves_no_hashes_of_what_did_not_run() -> None:
    engine, executor = failing_engine()
    executor.raises = ValueError("no memory")
    engine.add("a", tokens(12), max_tokens=1)
    engine.step()
    engine.add("b", tokens(12), max_tokens=1)
    engine.run()
    assert [e.data.hit for e in engine.events("req.admit")] == [0, 0]


def test_ends_that_a_failed_step_swallowed_are_told_to_the_worker_again() -> None:
    engine, executor = failing_engine()
    engine.add("a", 4, max_tokens=1)
    engine.add("b", 4, max_tokens=9)
    engine.step()  # a ends; the worker is to hear of it in the next step
    executor.raises = ValueError("before it looked")
    engine.step()
    engine.add("c", 4, max_tokens=1)
    engine.step()
    assert list(executor._rows) == ["r3"]


def test_request_that_fails_alone_ends_alone() -> None:
    engine, executor = failing_engine()
    engine.add("a", 4, max_tokens=3)
    engine.add("b", 4, max_tokens=3)
    executor.errors = {"r1": "its logits are not numbers"}
    engine.run()
    assert (engine.ended("a"), engine.ended("b")) == ("error", "length")
    assert engine.said("a") == [] and len(engine.said("b")) == 3
    (error,) = engine.events("req.error")
    assert (error.req, error.data.message) == ("r1", "its logits are not numbers")
    assert engine.events("run.error") == []
    engine.assert_nothing_leaked()


def test_reset_of_the_prefix_cache_refuses_while_somebody_runs() -> None:
    engine = Engine()
    engine.add("a", tokens(9), max_tokens=2)
    engine.step()
    assert engine.core.reset_prefix_cache() is False
    engine.run()
    assert engine.core.reset_prefix_cache() is True
    engine.check()
    engine.add("b", tokens(9), max_tokens=1)
    engine.run()
    assert [e.data.hit for e in engine.events("req.admit")] == [0, 0]
    assert [e.data.cached_blocks for e in engine.events("kv.reset")] == [2]


def test_step_without_requests_runs_nothing() -> None:
    engine = Engine()
    assert engine.step() == [] and not engine.core.has_requests()


def test_sampled_tokens_are_told_with_their_logprobs() -> None:
    class WithLogprobs(ScriptedExecutor):
        def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
            result = super().execute_model(scheduler_output)
            for req_id, (token_id,) in result.sampled_token_ids.items():
                result.logprobs[req_id] = [TokenLogprobs(token_id, -0.5, 2, [(9, -0.1)])]
            return result

    engine = Engine(executor=WithLogprobs)
    engine.add("a", 4, max_tokens=1)
    (output,) = engine.step()
    assert [(row.logprob, row.rank) for row in output.new_logprobs] == [(-0.5, 2)]
    (row,) = engine.events("sample")[0].data.rows
    assert (row.req, row.logprob, row.rank) == ("r1", -0.5, 2)


def test_output_says_how_much_of_the_prompt_was_cached() -> None:
    engine = Engine()
    engine.add("a", tokens(9), max_tokens=1)
    engine.add("b", tokens(9), max_tokens=1)
    assert {o.request_id: o.num_cached_tokens for o in engine.step()} == {"a": 0, "b": 8}


def test_run_starts_with_its_configuration() -> None:
    engine = Engine(watermark=0.25)
    (config,) = engine.events("run.config")
    assert config.data.watermark == 0.25 and config.step == 0
    assert engine.core.facts()["num_kv_blocks"] == 17


def test_budget_below_the_context_is_refused_while_chunking_is_off() -> None:
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens: got 32; .*\(64\)"):
        Engine(enable_chunked_prefill=False, max_num_batched_tokens=32)


def test_engine_runs_without_a_tracer() -> None:
    traced = Engine()
    core = EngineCore(traced.core.config, ScriptedExecutor(traced.core.config))
    core.add_request(message("a", 6, max_tokens=3))
    said = []
    while core.has_requests():
        said += core.step().outputs[0].new_token_ids
    assert said == [counting_tokens("r1", i) for i in range(3)]


# --- knobs between two steps ---------------------------------------------------------------------


def test_knobs_change_from_the_next_step_on_and_are_told() -> None:
    engine = Engine(max_num_seqs=1)
    engine.add("a", 6, max_tokens=3)
    engine.add("b", 6, max_tokens=3)
    engine.step()
    engine.core.set_knobs(max_num_seqs=4, watermark=0.1)
    engine.step()
    told = [(e.step, e.data.name, e.data.value) for e in engine.events("run.knob")]
    assert told == [(2, "max_num_seqs", 4), (2, "watermark", 0.1)]
    assert [e.data.max_num_seqs for e in engine.events("step.begin")] == [1, 4]
    assert engine_view(engine.core)["running"] == ["r1", "r2"]


def test_nobody_is_sent_back_when_fewer_may_run_and_nobody_is_let_in_either() -> None:
    engine = Engine()
    for name in "abc":
        engine.add(name, 6, max_tokens=5)
    engine.step()
    engine.core.set_knobs(max_num_seqs=1)
    engine.add("d", 6, max_tokens=5)
    engine.run()  # which checks the invariants after every step
    assert engine.events("sched.victim") == []
    assert [e.step for e in engine.events("req.admit")] == [1, 1, 1, 6]


def test_new_policy_lines_up_those_who_wait_by_its_own_order() -> None:
    engine = Engine(max_num_seqs=1)
    for priority in (0, 3, 1, 2):
        engine.add(f"p{priority}", 6, max_tokens=3, priority=priority)
    engine.step()
    engine.core.set_knobs(policy="priority")
    engine.check()
    assert engine_view(engine.core)["waiting"] == ["r3", "r4", "r2"]
    engine.core.set_knobs(policy="fcfs")
    engine.check()
    assert engine_view(engine.core)["waiting"] == ["r2", "r3", "r4"]
    engine.core.abort_request("p1", Reason.CLIENT)
    engine.check()
    assert engine_view(engine.core)["waiting"] == ["r2", "r4"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_kv_blocks": 30}, r"num_kv_blocks: got 30; .*the rest can change at the start only"),
        ({"max_num_seqs": 0}, "max_num_seqs: got 0"),
        ({"max_num_seqs": 2, "enable_chunked_prefill": False, "max_num_batched_tokens": 8}, "64"),
    ],
)
def test_bad_knob_changes_nothing(knobs: dict[str, int], message: str) -> None:
    engine = Engine()
    before = engine.core.config
    with pytest.raises(ConfigError, match=message):
        engine.core.set_knobs(**knobs)
    assert engine.core.config is before and engine.core.scheduler.config is before.scheduler
    assert engine.events("run.knob") == [] and engine.events("core.input") == []
